"""Performance: how good the answers were, for rows whose truth has come.

Truth is a CSV or Parquet file, or a folder of them, with the columns `id` (of the request), the target, and
`row` where requests had several rows. With a column `told_at`, as the server writes it, something may be
told again: the newest counts. A KPI is accused when all of its bootstrap interval misses its threshold:
falsely in at most (1 - `monitor.confidence`) / 2 of all windows.
"""

from functools import partial

import msgspec
import numpy as np
from numpy.typing import NDArray

from .. import problem
from ..contract import Column, Contract
from ..contract.tables import Connection, encoded, explained, literal, one, quote, texts
from ..params import Params
from ..serving.model import Model
from ..stage import ProjectError
from ..validation.expectations import Kpi
from ..validation.inference import Estimate, Statistic, estimate
from ..validation.metrics import METRICS
from .drift import Verdict

MOST_ROWS = 10_000  # more are drawn by chance: intervals would hardly be narrower, but take long


class Measured(msgspec.Struct):
    """A KPI over rows with truth: all of them, or a segment's."""

    metric: str
    rows: int
    found: Estimate
    segment: str = ""
    verdict: Verdict = "ok"
    said: str = ""


def join_truth(con: Connection, files: list[str], model: Model) -> int:
    """Make the table `judged` of this model's events whose truth is in `files`; give the number of its rows.

    Truth comes late: it is looked up in all events that are kept, not only in those since the last run.

    Raises:
        ProjectError: truth lacks a column, says something twice, or breaks the contract.
    """
    target = model.contract.column(model.contract.target)
    reader = "read_csv({}, all_varchar=true, union_by_name=true)"
    if files[0].endswith(".parquet"):
        reader = "read_parquet({}, union_by_name=true)"
    with explained("monitor: truth cannot be read"):
        con.sql(f"CREATE VIEW told AS FROM {reader.format(texts(tuple(files)))}")
        columns = con.view("told").columns
    if absent := [name for name in ("id", target.name) if name not in columns]:
        raise ProjectError(f"monitor: truth lacks {', '.join(absent)}; it has {', '.join(columns)}")
    row = "row::INTEGER" if "row" in columns else "0"
    newest = "QUALIFY row_number() OVER (PARTITION BY id, row ORDER BY told_at DESC) = 1"
    with explained("monitor: truth cannot be read"):
        con.sql(
            f"CREATE TABLE truth AS SELECT id::VARCHAR AS id, {row} AS row, "
            f"({encoded(target)[0]})::DOUBLE AS truth FROM told WHERE {quote(target.name)} IS NOT NULL "
            + (newest if "told_at" in columns else "")
        )
    wrong, twice = one(con, "SELECT count(*) - count(truth), count(*) - count(DISTINCT (id, row)) FROM truth")
    if wrong or twice:
        raise ProjectError(
            f"monitor: of the truth, {wrong} rows are not {target.rule} in {target.name}, and {twice} repeat "
            "an id and row"
        )
    ours = f"model_version = {literal(model.metadata.version)}"
    con.sql(f"CREATE TABLE judged AS FROM kept JOIN truth USING (id, row) WHERE {ours}")
    return one(con, "SELECT count(*) FROM judged")[0]


def measure_truth(con: Connection, contract: Contract, settings: Params) -> list[Measured]:
    """The KPIs over `judged`: on the whole, where they are held against their thresholds, and by segment.

    Segments are those that are features, for events hold nothing else.
    """
    columns = [c for c in contract.features if c.segment and c.encoded_names == (c.name,)]
    names = [f"output:{label}" for label in contract.labels] + [
        f"feature:{column.name}" for column in columns
    ]
    drawn = f"SELECT * FROM judged ORDER BY hash(id, row) LIMIT {MOST_ROWS}"
    arrays = con.sql(
        f"SELECT truth, {', '.join(map(quote, names))} FROM ({drawn}) ORDER BY time, id, row"
    ).fetchnumpy()
    truth = arrays["truth"] if contract.task == "regression" else arrays["truth"].astype(int)
    outputs = np.column_stack([arrays[f"output:{label}"] for label in contract.labels])
    parts = {"": np.arange(len(truth))}
    for column in columns:
        parts |= segment_rows(column, arrays[f"feature:{column.name}"], settings.gate.min_segment_rows)
    return [
        found for kpi in problem.KPIS for found in measure(kpi, truth, outputs, parts, contract, settings)
    ]


def segment_rows(column: Column, values: NDArray, least: int) -> dict[str, NDArray]:
    """Positions of the rows of each segment that has enough of them."""
    found = {}
    for value in np.unique(values):
        rows = np.flatnonzero(np.isnan(values) if np.isnan(value) else values == value)
        named = column.categories[int(value)] if column.categories else f"{value:g}"
        found["missing" if np.isnan(value) else named] = rows
    return {f"{column.name} = {name}": rows for name, rows in found.items() if len(rows) >= least}


def measure(
    kpi: Kpi,
    truth: NDArray,
    outputs: NDArray,
    parts: dict[str, NDArray],
    contract: Contract,
    settings: Params,
) -> list[Measured]:
    """One KPI for each part of the rows; what those leave undefined (an AUC of one class) is left out."""
    metric, monitor = METRICS[contract.task][kpi.metric], settings.monitor

    def of(rows: NDArray, counts: NDArray) -> NDArray:
        return metric(truth[rows], outputs[rows], counts[:, rows])

    statistics: dict[str, Statistic] = {name: partial(of, rows) for name, rows in parts.items()}
    estimates = estimate(
        statistics, len(truth), settings.gate.resamples, monitor.confidence, monitor.rows_alike
    )
    found = [
        Measured(kpi.metric, len(parts[name]), value, name)
        for name, value in estimates.items()
        if np.isfinite(value.value)
    ]
    for whole in found:
        if not whole.segment:
            judge(whole, kpi)
    return found


def judge(whole: Measured, kpi: Kpi) -> None:
    """Accuse a KPI that is missed beyond doubt."""
    best = whole.found.high if kpi.sign > 0 else whole.found.low
    whole.verdict = "alert" if kpi.sign * (best - kpi.threshold) < 0 else "ok"
    whole.said = (
        f"is {whole.found} over {whole.rows:,} rows with truth; must be {kpi.direction} {kpi.threshold:g}"
    )
