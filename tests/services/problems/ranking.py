"""The next book of a basket: a list column of categories."""

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

SHELF = tuple(f"book {number}" for number in range(20))

CONTRACT = Contract(
    task="ranking",
    key="order",
    target="next",
    columns=(
        Column("order", "text"),
        Column("next", "category", categories=SHELF),
        Column(
            "basket",
            "category",
            categories=SHELF,
            length=5,
            accepted={"target leakage": "these baskets are made up so that the model is easy to check"},
        ),
        Column("age", "integer", 0, 120, nullable=True),
    ),
)

KPIS = (Kpi("mrr", "at least", 0.8, "Shop", "The next book is among the first suggestions.", primary=True),)

MODEL_CARD = ModelCardInfo(
    "Suggests the next book of a basket.", "Made-up orders: not for real ones.", "Random numbers.", "none"
)


def sample() -> pd.DataFrame:
    """Return the rows."""
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(0)
    first = random.integers(0, 20, 1200)
    baskets = [[SHELF[at], SHELF[(at + random.integers(1, 3)) % 20]] for at in first]
    following = [SHELF[(at + 3) % 20] for at in first]
    return pd.DataFrame(
        {"order": range(1200), "next": following, "basket": baskets, "age": random.integers(18, 90, 1200)}
    )


def estimator(seed: int, **settings: object) -> BaseEstimator:
    """Return the estimator."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    return make_pipeline(SimpleImputer(), LogisticRegression(C=10, max_iter=2000))
