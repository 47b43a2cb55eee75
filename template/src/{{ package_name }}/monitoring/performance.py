"""Performance: the KPIs of predictions whose ground-truth label has arrived.

Labels are a CSV or Parquet file, or a folder of them, with the columns `id` (of the request), the target, and
`row` where requests had several rows. The first label of a row counts: by the column `received_at` that the
server writes (`told_at` in 0.2), or by its place in the files. A KPI is missed if its whole bootstrap
interval misses the threshold: a false alert in at most (1 - `monitor.confidence_level`) / 2 of all windows.
The units of the events (`monitoring.events.find_unit`) are resampled, as in the evaluation; with an explicit
`monitor.design_effect`, blocks of so many neighbouring rows.
"""

from functools import partial
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..contract import Column, Contract
from ..contract.events import LABEL_TIME, LABEL_TIME_0_2, feature_column, feature_columns, output_columns
from ..contract.expectations import Cost, Kpi
from ..contract.observations import Observations, compute_costs
from ..contract.tables import Connection, encode_column, explain_errors, fetch_one, literal, quote, text_list
from ..core.errors import ProjectError
from ..declarations import Declarations
from ..model.bundle import Model
from ..params import Params
from ..stats.inference import Estimate, Floats, bootstrap
from .drift import Status
from .events import find_unit

MAX_ROWS = 10_000  # larger samples would hardly narrow the intervals, but take long
Segments = dict[str, NDArray[np.intp]]  # positions of the rows by segment; "" for all rows


class Sample(NamedTuple):
    """A sample of the labelled rows, ordered by time.

    Attributes:
        observations: Targets, and costs if there are any.
        outputs: Shape `(n_rows, n_outputs)`.
        segments: Positions of the rows by segment.
        units: Unit of each row, numbers from 0, `(n_rows,)`; None if rows are taken to be independent.
    """

    observations: Observations
    outputs: Floats
    segments: Segments
    units: NDArray[np.intp] | None


class LabelCounts(NamedTuple):
    """Result of joining labels and events.

    Attributes:
        rows: Events that have a label.
        conflicts: Events with a later label that differs.
        invalid: Labels that violate the contract.
        ambiguous: Labels whose id belongs to several different requests.
        units: Units of the labelled rows; None if rows are taken to be independent.
    """

    rows: int = 0
    conflicts: int = 0
    invalid: int = 0
    ambiguous: int = 0
    units: int | None = None

    @property
    def warnings(self) -> dict[str, str]:
        """Problems of the labels.

        Returns:
            A message for each kind of problem that occurs, by kind.
        """
        messages = {
            "conflicts": f"{self.conflicts:,} rows have a later label that differs: the first counts",
            "invalid": f"{self.invalid:,} labels violate the contract and are left out",
            "ambiguous": f"{self.ambiguous:,} labels are left out: different requests have the same id",
        }
        return {kind: message for kind, message in messages.items() if getattr(self, kind)}


class KpiResult(msgspec.Struct):
    """A KPI over the labelled rows, or over those of a segment.

    Attributes:
        metric: Name of the metric.
        rows: Number of labelled rows, or of those that were drawn for it.
        estimate: Value and bootstrap interval.
        limit: The KPI's threshold, in words.
        segment: Such as "colour = red"; empty for all rows.
        status: `alert` if the KPI is missed; only for all rows.
    """

    metric: str
    rows: int
    estimate: Estimate
    limit: str
    segment: str = ""
    status: Status = "ok"


def join_labels(con: Connection, files: list[str], model: Model) -> LabelCounts:
    """Create the table `labelled`: the predictions of this model that have a label, one row each.

    Labels arrive late, so they are joined with all predictions, not only those since the last run.

    Args:
        con: Database with the view `predictions` (see `read_events`).
        files: CSV or Parquet files with labels.
        model: The model of the bundle.

    Returns:
        The number of labelled rows and of problems.

    Raises:
        ProjectError: The labels cannot be read or lack a column.
    """
    read_labels(con, files, model.contract.column(model.contract.target))
    condition = f"model_version = {literal(model.metadata.version)}"
    con.sql(f"CREATE TABLE labelled AS FROM predictions JOIN labels USING (id, row) WHERE {condition}")
    ambiguous = _drop_ambiguous(con, model.contract)
    counts = "count(label), count(*) FILTER (conflict), coalesce(sum(invalid), 0)::BIGINT"
    rows, conflicts, invalid = fetch_one(con, f"SELECT {counts} FROM labelled")
    con.sql("DELETE FROM labelled WHERE label IS NULL")
    unit = find_unit(con, "labelled")
    units = fetch_one(con, f"SELECT count(DISTINCT {unit}) FROM labelled")[0] if unit else None
    return LabelCounts(rows, conflicts, invalid, ambiguous, units)


def read_labels(con: Connection, files: list[str], target: Column) -> None:
    """Create the table `labels`: the first label of each id and row, and whether a later one differs.

    Args:
        con: Database without that table.
        files: CSV or Parquet files with labels.
        target: The contract's target.

    Raises:
        ProjectError: The labels cannot be read or lack a column.
    """
    reader = "read_csv({}, all_varchar=true, union_by_name=true)"
    if files[0].endswith(".parquet"):
        reader = "read_parquet({}, union_by_name=true)"
    with explain_errors("monitor: the labels cannot be read"):
        con.sql(f"CREATE VIEW label_files AS FROM {reader.format(text_list(tuple(files)))}")
        columns = con.view("label_files").columns
    if absent := [name for name in ("id", target.name) if name not in columns]:
        raise ProjectError(f"monitor: the labels lack {', '.join(absent)}; they have {', '.join(columns)}")
    # Absent in some files, or not a number: a row that cannot be told is no label of row 0.
    row = "if(row IS NULL, 0, TRY_CAST(row AS INTEGER))" if "row" in columns else "0"
    times = [name for name in (LABEL_TIME, LABEL_TIME_0_2) if name in columns]
    order = f"coalesce({', '.join(times)})" if times else "NULL"
    with explain_errors("monitor: the labels cannot be read"):
        con.sql(f"""
            CREATE TABLE labels AS
            SELECT id, row, arg_min(label, (time, place)) AS label, min(label) < max(label) AS conflict,
                count(*) FILTER (label IS NULL) AS invalid
            FROM (
                SELECT id::VARCHAR AS id, {row} AS row, ({encode_column(target)[0]})::DOUBLE AS label,
                    {order} AS time, row_number() OVER () AS place
                FROM label_files WHERE {quote(target.name)} IS NOT NULL
            ) GROUP BY id, row
        """)


def _drop_ambiguous(con: Connection, contract: Contract) -> int:
    """Keep one event per label in `labelled`; return the number of labels whose request is ambiguous.

    A request that was sent twice is one event. Different requests with the same id (of a nightly job, for
    example) are ambiguous: the label may belong to any of them.
    """
    content = f"hash({', '.join(map(quote, feature_columns(contract) + output_columns(contract)))})"
    con.sql(f"""
        CREATE TABLE ambiguous AS SELECT DISTINCT id FROM
        (SELECT id FROM labelled GROUP BY id, row HAVING min({content}) < max({content}))
    """)
    query = "SELECT count(DISTINCT (id, row)) FROM labelled SEMI JOIN ambiguous USING (id)"
    (n_labels,) = fetch_one(con, query)
    con.sql("DELETE FROM labelled WHERE id IN (FROM ambiguous)")
    con.sql("DELETE FROM labelled WHERE rowid NOT IN (SELECT min(rowid) FROM labelled GROUP BY id, row)")
    return n_labels


def missing_amounts(cost: Cost | None, contract: Contract) -> list[str]:
    """List the columns that the metric `cost` needs and events do not have.

    Args:
        cost: What decisions cost.
        contract: Contract of the model.

    Returns:
        Names of columns that are no features.
    """
    features = {column.name for column in contract.features}
    return [name for name in (cost.columns if cost else ()) if name not in features]


def evaluate_kpis(
    con: Connection, contract: Contract, problem: Declarations, settings: Params
) -> list[KpiResult]:
    """Evaluate the KPIs over the table `labelled`, and over its segments.

    Each prediction counts once: sample weights correct how the training data were drawn.

    Args:
        con: Database with the table `labelled`.
        contract: Contract of the model. Only segments that are features can be evaluated.
        problem: KPIs with their thresholds, costs and own metrics.
        settings: Confidence level, bootstrap and minimum size of a segment.

    Returns:
        The defined results; a metric can be undefined, such as the ROC AUC of one class.
    """
    cost = None if missing_amounts(problem.cost, contract) else problem.cost
    sample = _read_sample(con, contract, cost, settings.gate.min_segment_rows)
    observations, outputs, segments, units = sample
    block_size, metrics = settings.monitor.design_effect, problem.make_metrics(contract)
    cases = [(kpi, segment, rows) for kpi in problem.kpis for segment, rows in segments.items()]

    def score(kpi: Kpi, rows: NDArray[np.intp], counts: Floats) -> Floats:
        return metrics[kpi.metric](observations.take(rows), outputs[rows], counts[:, rows])

    estimates = bootstrap(
        {str(index): partial(score, kpi, rows) for index, (kpi, _, rows) in enumerate(cases)},
        len(outputs),
        settings.gate.n_bootstrap,
        settings.monitor.confidence_level,
        block_size or 1,
        None if block_size else units,
    )
    results = [
        KpiResult(
            metric=kpi.metric,
            rows=len(rows),
            estimate=estimate,
            limit=f"{kpi.direction} {kpi.threshold:g}",
            segment=segment,
            status="ok" if segment else _status(estimate, kpi),
        )
        for (kpi, segment, rows), estimate in zip(cases, estimates.values(), strict=True)
        if estimate.is_defined
    ]
    return sorted(results, key=lambda result: result.status == "ok")


def _read_sample(con: Connection, contract: Contract, cost: Cost | None, min_rows: int) -> Sample:
    """Read a sample of the table `labelled`, ordered by time."""
    columns = [c for c in contract.features if c.segment and c.encoded_names == (c.name,)]
    amounts = {name: feature_column(name) for name in (cost.columns if cost else ())}
    features = [*(feature_column(column.name) for column in columns), *amounts.values()]
    names = output_columns(contract) + list(dict.fromkeys(features))
    unit = find_unit(con, "labelled")
    sample = f"SELECT * FROM labelled ORDER BY hash(id, row) LIMIT {MAX_ROWS}"
    selected = ", ".join([*map(quote, ["label", *names]), f"{unit or 'NULL'} AS unit"])
    arrays = con.sql(f"SELECT {selected} FROM ({sample}) ORDER BY time, id, row").fetchnumpy()
    target = arrays["label"] if contract.task == "regression" else arrays["label"].astype(int)
    outputs = np.column_stack([arrays[name] for name in output_columns(contract)])
    segments = {"": np.arange(len(target))}
    for column in columns:
        segments |= _segment_rows(column, arrays[feature_column(column.name)], min_rows)
    values = {name: arrays[column] for name, column in amounts.items()}
    costs = compute_costs(cost, values, len(target)) if cost else None
    units = np.unique(arrays["unit"], return_inverse=True)[1] if unit else None
    return Sample(Observations(target, costs=costs), outputs, segments, units)


def _segment_rows(column: Column, values: Floats, min_rows: int) -> Segments:
    """Find the rows of each segment that has enough of them; NaN is a segment of its own."""
    segments = {}
    for value in np.unique(values):
        rows = np.flatnonzero(np.isnan(values) if np.isnan(value) else values == value)
        name = "missing" if np.isnan(value) else f"{value:g}"
        if column.labels and not np.isnan(value):
            name = column.labels[int(value)]
        segments[f"{column.name} = {name}"] = rows
    return {name: rows for name, rows in segments.items() if len(rows) >= min_rows}


def _status(estimate: Estimate, kpi: Kpi) -> Status:
    """Return `alert` if the whole interval misses the threshold."""
    best = estimate.high if kpi.sign > 0 else estimate.low
    return "alert" if kpi.sign * (best - kpi.threshold) < 0 else "ok"
