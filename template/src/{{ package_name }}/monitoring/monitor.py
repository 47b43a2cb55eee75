"""Monitor: is production still what the model was made for? `ok`, `warn` or `alert`, with reasons.

    python -m <package>.monitoring.monitor [--since 7d] [--labels FILE]

Reads the events that came since the last run, at `EVENTS`, and judges those of the bundle's model. `alert`
ends with exit code 1. Rows that are too few to be judged are looked at again by the next run.
"""

import argparse
import os
import re
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from scipy.stats import binom

from .. import declarations, params
from ..contract.events import LABELS_FOLDER, LABELS_FOLDER_0_2
from ..contract.expectations import Kpi
from ..contract.tables import Connection, connect, literal
from ..core.errors import ProjectError, cli, warn_once
from ..core.paths import BUNDLE, MONITORING_REPORT
from ..model.bundle import Model
from . import report
from .drift import Drift, Reference, Verdict, find_drift
from .events import find_files, read_events
from .performance import NO_LABELS, Labels, Measured, join_truth, measure_truth
from .report import Finding, Monitoring, Traffic

ORDER: tuple[Verdict, ...] = ("ok", "warn", "alert")
UNITS = {"d": "days", "h": "hours"}


def now() -> datetime:
    """The time in UTC, without an offset, as in events."""
    return datetime.now(UTC).replace(tzinfo=None)


def beginning(given: str | None) -> datetime | None:
    """Where the window begins: a time, so many days or hours ago, else where the last run ended."""
    if given is None:
        try:
            return msgspec.json.decode(MONITORING_REPORT.read_bytes(), type=Monitoring).go_on_from
        except (FileNotFoundError, msgspec.DecodeError):  # the first run, or one of another version
            return None
    if ago := re.fullmatch(r"(\d+)([dh])", given):
        return now() - timedelta(**{UNITS[ago[2]]: int(ago[1])})
    try:
        time = datetime.fromisoformat(given)
    except ValueError:
        raise ProjectError(
            f"monitor: --since {given}: give 7d, 12h, or a time such as 2026-01-31T14:30"
        ) from None
    return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time


def count_traffic(con: Connection) -> list[Traffic]:
    """Traffic of each model and role, the busiest first; a request's time is that of its first row."""
    latency = "coalesce(quantile_cont(seconds, {}) FILTER (row = 0 AND status = 200) * 1000, 0)"
    rows = con.sql(
        "SELECT model_version, role, count(*) FILTER (row = 0), count(*) FILTER (status = 422), "
        "count(*) FILTER (status >= 500), count(*) FILTER (status = 200), min(time), max(time), "
        f"{latency.format(0.5)}, {latency.format(0.99)} FROM asked GROUP BY 1, 2 ORDER BY 6 DESC"
    ).fetchall()
    return [Traffic(*row) for row in rows]


def choose_events(con: Connection, version: str, traffic: list[Traffic]) -> list[Traffic]:
    """Make the view `events` of the rows that this model answered; give its part of the traffic.

    Raises:
        ProjectError: all events are of other models.
    """
    con.sql(f"CREATE VIEW events AS FROM asked WHERE status = 200 AND model_version = {literal(version)}")
    ours = [part for part in traffic if part.model_version == version]
    if not ours:
        others = ", ".join(sorted({part.model_version for part in traffic}))
        raise ProjectError(
            f"monitor: the events are of model {others}, the bundle here is {version}. Check out the "
            "commit of the model that answers (its production/* tag), and fetch its bundle: uv run dvc pull"
        )
    return ours


def find_unanswered(traffic: list[Traffic], settings: params.Monitor) -> Iterator[Finding]:
    """Say beyond doubt (a binomial test) that more requests were refused, or failed, than is allowed."""
    requests = sum(part.requests for part in traffic)
    for name, limit in (("refused", "max_rejected_share"), ("failed", "max_error_share")):
        count, allowed = sum(getattr(part, name) for part in traffic), getattr(settings, limit)
        if binom.sf(count - 1, requests, allowed) < 1 - settings.confidence_level:
            said = f"{count:,} of {requests:,}, {count / requests:.1%}; monitor.{limit} is {allowed:.1%}"
            yield Finding("alert", name, "requests", said)


def find_few(rows: int, drifts: list[Drift], settings: params.Monitor) -> Iterator[Finding]:
    """Say which columns cannot be judged by so few rows."""
    alike, counted = settings.design_effect, f"{rows:,}"
    if alike > 1:
        counted += f" ({rows // alike:,} effective: monitor.design_effect is {alike})"
    if rows < settings.min_rows:
        said = f"too few to be judged: {counted} of this model, monitor.min_rows is {settings.min_rows:,}"
        yield Finding("warn", "traffic", "rows", said)
    if few := [it for it in drifts if it.enough]:
        names, enough = ", ".join(it.name for it in few), max(it.enough for it in few)
        said = f"too few rows to tell drift from chance: {counted}; {enough:,} would be enough"
        yield Finding("warn", "drift", names, said)


def find_unmeasured(
    truth_rows: int, measured: list[Measured], kpis: tuple[Kpi, ...], settings: params.Monitor
) -> Iterator[Finding]:
    """Say which KPIs have no value though truth has come."""
    if 0 < truth_rows < settings.min_rows:
        said = f"too few rows to be judged: {truth_rows:,}, monitor.min_rows is {settings.min_rows:,}"
        yield Finding("warn", "kpi", "truth", said)
    elif truth_rows:
        whole = {it.metric for it in measured if not it.segment}
        said = f"has no value over {truth_rows:,} rows with truth: is that the same in nearly all of them?"
        for metric in dict.fromkeys(kpi.metric for kpi in kpis if kpi.metric not in whole):
            yield Finding("warn", "kpi", metric, said)


def find_reasons(
    traffic: list[Traffic],
    rows: int,
    labels: Labels,
    drifts: list[Drift],
    measured: list[Measured],
    kpis: tuple[Kpi, ...],
    settings: params.Monitor,
) -> list[Finding]:
    """What is to be said, the gravest first."""
    found = [*find_unanswered(traffic, settings)]
    drifted = [it for it in drifts if it.verdict != "ok" and not it.enough]
    found += [Finding(it.verdict, "drift", it.name, it.said) for it in drifted]
    found += [Finding(it.verdict, "kpi", it.metric, it.said) for it in measured if it.verdict != "ok"]
    found += [Finding("warn", "labels", kind, said) for kind, said in labels.problems.items()]
    found += [*find_few(rows, drifts, settings), *find_unmeasured(labels.rows, measured, kpis, settings)]
    hours = (now() - max(part.last for part in traffic)) / timedelta(hours=1)
    if hours > settings.max_age_hours:
        said = f"the newest is {hours:.0f} hours old, monitor.max_age_hours is {settings.max_age_hours:g}"
        found.append(Finding("warn", "traffic", "events", said))
    return sorted(found, key=lambda finding: -ORDER.index(finding.verdict))


def look(
    con: Connection, model: Model, events: str, source: str | None, since: datetime | None
) -> Monitoring:
    """Compare events with the bundle's reference, and with labels from `source`, else those beside them."""
    settings, version, kpis = params.load(), model.metadata.version, declarations.load().kpis
    reference = msgspec.json.decode((BUNDLE / "reference.json").read_bytes(), type=Reference)
    with tempfile.TemporaryDirectory() as folder:
        names = (LABELS_FOLDER, LABELS_FOLDER_0_2)
        addresses = [source] if source else [f"{events.rstrip('/')}/{name}" for name in names]
        files = [
            file
            for index, address in enumerate(addresses)
            for file in find_files(address, Path(folder) / f"labels{index}")
        ]
        if not read_events(con, events, since, Path(folder) / "events", every=bool(files)):
            after = f" since {since:%Y-%m-%d %H:%M} UTC" if since else ""
            raise ProjectError(
                f"monitor: no events in {events}{after}. A server writes them where its variable EVENTS "
                "says; is that the same address, and did anybody ask? --since looks back further."
            )
        traffic = count_traffic(con)
        ours = choose_events(con, version, traffic)
        if source and not files:
            raise ProjectError(f"monitor: no .csv or .parquet file with labels at {source}")
        labels = join_truth(con, files, model) if files else NO_LABELS
    least, rows = settings.monitor.min_rows, sum(part.rows for part in ours)
    drifts = find_drift(con, "events", reference, model.contract, settings.monitor) if rows >= least else []
    measured = measure_truth(con, model.contract, kpis, settings) if labels.rows >= least else []
    found = find_reasons(ours, rows, labels, drifts, measured, kpis, settings.monitor)
    are_few = rows < least or any(drift.enough for drift in drifts)
    return Monitoring(
        verdict=found[0].verdict if found else "ok",
        reasons=found,
        model_version=version,
        made=now(),
        since=since,
        go_on_from=since if are_few else max(part.last for part in traffic),
        rows=rows,
        truth_rows=labels.rows,
        traffic=traffic,
        drift=drifts,
        performance=measured,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Judge what was asked and answered since the last run.")
    given = os.environ.get
    if given("TRUTH"):
        warn_once("the variable TRUTH is deprecated and ends with 0.5: use LABELS")
    parser.add_argument("--since", default=given("SINCE") or None, help="7d, 12h, or a time in UTC")
    parser.add_argument(
        "--events", default=given("EVENTS") or "events", help="folder or address of the events"
    )
    parser.add_argument(
        "--labels",
        "--truth",
        default=given("LABELS") or given("TRUTH") or None,
        help="file, folder or address of ground-truth labels; else EVENTS/labels",
    )
    asked: Any = parser.parse_args()
    model, since = Model(BUNDLE), beginning(asked.since)
    with tempfile.TemporaryDirectory() as folder:
        memory = params.load().memory_gb
        with connect(memory, Path(folder) / "monitor.duckdb") as con:
            found = look(con, model, asked.events, asked.labels, since)
    report.write_all(found, MONITORING_REPORT)
    reasons = "".join(f"\n- {reason}" for reason in found.reasons)
    if found.verdict == "alert":
        raise ProjectError(
            f"production of model {found.model_version} is not what it was made for{reasons}\n"
            f"{MONITORING_REPORT.with_suffix('.html')} shows it. If the world has changed, train on "
            "newer rows: make ingest pipeline. If not, mend what sends these rows."
        )
    print(f"monitor: {found.verdict}, {found.rows:,} rows of model {found.model_version}{reasons}")


if __name__ == "__main__":
    cli(main)
