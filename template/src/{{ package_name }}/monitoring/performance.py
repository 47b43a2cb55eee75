"""Performance: how good the answers were, for rows whose truth has come.

Truth is a CSV or Parquet file, or a folder of them, with the columns `id` (of the request), the target, and
`row` where requests had several rows. The first label of a row counts: by the column `received_at` that the
server writes (`told_at` in 0.2), or by its place in the files. A KPI is accused when all of its bootstrap
interval misses its threshold: falsely in at most (1 - `monitor.confidence_level`) / 2 of all windows.
"""

from functools import partial
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..contract import Column, Contract
from ..contract.events import LABEL_TIME, LABEL_TIME_0_2, feature_column, feature_columns, output_columns
from ..contract.expectations import Kpi
from ..contract.tables import Connection, encode_column, explain_errors, fetch_one, literal, quote, text_list
from ..core.errors import ProjectError
from ..model.bundle import Model
from ..params import Params
from ..stats.inference import Estimate, Statistic, bootstrap
from ..stats.metrics import METRICS
from .drift import Verdict

MOST_ROWS = 10_000  # more are drawn by chance: intervals would hardly be narrower, but take long


class Labels(NamedTuple):
    """What came of joining labels and events."""

    rows: int  # of events that have a label
    conflicts: int  # of them, those that were labelled again, and otherwise
    invalid: int  # labels of these events that the contract forbids
    ambiguous: int  # labels whose id belongs to several requests

    @property
    def problems(self) -> dict[str, str]:
        """What is wrong with labels, by kind."""
        texts = {
            "conflicts": f"{self.conflicts:,} rows have a later label that differs: the first counts",
            "invalid": f"{self.invalid:,} labels are not what the contract allows, and left out",
            "ambiguous": f"{self.ambiguous:,} labels are left out: different requests have the same id",
        }
        return {kind: text for kind, text in texts.items() if getattr(self, kind)}


NO_LABELS = Labels(0, 0, 0, 0)


class Measured(msgspec.Struct):
    """A KPI over rows with truth: all of them, or a segment's."""

    metric: str
    rows: int
    found: Estimate
    segment: str = ""
    verdict: Verdict = "ok"
    said: str = ""


def join_truth(con: Connection, files: list[str], model: Model) -> Labels:
    """Make the table `judged` of this model's events whose truth is in `files`: one row for each label.

    Truth comes late: it is looked up in all events that are kept, not only in those since the last run.

    Raises:
        ProjectError: truth cannot be read, or lacks a column.
    """
    read_labels(con, files, model.contract.column(model.contract.target))
    ours = f"model_version = {literal(model.metadata.version)}"
    con.sql(f"CREATE TABLE judged AS FROM kept JOIN labels USING (id, row) WHERE {ours}")
    ambiguous = drop_ambiguous(con, model.contract)
    conflicts, invalid = fetch_one(
        con, "SELECT count(*) FILTER (conflict), coalesce(sum(invalid), 0)::BIGINT FROM judged"
    )
    con.sql("DELETE FROM judged WHERE truth IS NULL")
    return Labels(fetch_one(con, "SELECT count(*) FROM judged")[0], conflicts, invalid, ambiguous)


def read_labels(con: Connection, files: list[str], target: Column) -> None:
    """Make the table `labels`: for each id and row the first label, and what else was told of it."""
    reader = "read_csv({}, all_varchar=true, union_by_name=true)"
    if files[0].endswith(".parquet"):
        reader = "read_parquet({}, union_by_name=true)"
    with explain_errors("monitor: truth cannot be read"):
        con.sql(f"CREATE VIEW told AS FROM {reader.format(text_list(tuple(files)))}")
        columns = con.view("told").columns
    if absent := [name for name in ("id", target.name) if name not in columns]:
        raise ProjectError(f"monitor: truth lacks {', '.join(absent)}; it has {', '.join(columns)}")
    row = "row::INTEGER" if "row" in columns else "0"
    times = [name for name in (LABEL_TIME, LABEL_TIME_0_2) if name in columns]
    order = f"coalesce({', '.join(times)})" if times else "NULL"
    with explain_errors("monitor: truth cannot be read"):
        con.sql(f"""
            CREATE TABLE labels AS
            SELECT id, row, arg_min(truth, (time, place)) AS truth, min(truth) < max(truth) AS conflict,
                count(*) FILTER (truth IS NULL) AS invalid
            FROM (
                SELECT id::VARCHAR AS id, {row} AS row, ({encode_column(target)[0]})::DOUBLE AS truth,
                    {order} AS time, row_number() OVER () AS place
                FROM told WHERE {quote(target.name)} IS NOT NULL
            ) GROUP BY id, row
        """)


def drop_ambiguous(con: Connection, contract: Contract) -> int:
    """Leave one event for each label in `judged`, and none where it is unknown which is meant.

    A request that was sent again is the same event. Different requests of one id (of a nightly job, say) are
    ambiguous: a label could be that of any. Gives the number of labels that are left out.
    """
    names = map(quote, feature_columns(contract) + output_columns(contract))
    content = f"hash({', '.join(names)})"
    con.sql(f"""
        CREATE TABLE ambiguous AS SELECT DISTINCT id FROM
        (SELECT id FROM judged GROUP BY id, row HAVING min({content}) < max({content}))
    """)
    left_out = fetch_one(con, "SELECT count(DISTINCT (id, row)) FROM judged SEMI JOIN ambiguous USING (id)")[
        0
    ]
    con.sql("DELETE FROM judged WHERE id IN (FROM ambiguous)")
    con.sql("DELETE FROM judged WHERE rowid NOT IN (SELECT min(rowid) FROM judged GROUP BY id, row)")
    return left_out


def measure_truth(
    con: Connection, contract: Contract, kpis: tuple[Kpi, ...], settings: Params
) -> list[Measured]:
    """The KPIs over `judged`: on the whole, where they are held against their thresholds, and by segment.

    Segments are those that are features, for events hold nothing else.
    """
    columns = [c for c in contract.features if c.segment and c.encoded_names == (c.name,)]
    names = output_columns(contract) + [feature_column(column.name) for column in columns]
    drawn = f"SELECT * FROM judged ORDER BY hash(id, row) LIMIT {MOST_ROWS}"
    arrays = con.sql(
        f"SELECT truth, {', '.join(map(quote, names))} FROM ({drawn}) ORDER BY time, id, row"
    ).fetchnumpy()
    truth = arrays["truth"] if contract.task == "regression" else arrays["truth"].astype(int)
    outputs = np.column_stack([arrays[name] for name in output_columns(contract)])
    parts = {"": np.arange(len(truth))}
    for column in columns:
        parts |= segment_rows(column, arrays[feature_column(column.name)], settings.gate.min_segment_rows)
    return [found for kpi in kpis for found in measure(kpi, truth, outputs, parts, contract, settings)]


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
    estimates = bootstrap(
        statistics, len(truth), settings.gate.n_bootstrap, monitor.confidence_level, monitor.design_effect
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
