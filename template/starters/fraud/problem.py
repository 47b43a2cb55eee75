"""The problem: which card payments are fraud? This file is yours; updates never change it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .contract import Column, Contract
from .contract.expectations import BehaviouralTest, Cost, Kpi, ModelCardInfo

# Every stage imports this file: import heavy libraries inside the functions that use them.
if TYPE_CHECKING:
    import optuna
    import pandas as pd
    from sklearn.base import BaseEstimator

CHANNELS = ("chip", "contactless", "online")
CATEGORIES = ("groceries", "fuel", "restaurants", "clothing", "electronics", "gift cards")

CONTRACT = Contract(
    task="classification",
    key="payment",
    target="fraud",
    time="time",
    horizon="7d",  # fraud is reported within a week
    group="card",
    decision_threshold=0.0884,  # the desk can review 1 payment in 100: make threshold RULE='selected<=0.01'
    columns=(
        Column("payment", "integer", 0, description="Number of the payment."),
        Column("fraud", "boolean", description="Reported by the cardholder within a week."),
        Column("card", "integer", 0, description="Number of the card in our system, not the one on it."),
        Column("time", "time", feature=False, description="When the payment was requested."),
        Column("hour", "number", 0, 24, description="Hour of the day, with minutes as a fraction."),
        Column("amount", "number", 0, 100_000, description="In euros."),
        Column("channel", "category", categories=CHANNELS, segment=True),
        Column("merchant_category", "category", categories=CATEGORIES, segment=True),
        Column("abroad", "boolean", description="The merchant is in another country than the cardholder."),
        Column("payments_24h", "integer", 0, description="Payments of the card in the 24 hours before."),
        Column("amount_24h", "number", 0, description="Their sum, in euros."),
    ),
)

# The 24 hours before a payment are those of its card, without the payment itself and any at the same moment.
# The table's first 24 hours have no complete past: they only serve as the past of later payments.
# Decimals, because a sum of floats depends on their order.
PREPARE = """
    WITH payments AS (
        SELECT *, TRY_CAST(time AS TIMESTAMP) AS moment, TRY_CAST(amount AS DECIMAL(12, 2)) AS euros FROM raw)
    SELECT * EXCLUDE (moment, euros), hour(moment) + minute(moment) / 60 AS hour,
        count(*) OVER past_day AS payments_24h, coalesce(sum(euros) OVER past_day, 0) AS amount_24h
    FROM payments
    WINDOW past_day AS (PARTITION BY card ORDER BY moment
        RANGE BETWEEN INTERVAL 24 HOUR PRECEDING AND INTERVAL 1 MICROSECOND PRECEDING)
    QUALIFY moment IS NULL OR moment >= (SELECT min(moment) FROM payments) + INTERVAL 24 HOUR
"""
"""SQL from the source's table `raw` to the contract's columns: rename, compute, join."""

BASELINE: str | None = None
"""A column that serves as the baseline prediction; None: the shares of the classes."""

KPIS: tuple[Kpi, ...] = (
    Kpi(
        metric="pr_auc",
        direction="at least",
        threshold=0.3,
        owner="fraud desk",
        meaning="Reading the list from the top down to any fraud, on average 3 payments in 10 are fraud.",
        primary=True,
    ),
    Kpi(
        metric="recall_in_top_1%",
        direction="at least",
        threshold=0.4,
        owner="fraud desk",
        meaning="Reviewing 1 payment in 100, the desk finds 2 frauds in 5.",
    ),
    Kpi(
        metric="log_loss",
        direction="at most",
        threshold=0.03,
        owner="fraud desk",
        meaning="The probabilities are accurate enough to weigh the amount at stake against a review.",
    ),
)
"""Limits that the model must keep; models are compared by the primary metric."""

COST = Cost(false_positive=5, true_positive=5, false_negative="amount")
"""In euros: a review costs 5, a missed fraud its amount."""

BEHAVIOURAL_TESTS: tuple[BehaviouralTest, ...] = (
    BehaviouralTest("payments_24h", 5, "increases", "Thieves pay often, before the card is blocked.", "true"),
    BehaviouralTest("abroad", 1, "increases", "Stolen cards are used abroad.", "true"),
    BehaviouralTest("channel", "chip", "decreases", "A chip asks for the PIN and cannot be copied.", "true"),
    BehaviouralTest(
        "merchant_category", "groceries", "decreases", "Groceries are not worth stealing a card for.", "true"
    ),
)

MODEL_CARD = ModelCardInfo(
    purpose="Ranks card payments, so that the fraud desk reviews the riskiest first.",
    limits="Trained on made-up payments: not for real ones. A tactic that it has not seen looks honest; "
    "of fraud with the chip, which follows no pattern here, it finds nothing.",
    data="Made-up card payments of 120 days, with two tactics of fraudsters: one fades, one grows.",
    data_licence="None needed: made up by `sample` in problem.py",
)


def sample() -> pd.DataFrame:
    """Make up the starter's data: about 195,000 payments by 4,000 cards, under 1 % of them fraud.

    Cards pay alone or several times on one trip. Thieves tap a card abroad again and again for small amounts,
    less and less as the days pass; or buy goods online that sell well, at night or abroad, more and more.
    All payments of a trip share their luck: fraud comes in series.

    Returns:
        A row per payment, in time order. `true_probability` is that of fraud for those who know the tactics:
        no model can rank better. The contract does not declare it, so no model sees it.
    """
    import numpy as np
    import pandas as pd

    random, n_days, n_cards, n_merchants, n_trips = np.random.default_rng(0), 120, 4_000, 400, 150_000
    has_series = random.random(n_trips) < 0.05
    trip = np.repeat(np.arange(n_trips), np.where(has_series, random.integers(3, 12, n_trips), 1))
    start = random.integers(n_days, size=n_trips) * 24 + random.normal(14, 4.5, n_trips) % 24
    hours = start[trip] + random.exponential(1.5, len(trip)) * has_series[trip]
    card = random.integers(n_cards, size=n_trips)[trip]
    merchant = random.integers(n_merchants, size=len(trip))
    category = random.choice(len(CATEGORIES), n_merchants, p=[0.3, 0.15, 0.2, 0.15, 0.12, 0.08])[merchant]
    usual = random.lognormal(3, 0.5, n_cards)[card] * np.array([1, 1.5, 1, 2, 4, 3])[category]
    payments = pd.DataFrame(
        {
            "card": card,
            "time": pd.Timestamp("2026-01-01") + pd.to_timedelta((hours * 3600).astype(int), unit="s"),
            "merchant": merchant,
            "merchant_category": np.array(CATEGORIES)[category],
            "channel": random.choice(CHANNELS, n_trips, p=[0.35, 0.35, 0.3])[trip],
            "abroad": (random.random(n_trips) < 0.15)[trip],
            "amount": (usual * random.lognormal(0, 0.7, len(trip))).round(2),
            "luck": random.random(n_trips)[trip],
        }
    ).sort_values(["card", "time"], ignore_index=True)
    past_day = payments.groupby("card").rolling("24h", on="time", closed="left")["amount"]
    n_before = past_day.count().fillna(0).to_numpy()
    elapsed = (payments["time"] - payments["time"].min()) / pd.Timedelta(days=n_days)
    is_small, is_night = payments["amount"] < 50, payments["time"].dt.hour.isin([23, 0, 1, 2, 3, 4, 5])
    sells_well = payments["merchant_category"].isin(["electronics", "gift cards"])
    tapping = (payments["channel"] == "contactless") / (1 + np.exp(-2 * (n_before - 4)))
    tapping *= np.where(is_small, 1, 0.05) * np.where(payments["abroad"], 0.95, 0.02)
    buying = ((payments["channel"] == "online") & sells_well) / (1 + (120 / payments["amount"]) ** 4)
    buying *= np.where(payments["abroad"] | is_night, 0.95, 0.01)
    probability = 0.0008 + (0.95 - 0.45 * elapsed) * tapping + (0.45 + 0.5 * elapsed) * buying
    payments["true_probability"] = probability.clip(upper=0.95)
    payments["fraud"] = payments.pop("luck") < payments["true_probability"]
    return payments.sort_values("time", ignore_index=True, kind="stable").rename_axis("payment").reset_index()


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
        "min_samples_leaf": trial.suggest_int("min_samples_leaf", 10, 200, log=True),
        "l2_regularization": trial.suggest_float("l2_regularization", 0.1, 30, log=True),
    }
