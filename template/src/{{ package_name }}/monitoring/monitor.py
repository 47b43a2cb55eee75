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
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
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
from .drift import Drift, Reference, Status, check_drift
from .events import find_files, read_events
from .performance import NO_LABELS, KpiResult, LabelCounts, evaluate_kpis, join_labels
from .report import ADVICE, Finding, Monitoring, Traffic, write_report

STATUS_ORDER: tuple[Status, ...] = ("alert", "warn", "ok")
UNITS = {"d": "days", "h": "hours"}


class _Resume(msgspec.Struct):
    """What a run reads of the last report; `go_on_from` is the name of 0.2."""

    next_since: datetime | None = None
    go_on_from: datetime | None = None


@dataclass
class _Observations:
    """What the checks look at: the traffic of one model, its rows, drift, labels and KPIs."""

    traffic: list[Traffic]
    drift: list[Drift] = field(default_factory=list)
    labels: LabelCounts = NO_LABELS
    performance: list[KpiResult] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Number of predictions.

        Returns:
            The sum over all models and roles.
        """
        return sum(part.rows for part in self.traffic)


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
        return last.next_since or last.go_on_from
    if match := re.fullmatch(r"(\d+)([dh])", since):
        return _now() - timedelta(**{UNITS[match[2]]: int(match[1])})
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


def _check_requests(traffic: list[Traffic], settings: params.Monitor) -> Iterator[Finding]:
    """Check whether significantly more requests are rejected, or fail, than allowed (binomial test)."""
    n_requests = sum(part.requests for part in traffic)
    for name, parameter in (("rejected", "max_rejected_share"), ("errors", "max_error_share")):
        count, limit = sum(getattr(part, name) for part in traffic), getattr(settings, parameter)
        if binom.sf(count - 1, n_requests, limit) < 1 - settings.confidence_level:
            value = f"{count / n_requests:.1%}"
            message = f"{count:,} of {n_requests:,} requests"
            yield Finding("alert", name, "requests", message, value, f"{limit:.1%} (monitor.{parameter})")


def _check_distances(drift: list[Drift], settings: params.Monitor) -> Iterator[Finding]:
    """Report the columns that drift."""
    for column in drift:
        if column.status != "ok" and not column.required_rows:
            parameter = "max_distance" if column.status == "alert" else "warn_distance"
            limit = f"{getattr(settings, parameter):.0%} (monitor.{parameter})"
            value = f"distance {column.distance:.0%}"
            yield Finding(column.status, "drift", column.name, column.message, value, limit)


def _check_kpis(
    performance: list[KpiResult], n_labelled: int, kpis: tuple[Kpi, ...], settings: params.Monitor
) -> Iterator[Finding]:
    """Report KPIs that are missed, and those without a value although labels arrived."""
    for result in performance:
        if result.status != "ok":
            message = f"over {result.rows:,} labelled rows"
            yield Finding("alert", "kpi", result.metric, message, f"{result.estimate}", result.limit)
    if 0 < n_labelled < settings.min_rows:
        limit = f"{settings.min_rows:,} (monitor.min_rows)"
        yield Finding("warn", "kpi", "labels", "too few labelled rows", f"{n_labelled:,}", limit)
    elif n_labelled:
        defined = {result.metric for result in performance if not result.segment}
        message = f"has no value over {n_labelled:,} labelled rows: do nearly all have the same label?"
        for metric in dict.fromkeys(kpi.metric for kpi in kpis if kpi.metric not in defined):
            yield Finding("warn", "kpi", metric, message)


def _check_rows(observations: _Observations, settings: params.Monitor) -> Iterator[Finding]:
    """Report rows that are too few, and events that are too old."""
    n_rows, effect = observations.rows, settings.design_effect
    count = f"{n_rows:,}"
    if effect > 1:
        count += f" ({n_rows // effect:,} effective: monitor.design_effect is {effect})"
    if n_rows < settings.min_rows:
        limit = f"{settings.min_rows:,} (monitor.min_rows)"
        yield Finding("warn", "traffic", "rows", "too few rows of this model", count, limit)
    if few := [column for column in observations.drift if column.required_rows]:
        names, required = ", ".join(c.name for c in few), max(c.required_rows for c in few)
        message = "too few rows to tell drift from chance"
        yield Finding("warn", "drift", names, message, count, f"{required:,} rows")
    hours = (_now() - max(part.last for part in observations.traffic)) / timedelta(hours=1)
    if hours > settings.max_age_hours:
        limit = f"{settings.max_age_hours:g} hours (monitor.max_age_hours)"
        yield Finding("warn", "traffic", "events", "age of the newest event", f"{hours:.0f} hours", limit)


def _find_reasons(
    observations: _Observations, kpis: tuple[Kpi, ...], settings: params.Monitor
) -> list[Finding]:
    """Run all checks; return what does not pass, worst first."""
    labels = observations.labels
    findings = [
        *_check_requests(observations.traffic, settings),
        *_check_kpis(observations.performance, labels.rows, kpis, settings),
        *_check_distances(observations.drift, settings),
        *(Finding("warn", "labels", kind, message) for kind, message in labels.warnings.items()),
        *_check_rows(observations, settings),
    ]
    checks = list(ADVICE)
    return sorted(
        findings, key=lambda finding: (STATUS_ORDER.index(finding.status), checks.index(finding.check))
    )


def _find_labels(events: str, labels: str | None, folder: Path) -> list[str]:
    """Find the files with labels: at their own address, or beside the events."""
    names = (LABELS_FOLDER, LABELS_FOLDER_0_2)
    addresses = [labels] if labels else [f"{events.rstrip('/')}/{name}" for name in names]
    files = [
        file
        for index, address in enumerate(addresses)
        for file in find_files(address, folder / f"labels{index}")
    ]
    if labels and not files:
        raise ProjectError(f"monitor: no .csv or .parquet file with labels at {labels}")
    return files


def _observe(
    con: Connection, model: Model, traffic: list[Traffic], label_files: list[str], settings: params.Params
) -> _Observations:
    """Compute drift and KPIs of one model, as far as there are enough rows."""
    version, min_rows = model.metadata.version, settings.monitor.min_rows
    observations = _Observations(_select_model(traffic, version))
    if label_files:
        observations.labels = join_labels(con, label_files, model)
    if observations.rows >= min_rows:
        condition = f"status = 200 AND model_version = {literal(version)}"
        con.sql(f"CREATE VIEW checked AS FROM events WHERE {condition}")
        reference = msgspec.json.decode((BUNDLE / "reference.json").read_bytes(), type=Reference)
        observations.drift = check_drift(con, "checked", reference, model.contract, settings.monitor)
    if observations.labels.rows >= min_rows:
        kpis = declarations.load().kpis
        observations.performance = evaluate_kpis(con, model.contract, kpis, settings)
    return observations


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
        label_files = _find_labels(events, labels, Path(folder))
        if not read_events(con, events, since, Path(folder) / "events", all_predictions=bool(label_files)):
            window = f" since {since:%Y-%m-%d %H:%M} UTC" if since else ""
            raise ProjectError(
                f"monitor: no events in {events}{window}. Is that the address in the server's variable "
                "EVENTS, and did it get requests? --since looks back further."
            )
        traffic = _count_traffic(con)
        observations = _observe(con, model, traffic, label_files, settings)
    reasons = _find_reasons(observations, declarations.load().kpis, settings.monitor)
    too_few = observations.rows < settings.monitor.min_rows
    too_few |= any(column.required_rows for column in observations.drift)
    return Monitoring(
        status=reasons[0].status if reasons else "ok",
        reasons=reasons,
        model_version=model.metadata.version,
        created_at=_now(),
        since=since,
        next_since=since if too_few else max(part.last for part in traffic),
        rows=observations.rows,
        labelled_rows=observations.labels.rows,
        traffic=traffic,
        drift=observations.drift,
        performance=observations.performance,
    )


def _parse_arguments() -> argparse.Namespace:
    """Read the command line and the environment."""
    parser = argparse.ArgumentParser(description="Check predictions since the last run.")
    variables = os.environ.get
    if variables("TRUTH"):
        warn_once("the variable TRUTH is deprecated and ends with 0.5: use LABELS")
    parser.add_argument("--since", default=variables("SINCE") or None, help="7d, 12h, or a time in UTC")
    parser.add_argument(
        "--events", default=variables("EVENTS") or "events", help="folder or address of the events"
    )
    parser.add_argument(
        "--labels",
        "--truth",
        default=variables("LABELS") or variables("TRUTH") or None,
        help="file, folder or address of ground-truth labels; else EVENTS/labels",
    )
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
