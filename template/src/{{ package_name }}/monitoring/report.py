"""The monitor's report: JSON for machines, Markdown for terminals and issues, a self-contained HTML page."""

import base64
from datetime import datetime
from html import escape
from io import BytesIO
from pathlib import Path
from textwrap import shorten
from typing import Any

import msgspec
import numpy as np

from ..core.files import table, write, write_json
from .drift import Drift, DriftStatus, Status, group_lists
from .performance import KpiResult

PROJECT = __name__.partition(".")[0]
CODEOWNERS = Path(".github/CODEOWNERS")
MAX_PLOTS = 12  # columns in the picture, and bins of each
MIN_SHARE = 0.002  # smaller bins are not drawn
PLOTS_PER_ROW = 3
STATUSES: dict[DriftStatus, str] = {"ok": "ok", "too few": "TOO FEW", "warn": "WARN", "alert": "ALERT"}
COLOURS: dict[DriftStatus, str] = {"ok": "C0", "too few": "C4", "warn": "C1", "alert": "C3"}
CAPTION = "Share of the rows in % by column, largest distance first: reference (grey) and current (coloured)."
ADVICE = {
    "errors": "Read the server's log. If it began with a deployment, roll back.",
    "rejected": "Send a rejected request with curl: the response names column and rule. Fix the client, or "
    "widen the contract and retrain.",
    "kpi": "Retrain on newer rows (make ingest pipeline).",
    "drift": "If the population changed, retrain on newer rows; otherwise fix the upstream data.",
    "labels": "Send each label once, when it is final, and a new id with each request.",
    "files": "Delete them, or restore them from a copy. Was a disk full, or a copy interrupted?",
    "traffic": "Check that EVENTS is where the server writes; with little traffic, lower monitor.min_rows.",
}
"""What to do about a finding, by its check, most urgent first."""
STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; display: block; overflow-x: auto }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #8888 }
img { max-width: 100%; background: #fff }
"""


class Traffic(msgspec.Struct):
    """Requests to one model in one role.

    Attributes:
        model_version: Version of the model.
        role: champion, challenger or fallback.
        requests: Number of requests.
        rejected: Requests that violate the contract (status 422).
        errors: Requests that the server failed to process (5xx).
        rows: Number of predictions.
        first: Time of the first event, in UTC.
        last: Time of the last event, in UTC.
        median_ms: Median latency of a request.
        p99_ms: 99th percentile of the latency.
    """

    model_version: str
    role: str
    requests: int
    rejected: int
    errors: int
    rows: int
    first: datetime
    last: datetime
    median_ms: float
    p99_ms: float


class Finding(msgspec.Struct, omit_defaults=True):
    """A check that does not pass.

    Attributes:
        status: `warn` or `alert`.
        check: A key of `ADVICE`.
        subject: Column, metric or kind of problem.
        message: What was observed.
        value: The measured value.
        limit: Its limit, with the parameter that sets it.
    """

    status: Status
    check: str
    subject: str
    message: str
    value: str = ""
    limit: str = ""

    def __str__(self) -> str:
        parts = [self.value, self.limit and f"limit {self.limit}", self.message]
        return f"{STATUSES[self.status]} {self.check}, {self.subject}: {'; '.join(filter(None, parts))}"


class Monitoring(msgspec.Struct):
    """Result of one run of the monitor; all times are in UTC.

    Attributes:
        status: The worst status of all findings.
        reasons: The findings, worst first.
        model_version: The model that was checked.
        created_at: When the monitor ran.
        since: Start of the window; None for all events.
        next_since: Where the next run starts.
        rows: Predictions of this model in the window.
        labelled_rows: Predictions of this model that have a label.
        traffic: Requests by model and role.
        drift: Distances by column.
        performance: KPIs, over all rows and by segment.
    """

    status: Status
    reasons: list[Finding]
    model_version: str
    created_at: datetime
    since: datetime | None
    next_since: datetime | None
    rows: int
    labelled_rows: int
    traffic: list[Traffic]
    drift: list[Drift]
    performance: list[KpiResult]


def write_report(result: Monitoring, path: Path) -> None:
    """Write the report.

    Args:
        result: What the monitor observed.
        path: The JSON file, which is written last because it has the start of the next run; the others have
            the same name with `.md` and `.html`.
    """
    path.parent.mkdir(exist_ok=True)
    write(path.with_suffix(".md"), markdown(result).encode())
    write(path.with_suffix(".html"), _html(result).encode())
    write_json(path, result)


def title(result: Monitoring) -> str:
    """Return the report's title.

    Args:
        result: What the monitor observed.

    Returns:
        Such as "Monitoring of customer_churn: alert".
    """
    return f"Monitoring of {PROJECT}: {result.status}"


def summary(result: Monitoring) -> str:
    """Summarise in one paragraph what was checked.

    Args:
        result: What the monitor observed.

    Returns:
        Number of rows, model, window and time of the run.
    """
    times = [*(part.first for part in result.traffic), *(part.last for part in result.traffic)]
    other_rows = sum(part.rows for part in result.traffic) - result.rows
    note = f" {other_rows:,} rows of other models are counted below, but not checked." if other_rows else ""
    return (
        f"{result.rows:,} rows of model {result.model_version}, from {min(times):%Y-%m-%d %H:%M} to "
        f"{max(times):%Y-%m-%d %H:%M} UTC; checked at {result.created_at:%Y-%m-%d %H:%M} UTC.{note}"
    )


def markdown(result: Monitoring) -> str:
    """Return the report for a terminal, an issue or a chat.

    Args:
        result: What the monitor observed.

    Returns:
        A Markdown document.
    """
    parts = [f"# {title(result)}", f"{summary(result)} {_contact()}"]
    for heading, text, rows in _sections(result):
        parts += [f"## {heading}", text, table(rows)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _contact() -> str:
    """Name the project's owner (CODEOWNERS) and the runbook."""
    lines = CODEOWNERS.read_text(encoding="utf-8").splitlines() if CODEOWNERS.exists() else []
    owners = [line.removeprefix("* ") for line in lines if line.startswith("* ")]
    return f"Owner: {owners[-1] if owners else 'unknown'}. Runbook: docs/runbook.md."


def _sections(result: Monitoring) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Return heading, explanation and table of the sections that have rows."""
    checks = {finding.check for finding in result.reasons}
    advice = " ".join(f"{check}: {text}" for check, text in ADVICE.items() if check in checks)
    kpis = (
        f"{result.labelled_rows:,} rows have a label{_sample_note(result)}. The interval is a bootstrap "
        "interval; a KPI is missed if all of it misses the limit. Segments are shown, but not checked."
    )
    drift = (
        "Distance: total variation distance from the reference (0 to 100 %), which is the training split for "
        "inputs and the test split for predictions. p-value: of a test that both distributions are equal. "
        "TOO FEW: these rows cannot tell drift from chance. Design effect: how many rows are worth one "
        "independent row. Columns without a status are not checked. Of a list, the number that drifts most "
        "is shown; the JSON report has all."
    )
    sections = [
        ("Findings", advice, list(map(_finding_row, result.reasons))),
        ("KPIs", kpis, list(map(_kpi_row, result.performance))),
        ("Drift", drift, [_drift_row(numbers[0], len(numbers)) for numbers in _columns(result)]),
        ("Traffic", "", list(map(_traffic_row, result.traffic))),
    ]
    return [section for section in sections if section[2]]


def _sample_note(result: Monitoring) -> str:
    """Say so if the KPIs are computed for a sample of the labelled rows."""
    rows = max((kpi.rows for kpi in result.performance), default=result.labelled_rows)
    return f", of which {rows:,} were drawn at random" if rows < result.labelled_rows else ""


def _finding_row(finding: Finding) -> dict[str, Any]:
    return msgspec.structs.asdict(finding) | {"status": STATUSES[finding.status]}


def _columns(result: Monitoring) -> list[list[Drift]]:
    """The numbers of each column, the worst one first."""
    return list(group_lists(result.drift).values())


def _drift_row(drift: Drift, n_numbers: int) -> dict[str, Any]:
    return {
        "status": STATUSES[drift.status] if drift.is_tested else "",
        "column": drift.name + (f" (worst of {n_numbers})" if n_numbers > 1 else ""),
        "distance": f"{drift.distance:.1%}",
        "p-value": f"{drift.p_value:.1g}" if drift.p_value > 1e-9 else "< 1e-9",
        "design effect": f"{drift.design_effect:.3g}",
        "missing, reference": f"{drift.reference[-1]:.1%}",
        "missing, current": f"{drift.current[-1]:.1%}",
    }


def _kpi_row(result: KpiResult) -> dict[str, Any]:
    return {
        "status": "" if result.segment else STATUSES[result.status],
        "KPI": result.metric,
        "rows of": result.segment or "all",
        "rows": f"{result.rows:,}",
        "value": f"{result.estimate.value:.3g}",
        "interval": f"{result.estimate.low:.3g} to {result.estimate.high:.3g}",
        "limit": "" if result.segment else result.limit,
    }


def _traffic_row(traffic: Traffic) -> dict[str, Any]:
    return {
        "model": traffic.model_version,
        "role": traffic.role,
        **{name: f"{getattr(traffic, name):,}" for name in ("requests", "rejected", "errors", "rows")},
        "last": f"{traffic.last:%Y-%m-%d %H:%M}",
        "median, ms": f"{traffic.median_ms:.2g}",
        "99th percentile, ms": f"{traffic.p99_ms:.2g}",
    }


def _html(result: Monitoring) -> str:
    """Return the report as a page with a picture."""
    from tabulate import tabulate

    parts = [f"<h1>{title(result)}</h1><p>{escape(summary(result))} {_contact()}</p>"]
    for heading, text, rows in _sections(result):
        html = tabulate(rows, headers="keys", tablefmt="html", disable_numparse=True)
        parts.append(f"<h2>{heading}</h2><p>{escape(text)}</p>{html}")
        if heading == "Drift":
            shown = [numbers[0] for numbers in _columns(result)][:MAX_PLOTS]
            picture = base64.b64encode(_plot(shown)).decode()
            parts.append(f'<p>{CAPTION}</p><img alt="{CAPTION}" src="data:image/png;base64,{picture}">')
    head = (
        "<meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{title(result)}</title><style>{STYLE}</style>"
    )
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _plot(drifts: list[Drift]) -> bytes:
    """Draw reference and current share of the rows in each bin as PNG; of many bins, the largest."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"text.parse_math": False}):  # names may hold a $
        n_rows = -(-len(drifts) // PLOTS_PER_ROW)
        figure = Figure(figsize=(4.2 * PLOTS_PER_ROW, 2.9 * n_rows), layout="constrained")
        for index, drift in enumerate(drifts):
            shares = np.array([drift.reference, drift.current])
            largest = shares.max(axis=0)
            bins = sorted(np.argsort(-largest, kind="stable")[:MAX_PLOTS], reverse=True)
            bins = [position for position in bins if largest[position] > MIN_SHARE]
            axes, places = figure.add_subplot(n_rows, PLOTS_PER_ROW, index + 1), np.arange(len(bins))
            axes.barh(places + 0.2, 100 * shares[0, bins], 0.4, color="0.7")
            axes.barh(places - 0.2, 100 * shares[1, bins], 0.4, color=COLOURS[drift.status])
            axes.set_yticks(places, [shorten(drift.bins[position], 24, placeholder="…") for position in bins])
            axes.set_xlim(0, 100)
            axes.set_title(
                f"{drift.name}: {STATUSES[drift.status]}, distance {drift.distance:.0%}", fontsize=9
            )
            axes.tick_params(labelsize=7)
            axes.spines[["top", "right"]].set_visible(False)
        png = BytesIO()
        figure.savefig(png, dpi=90)
        return png.getvalue()
