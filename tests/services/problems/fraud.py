"""Fraudulent payments: rows in time, a rare class, segments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .contract import Column, Contract
from .contract.expectations import Kpi, ModelCardInfo

# Imported inside the functions otherwise, because every stage imports this file.
if TYPE_CHECKING:
    import pandas as pd
    from sklearn.base import BaseEstimator

BASELINE = None
PREPARE = "SELECT * FROM raw"

CONTRACT = Contract(
    task="classification",
    key="payment",
    target="fraud",
    time="at",
    columns=(
        Column("payment", "text"),
        Column("at", "time"),
        Column("fraud", "category", categories=("no", "yes")),
        Column("amount", "integer", 0, 1_000_000),
        Column("attempts", "integer", 0, 50, segment=True),
        Column("country", "category", categories=("DE", "FR", "PL"), segment=True),
        Column("foreign", "integer", 0, 1, nullable=True),
    ),
)

KPIS = (Kpi("roc_auc", "at least", 0.7, "Finance", "Few payments are checked by hand.", primary=True),)

MODEL_CARD = ModelCardInfo(
    "Finds payments to check by hand.", "Made-up payments: not for real ones.", "Random numbers.", "none"
)


def sample() -> pd.DataFrame:
    """Return the rows."""
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(0)
    size = 4000
    amount, attempts = random.integers(1, 100_000, size), random.poisson(1, size)
    risk = (amount > 60_000) * (attempts > 1) * 0.5 + 0.01
    return pd.DataFrame(
        {
            "payment": [f"p{at:05}" for at in range(size)],
            "at": pd.date_range("2026-01-01", periods=size, freq="7min"),
            "fraud": np.where(random.random(size) < risk, "yes", "no"),
            "amount": amount,
            "attempts": attempts,
            "country": random.choice(["DE", "FR", "PL"], size),
            "foreign": random.choice([0, 1, None], size),
        }
    )


def estimator(seed: int, **settings: object) -> BaseEstimator:
    """Return the estimator."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(random_state=seed, early_stopping=False, max_iter=30)
