"""Monitor: checks predictions since the last run for drift, errors and missed KPIs.

    python -m <package>.monitoring.monitor [--since 7d] [--labels FILE]

Reads the events at `EVENTS` and checks those of the bundle's model: `ok`, `warn` or `alert`, with reasons. An
alert ends with exit code 1. Rows that are too few for a check are checked again by the next run.
"""

import argparse
import os
import re
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path

import msgspec
from scipy.stats import binom

from .. import declarations, params
from ..contract.events import LABELS_FOLDER, LABELS_FOLDER_0_2
from ..contract.expectations import Kpi
from ..contract.tables import Connection, connect, literal
from ..core.errors import ProjectError, cli, warn_once
from ..core.paths import BUNDLE, MONITORING_REPORT
from ..model.bundle import Model
from .drift import Drift, Reference, check_drift, group_lists
from .events import MIN_UNITS, find_files, find_unit, read_events, split_readable
from .performance import KpiResult, LabelCounts, evaluate_kpis, join_labels, missing_amounts
from .report import ADVICE, Finding, Monitoring, Traffic, write_report

SHOWN_FILES = 3  # that cannot be read, in a message
SHOWN_COLUMNS = 5  # of those that broke a rule, in a message


class _Resume(msgspec.Struct):
    """What a run reads of the last report; `go_on_from` is the name of 0.2."""

    next_since: datetime | None = None
    go_on_from: datetime | None = None


def _now() -> datetime:
    """Return the time in UTC without an offset, as in events."""
    return datetime.now(UTC).replace(tzinfo=None)


def window_start(since: str | None) -> datetime | None:
    """Find the start of the window.

    Args:
        since: Such as 7d or 12h, or a time in ISO format; None for the end of the last run.

    Returns:
        UTC without an offset; None for all events.

    Raises:
        ProjectError: `since` is neither.
    """
    if since is None:
        try:
            last = msgspec.json.decode(MONITORING_REPORT.read_bytes(), type=_Resume)
        except (FileNotFoundError, msgspec.DecodeError):  # the first run, or a broken file
            return None
        start = last.next_since or last.go_on_from
        if start and start > _now():
            warn_once(
                f"monitor: the last run ended in the future ({start:%Y-%m-%d %H:%M} UTC): a clock was ahead. "
                "All events are checked; SINCE=7d checks the newest only"
            )
            return None
        return start
    if match := re.fullmatch(r"(\d+)([dh])", since):
        return _now() - int(match[1]) * timedelta(hours=24 if match[2] == "d" else 1)
    try:
        time = datetime.fromisoformat(since)
    except ValueError:
        raise ProjectError(
            f"monitor: --since {since}: expected 7d, 12h, or a time such as 2026-01-31T14:30"
        ) from None
    return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time


def _count_traffic(con: Connection) -> list[Traffic]:
    """Count requests by model and role, most rows first; a request's latency is in its first row."""
    latency = "coalesce(quantile_cont(seconds, {}) FILTER (row = 0 AND status = 200) * 1000, 0)"
    rows = con.sql(
        "SELECT model_version, role, count(*) FILTER (row = 0), count(*) FILTER (status = 422), "
        "count(*) FILTER (status >= 500), count(*) FILTER (status = 200), min(time), max(time), "
        f"{latency.format(0.5)}, {latency.format(0.99)} FROM events GROUP BY 1, 2 ORDER BY 6 DESC"
    ).fetchall()
    return [Traffic(*row) for row in rows]


def _select_model(traffic: list[Traffic], version: str) -> list[Traffic]:
    """Return the traffic of the bundle's model; raise `ProjectError` if there is none."""
    selected = [part for part in traffic if part.model_version == version]
    if not selected:
        versions = ", ".join(sorted({part.model_version for part in traffic}))
        raise ProjectError(
            f"monitor: the events are of model {versions}, the bundle here is {version}. Check out the "
            "commit of the model in production (its production/* tag), and fetch its bundle: uv run dvc pull"
        )
    return selected


def _name_rejected_columns(con: Connection, version: str) -> str:
    """Name the first broken columns of a model's rejected requests, with counts; the most frequent first."""
    condition = f"status = 422 AND row = 0 AND model_version = {literal(version)}"
    counts = con.sql(
        "SELECT coalesce(rejected_column, 'not recorded'), count(*) AS n FROM events "
        f"WHERE {condition} GROUP BY 1 ORDER BY n DESC, 1"
    ).fetchall()
    parts = [f"{column} {count:,}" for column, count in counts[:SHOWN_COLUMNS]]
    return ", ".join(parts + ["…"] * (len(counts) > SHOWN_COLUMNS))


def _check_requests(con: Connection, traffic: list[Traffic], settings: params.Monitor) -> Iterator[Finding]:
    """Check whether significantly more requests are rejected, or fail, than allowed (binomial test)."""
    n_requests = sum(part.requests for part in traffic)
    for name, parameter in (("rejected", "max_rejected_share"), ("errors", "max_error_share")):
        count, limit = sum(getattr(part, name) for part in traffic), getattr(settings, parameter)
        if binom.sf(count - 1, n_requests, limit) < 1 - settings.confidence_level:
            value = f"{count / n_requests:.1%}"
            message = f"{count:,} of {n_requests:,} requests"
            if name == "rejected":
                columns = _name_rejected_columns(con, traffic[0].model_version)
                message += f"; by first broken column: {columns}"
            yield Finding("alert", name, "requests", message, value, f"{limit:.1%} (monitor.{parameter})")


def _check_distances(drift: list[Drift], settings: params.Monitor) -> Iterator[Finding]:
    """Report the columns that drift."""
    for name, numbers in group_lists(drift).items():
        worst = numbers[0]
        if worst.status in ("warn", "alert"):
            parameter = "max_distance" if worst.status == "alert" else "warn_distance"
            limit = f"{getattr(settings, parameter):.0%} (monitor.{parameter})"
            message = worst.message
            if worst.column:
                count = sum(number.status in ("warn", "alert") for number in numbers)
                message = f"in {count} of its {len(numbers)} numbers; most of all in {worst.name}, {message}"
            yield Finding(worst.status, "drift", name, message, f"distance {worst.distance:.0%}", limit)


def _check_kpis(
    performance: list[KpiResult],
    labels: LabelCounts,
    kpis: tuple[Kpi, ...],
    missing: list[str],
    settings: params.Monitor,
) -> Iterator[Finding]:
    """Report KPIs that are missed, and those without a value although labels arrived."""
    n_labelled = labels.rows
    for result in performance:
        if result.status != "ok":
            message = f"over {result.rows:,} labelled rows"
            if result.rows < n_labelled and not result.segment:
                message += f", drawn from {n_labelled:,}"
            yield Finding("alert", "kpi", result.metric, message, f"{result.estimate}", result.limit)
    if 0 < n_labelled < settings.min_rows:
        limit = f"{settings.min_rows:,} (monitor.min_rows)"
        yield Finding("warn", "kpi", "labels", "too few labelled rows", f"{n_labelled:,}", limit)
    elif not _has_enough_units(labels, settings):
        message = f"{n_labelled:,} labelled rows are of too few groups or clients for an interval"
        yield Finding("warn", "kpi", "labels", message, f"{labels.units:,}", f"{MIN_UNITS:,}")
    elif n_labelled:
        defined = {result.metric for result in performance if not result.segment}
        undefined = f"has no value over {n_labelled:,} labelled rows: do nearly all have the same label?"
        absent = f"cannot be measured in production: {', '.join(missing)} is no feature, so no event has it"
        for metric in dict.fromkeys(kpi.metric for kpi in kpis if kpi.metric not in defined):
            message = absent if metric == "cost" and missing else undefined
            yield Finding("warn", "kpi", metric, message)


def _has_enough_units(labels: LabelCounts, settings: params.Monitor) -> bool:
    """Tell whether units, if they are resampled, are enough for an interval."""
    return labels.units is None or settings.design_effect is not None or labels.units >= MIN_UNITS


def _check_rows(traffic: list[Traffic], drift: list[Drift], settings: params.Monitor) -> Iterator[Finding]:
    """Report rows that are too few, and events that are too old."""
    n_rows = sum(part.rows for part in traffic)
    count = f"{n_rows:,}"
    if n_rows < settings.min_rows:
        limit = f"{settings.min_rows:,} (monitor.min_rows)"
        yield Finding("warn", "traffic", "rows", "too few rows of this model", count, limit)
    if few := [column for column in drift if column.status == "too few"]:
        names, required = ", ".join(group_lists(few)), max(c.required_rows for c in few)
        effect = max(column.design_effect for column in few)
        source = "estimated" if settings.design_effect is None else "monitor.design_effect"
        if effect > 1:
            count += f" ({n_rows / effect:,.0f} effective: the design effect is up to {effect:.3g}, {source})"
        message = "too few rows to tell drift from chance"
        yield Finding("warn", "drift", names, message, count, f"{required:,} rows")
    hours = (_now() - max(part.last for part in traffic)) / timedelta(hours=1)
    if hours > settings.max_age_hours:
        limit = f"{settings.max_age_hours:g} hours (monitor.max_age_hours)"
        yield Finding("warn", "traffic", "events", "age of the newest event", f"{hours:.0f} hours", limit)


def _read_files(
    con: Connection, events: str, labels: str | None, since: datetime | None, folder: Path
) -> tuple[list[str], list[str]]:
    """Read the events; find the files with labels (at `labels` or beside the events), and broken files."""
    names = (LABELS_FOLDER, LABELS_FOLDER_0_2)
    addresses = [labels] if labels else [f"{events.rstrip('/')}/{name}" for name in names]
    folders = [folder / name for name in names]
    label_files = list(chain.from_iterable(map(find_files, addresses, folders)))
    if labels and not label_files:
        raise ProjectError(f"monitor: no .csv or .parquet file with labels at {labels}")
    label_files, broken = split_readable(con, label_files)
    n_events, broken_events = read_events(
        con, events, since, folder / "events", all_predictions=bool(label_files)
    )
    if not n_events:
        window = f" since {since:%Y-%m-%d %H:%M} UTC" if since else ""
        raise ProjectError(
            f"monitor: no events in {events}{window}. Is that the address in the server's variable "
            "EVENTS, and did it get requests? SINCE=30d looks back further."
        )
    return label_files, broken + broken_events


def _check_files(broken: list[str]) -> Iterator[Finding]:
    """Report files that were left out."""
    if broken:
        names = ", ".join(broken[:SHOWN_FILES]) + " …" * (len(broken) > SHOWN_FILES)
        message = f"files that cannot be read are left out: {names}"
        yield Finding("warn", "files", "unreadable", message, f"{len(broken):,}")


def _measure_drift(con: Connection, model: Model, settings: params.Monitor) -> list[Drift]:
    """Compare the successful rows of the bundle's model with its reference."""
    condition = f"status = 200 AND model_version = {literal(model.metadata.version)}"
    unit = find_unit(con, f"(FROM events WHERE {condition})")
    con.sql(f"CREATE VIEW checked AS SELECT *, {unit or 'NULL'} AS unit FROM events WHERE {condition}")
    reference = msgspec.json.decode((BUNDLE / "reference.json").read_bytes(), type=Reference)
    return check_drift(con, "checked", reference, model.contract, settings, has_units=unit is not None)


def check_predictions(
    con: Connection, model: Model, events: str, labels: str | None, since: datetime | None
) -> Monitoring:
    """Check the predictions of a model.

    Args:
        con: An empty database.
        model: The model of the bundle.
        events: Folder or address of the events.
        labels: File, folder or address of labels; None for those beside the events.
        since: Start of the window in UTC; None for all events.

    Returns:
        The result, with the start of the next run.

    Raises:
        ProjectError: There are no events, only events of other models, or no labels at `labels`.
    """
    settings = params.load()
    with tempfile.TemporaryDirectory() as folder:
        label_files, broken = _read_files(con, events, labels, since, Path(folder))
        traffic = _count_traffic(con)
        selected = _select_model(traffic, model.metadata.version)
        label_counts = join_labels(con, label_files, model) if label_files else LabelCounts()
    monitor, problem = settings.monitor, declarations.load()
    n_rows, n_labelled = sum(part.rows for part in selected), label_counts.rows
    drift = _measure_drift(con, model, monitor) if n_rows >= monitor.min_rows else []
    enough_labels = n_labelled >= monitor.min_rows and _has_enough_units(label_counts, monitor)
    performance = evaluate_kpis(con, model.contract, problem, settings) if enough_labels else []
    missing = missing_amounts(problem.cost, model.contract)
    findings = [
        *_check_requests(con, selected, monitor),
        *_check_kpis(performance, label_counts, problem.kpis, missing, monitor),
        *_check_distances(drift, monitor),
        *(Finding("warn", "labels", kind, message) for kind, message in label_counts.warnings.items()),
        *_check_rows(selected, drift, monitor),
        *_check_files(broken),
    ]
    checks = list(ADVICE)
    reasons = sorted(findings, key=lambda finding: (finding.status != "alert", checks.index(finding.check)))
    too_few = n_rows < monitor.min_rows or any(column.status == "too few" for column in drift)
    return Monitoring(
        status=reasons[0].status if reasons else "ok",
        reasons=reasons,
        model_version=model.metadata.version,
        created_at=_now(),
        since=since,
        next_since=since if too_few else min(_now(), max(part.last for part in traffic)),
        rows=n_rows,
        labelled_rows=n_labelled,
        traffic=traffic,
        drift=drift,
        performance=performance,
    )


def _parse_arguments() -> argparse.Namespace:
    """Read the command line and the environment."""
    parser = argparse.ArgumentParser(description="Check predictions since the last run.")
    variables = os.environ.get
    if variables("TRUTH"):
        warn_once("the variable TRUTH is deprecated and ends with 0.5: use LABELS")
    parser.add_argument("--since", default=variables("SINCE") or None, help="7d, 12h, or a time in UTC")
    events = variables("EVENTS") or "events"
    parser.add_argument("--events", default=events, help="folder or address of the events")
    labels = variables("LABELS") or variables("TRUTH") or None
    text = "file, folder or address of ground-truth labels; else EVENTS/labels"
    parser.add_argument("--labels", "--truth", default=labels, help=text)
    return parser.parse_args()


def main() -> None:
    """Check, write the report, and fail on an alert."""
    options = _parse_arguments()
    model, since = Model(BUNDLE), window_start(options.since)
    memory_gb = params.load().memory_gb
    with tempfile.TemporaryDirectory() as folder, connect(memory_gb, Path(folder, "monitor.duckdb")) as con:
        result = check_predictions(con, model, options.events, options.labels, since)
    write_report(result, MONITORING_REPORT)
    reasons = "".join(f"\n- {reason}" for reason in result.reasons)
    if result.status == "alert":
        raise ProjectError(
            f"monitoring alert for model {result.model_version}{reasons}\n"
            f"Report: {MONITORING_REPORT.with_suffix('.html')}. If the population changed, retrain on newer "
            "rows: make ingest pipeline. Otherwise fix the upstream data. More: docs/runbook.md."
        )
    print(f"monitor: {result.status}, {result.rows:,} rows of model {result.model_version}{reasons}")


if __name__ == "__main__":
    cli(main)
