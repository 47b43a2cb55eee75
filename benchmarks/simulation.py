"""Windows of the monitor and canaries of the rollout, simulated: shares in per cent, as JSON.

Runs in a project's environment: `python simulation.py PACKAGE`.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np  # ty: ignore[import-not-found]
import pandas as pd  # ty: ignore[import-not-found]

PACKAGE = sys.argv[1]
contract = import_module(f"{PACKAGE}.contract")
events = import_module(f"{PACKAGE}.contract.events")
tables = import_module(f"{PACKAGE}.contract.tables")
analysis = import_module(f"{PACKAGE}.deployment.analysis")
rollout = import_module(f"{PACKAGE}.deployment.settings")
drift = import_module(f"{PACKAGE}.monitoring.drift")
params = import_module(f"{PACKAGE}.params")
distributions = import_module(f"{PACKAGE}.stats.distributions")

NUMBERS, CATEGORIES, LABELS = 9, 6, ("a", "b", "c", "d")
SHARES = np.array([0.4, 0.3, 0.2, 0.1])
TRAINING_ROWS, SIZES = 14_000, (50, 500, 5_000)
WINDOWS, EQUAL_WINDOWS, CANARIES = 200, 1_000, 400
WINDOWS_PER_MODEL = 10
CONTRACT = contract.Contract(
    "regression",
    "id",
    "y",
    (
        contract.Column("id", "text"),
        contract.Column("y", "number"),
        *(contract.Column(f"n{index}", "number") for index in range(NUMBERS)),
        *(contract.Column(f"c{index}", "category", categories=LABELS) for index in range(CATEGORIES)),
    ),
)
COLUMNS = distributions.model_columns(CONTRACT)
NUMBER, CATEGORY = events.feature_column("n0"), events.feature_column("c0")
Change = Callable[[np.random.Generator, pd.DataFrame], pd.DataFrame]


def no_change(_: np.random.Generator, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows as in training."""
    return rows


def shifted(size: float) -> Change:
    """One number is higher by so many standard deviations."""
    return lambda _, rows: rows.assign(**{NUMBER: rows[NUMBER] + size})


def more_of_one_category(random: np.random.Generator, rows: pd.DataFrame) -> pd.DataFrame:
    """One category's share is 10 points higher, at the cost of all others."""
    becomes_a = random.random(len(rows)) < 0.1 / (1 - SHARES[0])
    return rows.assign(**{CATEGORY: rows[CATEGORY].where(~becomes_a, 0)})


def stuck(_: np.random.Generator, rows: pd.DataFrame) -> pd.DataFrame:
    """One number has the same value in all rows."""
    return rows.assign(**{NUMBER: 0.1})


def missing(random: np.random.Generator, rows: pd.DataFrame) -> pd.DataFrame:
    """A fifth of one number's values is missing."""
    return rows.assign(**{NUMBER: rows[NUMBER].where(random.random(len(rows)) >= 0.2)})


CHANGES: dict[str, Change] = {
    "no change": no_change,
    "a number 0.5 deviations higher": shifted(0.5),
    "a number 1 deviation higher": shifted(1),
    "a category's share 10 points up": more_of_one_category,
    "a stuck number": stuck,
    "20 % missing": missing,
}


def draw_rows(random: np.random.Generator, n_rows: int) -> pd.DataFrame:
    """Independent rows: nine normal numbers, six categories, one prediction."""
    columns: dict[str, np.ndarray] = {}
    for name, n_categories in COLUMNS.items():
        drawn = random.choice(4, n_rows, p=SHARES) if n_categories else random.normal(size=n_rows)
        columns[name] = drawn.astype(np.float32)
    return pd.DataFrame(columns)


def simulate_windows(change: Change, n_rows: int, n_windows: int) -> dict[str, float]:
    """Share of the windows in which a column has a status."""
    random, counts = np.random.default_rng(0), Counter[str]()
    reference: dict[str, Any] = {}
    for index in range(n_windows):
        if index % WINDOWS_PER_MODEL == 0:
            reference = compute_reference(random)
        statuses = check_window(change(random, draw_rows(random, n_rows)), reference)
        counts.update(statuses | ({"any"} if statuses & {"alert", "warn"} else set()))
    return {status: 100 * counts[status] / n_windows for status in ("any", "alert", "too few")}


def compute_reference(random: np.random.Generator) -> dict[str, Any]:
    """What a bundle knows of its training rows."""
    with tables.connect() as con:
        con.register("training", draw_rows(random, TRAINING_ROWS))
        con.sql("CREATE TABLE inputs AS FROM training")
        return distributions.compute_distributions(con, "inputs", COLUMNS)


def check_window(rows: pd.DataFrame, reference: dict[str, Any]) -> set[str]:
    """The statuses of a window's columns."""
    with tables.connect() as con:
        con.register("drawn", rows)
        con.sql("CREATE TABLE events AS FROM drawn")
        return {
            part.status for part in drift.check_drift(con, "events", reference, CONTRACT, params.Monitor())
        }


def draw_canary(
    random: np.random.Generator, unit: str, n_heavy: int, n_light: int, share: float, shift: float
) -> object:
    """A canary whose clients differ in score, errors and number of requests; its scores are shifted."""
    sizes = np.r_[np.full(n_heavy, 300), random.integers(1, 4, n_light)]
    n_clients = len(sizes)
    level, is_broken = random.normal(0.5, 0.2, n_clients), random.random(n_clients) < 0.05
    is_canary, client = random.random(n_clients) < share, np.arange(n_clients).repeat(sizes)
    request = np.arange(len(client))
    score = level[client] + random.normal(0, 0.05, len(client)) + shift * is_canary[client]
    index = [client if unit == "client" else request, request, request * 0]
    rows = pd.DataFrame(
        {"status": np.where(is_broken[client], 422, 200), "seconds": 0.001, events.output_column("y"): score},
        pd.MultiIndex.from_arrays(index, names=["unit", "id", "row"]),
    )
    roles = [rows[is_canary[client]], rows[~is_canary[client]]]
    predicted = [part[part.status == 200] for part in roles]
    gate, settings, statuses = params.Gate(), rollout.Rollout(min_requests=100), [p.status for p in roles]
    return analysis.Responses(CONTRACT, gate, settings, False, *statuses, *predicted)


def simulate_canaries(n_heavy: int, n_light: int, share: float, shift: float) -> dict[str, dict[str, float]]:
    """Share of the canaries with each verdict, by unit."""
    shares = {}
    for unit in ("client", "request"):
        random = np.random.default_rng(0)
        canaries = (draw_canary(random, unit, n_heavy, n_light, share, shift) for _ in range(CANARIES))
        verdicts = Counter(analysis.analyse(canary)[0] for canary in canaries)
        shares[unit] = {verdict: 100 * verdicts[verdict] / CANARIES for verdict in ("block", "keep")}
    return shares


def main() -> None:
    """Simulate all cases."""
    windows = {
        f"{n_rows:,} rows, {name}": simulate_windows(
            change, n_rows, EQUAL_WINDOWS if change is no_change else WINDOWS
        )
        for n_rows in SIZES
        for name, change in CHANGES.items()
    }
    clients = ((8, 100, 0.5), (40, 100, 0.5), (40, 100, 0.1), (0, 1_000, 0.5))
    canaries = {
        f"{name}, canary of {share:.0%}, {heavy} heavy and {light:,} light clients": simulate_canaries(
            heavy, light, share, shift
        )
        for name, shift in (("A/A", 0), ("scores 2 deviations higher", 0.4))
        for heavy, light, share in clients
    }
    print(json.dumps({"drift": windows, "rollout": canaries}))


if __name__ == "__main__":
    main()
