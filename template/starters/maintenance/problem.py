"""The problem: which machines will fail within 48 hours? This file is yours; updates never change it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .contract import Column, Contract
from .contract.expectations import BehaviouralTest, Kpi, ModelCardInfo

# Every stage imports this file: import heavy libraries inside the functions that use them.
if TYPE_CHECKING:
    import optuna
    import pandas as pd
    from sklearn.base import BaseEstimator

HORIZON = 48  # hours, within which a failure is predicted
MACHINE_TYPES = ("P100", "P200", "P300")

CONTRACT = Contract(
    task="classification",
    key=("machine", "operating_hours"),
    target="fails",
    group="machine",
    # Every second alarm is right: make threshold RULE='precision>=0.5'
    decision_threshold=0.25214,
    columns=(
        Column("machine", "text", description="Number of the machine."),
        Column(
            "operating_hours", "integer", 0, 100_000, feature=True, description="Hours since its overhaul."
        ),
        Column("fails", "category", categories=("No", "Yes"), description="Fails within 48 hours."),
        Column("machine_type", "category", categories=MACHINE_TYPES, segment=True),
        Column("vibration", "number", 0, 100, length=24, description="Of the last 24 hours, in mm/s."),
        Column("temperature", "number", -50, 250, length=24, description="Of the last 24 hours, in °C."),
        Column("current", "number", 0, 1_000, length=24, description="Of the last 24 hours, in amperes."),
        Column(
            "lead_time",
            "category",
            categories=("0-12 h", "12-24 h", "24-48 h", "no failure"),
            segment=True,
            known_at_prediction=False,
            description="How long before its failure the machine was read.",
        ),
    ),
)

# A row for each half day. Readings of the last 48 hours that a machine was watched are left out, whether it
# failed or not: of a machine that runs on, nobody knows yet whether it will fail, and failures alone would
# make them too frequent. In a file to predict, `watched_until` and `fails_at` are
# empty: each reading gets a row.
PREPARE = f"""
    WITH readings AS (
        SELECT machine, machine_type, TRY_CAST(operating_hours AS INTEGER) AS operating_hours,
            TRY_CAST(vibration AS DOUBLE) AS vibration, TRY_CAST(temperature AS DOUBLE) AS temperature,
            TRY_CAST(current AS DOUBLE) AS current,
            TRY_CAST(watched_until AS INTEGER) AS watched_until, TRY_CAST(fails_at AS INTEGER) AS fails_at
        FROM raw
    ), days AS (
        SELECT machine, machine_type, operating_hours, watched_until,
            fails_at - operating_hours AS hours_left, list(vibration) OVER day AS vibration,
            list(temperature) OVER day AS temperature, list(current) OVER day AS current
        FROM readings
        WINDOW day AS (PARTITION BY machine ORDER BY operating_hours ROWS 23 PRECEDING)
    )
    SELECT * EXCLUDE (watched_until, hours_left),
        CASE WHEN hours_left <= {HORIZON} THEN 'Yes' ELSE 'No' END AS fails,
        CASE WHEN hours_left <= 12 THEN '0-12 h' WHEN hours_left <= 24 THEN '12-24 h'
            WHEN hours_left <= {HORIZON} THEN '24-48 h' ELSE 'no failure' END AS lead_time
    FROM days
    WHERE operating_hours >= 23 AND (watched_until IS NULL
        OR operating_hours % 12 = 11 AND operating_hours < watched_until - {HORIZON})
"""
"""SQL from the source's table `raw` to the contract's columns: rename, compute, join."""

BASELINE: str | None = None
"""A column that serves as the baseline prediction; None: the shares of the classes."""

KPIS: tuple[Kpi, ...] = (
    Kpi(
        metric="recall_at_95%_specificity",
        direction="at least",
        threshold=0.6,
        owner="workshop",
        meaning="Six of ten readings before a failure raise an alarm, and at most five of a hundred others.",
        primary=True,
    ),
    Kpi(
        metric="log_loss",
        direction="at most",
        threshold=0.15,
        owner="workshop",
        meaning="The probabilities are accurate enough to weigh the cost of a repair against that of a stop.",
    ),
)
"""Limits that the model must keep; models are compared by the primary metric."""

BEHAVIOURAL_TESTS: tuple[BehaviouralTest, ...] = (
    BehaviouralTest(
        "operating_hours", 200, "increases", "Machines that have run longer are more likely to fail.", "Yes"
    ),
    BehaviouralTest(
        "vibration", 0.5, "increases", "Machines that vibrate more are more likely to fail.", "Yes"
    ),
)

MODEL_CARD = ModelCardInfo(
    purpose="Ranks machines by their probability to fail within 48 hours, so that they are serviced in time.",
    limits="Trained on made-up machines that wear out gradually. It cannot announce sudden failures.",
    data="Made up by `sample` in problem.py: hourly sensor readings of 800 machines that do not exist.",
    data_licence="none needed, since the data are made up",
)


def sample() -> pd.DataFrame:
    """Make up the starter's data: hourly readings of 800 machines, each until it fails or is watched no more.

    Wear grows with the hours of operation, at a rate of the machine's own. It shows in the sensors, beside
    the load of the day and noise, and it raises the hazard: the probability to fail within an hour. The hour
    of the failure is drawn from the hazard, so the probability to fail within 48 hours is known.

    Returns:
        A row per machine and hour. `fails_at` is missing if the machine did not fail while it was watched;
        `true_probability` is the best that a model could predict if it saw the wear itself.
    """
    import numpy as np
    import pandas as pd

    random, machines = np.random.default_rng(0), []
    for number in range(800):
        kind = random.choice(len(MACHINE_TYPES), p=(0.5, 0.3, 0.2))
        watched_until = int(random.integers(500, 1500))
        hours = np.arange(watched_until + HORIZON)
        wear = hours / random.lognormal(np.log((800, 700, 600)[kind]), 0.3)  # about 1 when it fails
        cumulative_hazard = np.cumsum(2e-5 + 0.02 * np.exp(20 * (wear - 1)))
        fails_at = np.searchsorted(cumulative_hazard, random.exponential())
        seen = hours[: min(fails_at, watched_until)]
        wear, n_seen, level = wear[seen], len(seen), random.lognormal(0, 0.1)
        load = 1 + 0.15 * np.sin(2 * np.pi * seen / 24) + random.normal(0, 0.05, n_seen)
        vibration = (2.0, 2.5, 3.0)[kind] * level * load * (1 + wear**2) * random.lognormal(0, 0.2, n_seen)
        temperature = 40 + random.normal(0, 3) + 20 * load + 10 * wear**4 + random.normal(0, 2, n_seen)
        current = (30, 40, 60)[kind] * load * (1 + 0.08 * wear**2) * random.lognormal(0, 0.03, n_seen)
        hazard_ahead = cumulative_hazard[seen + HORIZON] - cumulative_hazard[seen]
        machines.append(
            pd.DataFrame(
                {
                    "machine": f"M{number:03}",
                    "machine_type": MACHINE_TYPES[kind],
                    "operating_hours": seen,
                    "vibration": vibration,
                    "temperature": temperature,
                    "current": current,
                    "watched_until": watched_until,
                    "fails_at": pd.array([fails_at if fails_at < watched_until else None] * n_seen, "Int64"),
                    "true_probability": -np.expm1(-hazard_ahead),
                }
            )
        )
    return pd.concat(machines, ignore_index=True)


def estimator(seed: int, **settings: float) -> BaseEstimator:
    """Make the model to train.

    Args:
        seed: `train.seed` of params.yaml.
        **settings: `train.estimator` of params.yaml.

    Returns:
        An unfitted estimator. Its input is float32, of shape `(n_rows, n_features)`.
    """
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    # Linear, because the wear shows in the sum of a day's readings; a tree would look at single hours.
    encoded = make_column_transformer((OneHotEncoder(), ["machine_type"]), remainder=StandardScaler())
    return make_pipeline(encoded, LogisticRegression(random_state=seed, max_iter=1000, **settings))


def search(trial: optuna.Trial) -> dict[str, float]:
    """Define the search space of `make tune`.

    Args:
        trial: Suggests a value from each range.

    Returns:
        Settings of `estimator`.
    """
    return {"C": trial.suggest_float("C", 1e-4, 10, log=True)}
