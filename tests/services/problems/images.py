"""Handwritten digits: a list column of 64 pixels."""

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

DIGITS = tuple("0123456789")

CONTRACT = Contract(
    task="classification",
    key="scan",
    target="digit",
    columns=(
        Column("scan", "text"),
        Column("digit", "category", categories=DIGITS),
        Column("pixels", "number", 0, 16, length=64),
    ),
)

KPIS = (
    Kpi("accuracy", "at least", 0.9, "Post office", "Few letters are sorted again by hand.", primary=True),
)

MODEL_CARD = ModelCardInfo(
    "Reads a handwritten digit.", "One digit at a time, centred.", "Digits of scikit-learn.", "BSD 3"
)


def sample() -> pd.DataFrame:
    """Return the rows."""
    import pandas as pd
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    return pd.DataFrame({"scan": range(len(digits)), "digit": digits, "pixels": list(images)})


def estimator(seed: int, **settings: object) -> BaseEstimator:
    """Return the estimator."""
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(3)
