"""The monitor's report: for machines, and for people as Markdown and as one self-contained page."""

import base64
from datetime import datetime
from html import escape
from io import BytesIO
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from ..core.files import table, write, write_json
from .drift import Drift, Verdict
from .performance import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 12  # columns in the picture, and bins of each
LEAST = 0.002  # share of the rows from which a bin is drawn
ACROSS = 3
SIGNS: dict[Verdict, str] = {"ok": "ok", "warn": "WARN", "alert": "ALERT"}
COLOURS: dict[Verdict, str] = {"ok": "C0", "warn": "C1", "alert": "C3"}
CAPTION = "Each column, then (grey) and now: an alert is red, a warning orange."
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222;
       max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; display: block; overflow-x: auto }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #ddd }
img { max-width: 100% } .alert { color: #b00 } .warn { color: #a60 } .ok { color: #070 }
"""


class Traffic(msgspec.Struct):
    """What one model answered, in one role."""

    model_version: str
    role: str
    requests: int
    refused: int  # requests that broke the contract (422),
    failed: int  # and that the server could not answer (5xx)
    rows: int
    first: datetime
    last: datetime
    median_ms: float
    slowest_ms: float  # one of a hundred requests takes longer


class Finding(msgspec.Struct):
    """What speaks against production being as it was."""

    verdict: Verdict
    rule: str
    subject: str
    said: str

    def __str__(self) -> str:
        return f"{SIGNS[self.verdict]} {self.rule}, {self.subject}: {self.said}"


class Monitoring(msgspec.Struct):
    """The monitor's answer: the machine-readable report. Times are UTC."""

    verdict: Verdict
    reasons: list[Finding]  # the gravest first
    model_version: str
    made: datetime
    since: datetime | None
    go_on_from: datetime | None  # where the next run begins
    rows: int  # of this model
    truth_rows: int
    traffic: list[Traffic]
    drift: list[Drift]
    performance: list[Measured]


class Section(NamedTuple):
    """A part of the report: a title, what it means, and a table."""

    title: str
    text: str
    rows: list[dict[str, Any]]


def write_all(found: Monitoring, path: Path) -> None:
    """Write the report as `.md` and `.html`, and last, for it says where to go on, as `.json`."""
    path.parent.mkdir(exist_ok=True)
    write(path.with_suffix(".md"), markdown(found).encode())
    write(path.with_suffix(".html"), page(found).encode())
    write_json(path, found)


def headline(found: Monitoring) -> str:
    """Which rows of which model, over which time."""
    times = [*(part.first for part in found.traffic), *(part.last for part in found.traffic)]
    others = sum(part.rows for part in found.traffic) - found.rows
    apart = f" {others:,} rows of other models are counted below, and not judged." if others else ""
    return (
        f"{found.rows:,} rows of model {found.model_version}, from {min(times):%Y-%m-%d %H:%M} to "
        f"{max(times):%Y-%m-%d %H:%M} UTC; looked at {found.made:%Y-%m-%d %H:%M}.{apart}"
    )


def sections(found: Monitoring) -> list[Section]:
    """What follows the verdict."""
    truth = f"{found.truth_rows:,} rows have truth. In brackets: where the figure lies, given these rows."
    drift = (
        "Moved: the share of the rows that would have to fall into other bins for both distributions to be "
        "equal. Doubt: how likely a test finds as much between equal ones. Too few: these rows cannot tell "
        "drift from chance. Inputs are held against the "
        "training split, answers against those for the test split. The calendar is shown, and not judged."
    )
    return [
        Section("Drift", drift, [drift_row(it) for it in found.drift]),
        Section("Performance", truth, [measured_row(it) for it in found.performance]),
        Section("Traffic", "", [traffic_row(it) for it in found.traffic]),
    ]


def drift_row(it: Drift) -> dict[str, Any]:
    return {
        "": ("TOO FEW" if it.enough else SIGNS[it.verdict]) if it.judged else "",
        "column": it.name,
        "moved": f"{it.moved:.1%}",
        "doubt": f"{it.p_value:.1g}" if it.p_value > 1e-9 else "< 1e-9",
        "missing then": f"{it.then[-1]:.1%}",
        "missing now": f"{it.now[-1]:.1%}",
    }


def measured_row(it: Measured) -> dict[str, Any]:
    of = it.segment or "all rows"
    return {
        "": "" if it.segment else SIGNS[it.verdict],
        "KPI": it.metric,
        "of": of,
        "rows": f"{it.rows:,}",
        "found": str(it.found),
    }


def traffic_row(it: Traffic) -> dict[str, Any]:
    return {
        "model": it.model_version,
        "role": it.role,
        "requests": f"{it.requests:,}",
        "refused": f"{it.refused:,}",
        "failed": f"{it.failed:,}",
        "rows": f"{it.rows:,}",
        "newest": f"{it.last:%Y-%m-%d %H:%M}",
        "median, ms": f"{it.median_ms:.2g}",
        "99 of 100 within, ms": f"{it.slowest_ms:.2g}",
    }


def markdown(found: Monitoring) -> str:
    """The report for a terminal, an issue or a chat."""
    parts = [
        f"# Monitoring: {found.verdict}",
        headline(found),
        "\n".join(f"- {reason}" for reason in found.reasons),
    ]
    for section in sections(found):
        if section.rows:
            parts += [f"## {section.title}", section.text, table(section.rows)]
    return "\n\n".join(filter(None, parts)) + "\n"


def page(found: Monitoring) -> str:
    """The report as HTML, with a picture."""
    from tabulate import tabulate

    parts = [
        f"<h1 class={found.verdict}>Monitoring: {found.verdict}</h1><p>{escape(headline(found))}</p>",
        f"<ul>{''.join(f'<li>{escape(str(reason))}</li>' for reason in found.reasons)}</ul>",
    ]
    if found.drift:
        data = base64.b64encode(draw(found.drift)).decode()
        parts.append(f'<p>{CAPTION}</p><img alt="{CAPTION}" src="data:image/png;base64,{data}">')
    for section in sections(found):
        if section.rows:
            shown = tabulate(section.rows, headers="keys", tablefmt="html", disable_numparse=True)
            parts.append(f"<h2>{section.title}</h2><p>{escape(section.text)}</p>{shown}")
    head = f"<meta charset=utf-8><title>Monitoring: {found.verdict}</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def draw(drifts: list[Drift]) -> bytes:
    """Draw then and now of the columns that moved most, as PNG."""
    from matplotlib.figure import Figure

    shown = drifts[:SHOWN]
    down = -(-len(shown) // ACROSS)
    figure = Figure(figsize=(4.2 * ACROSS, 2.9 * down), layout="constrained")
    for index, drift in enumerate(shown):
        draw_column(figure.add_subplot(down, ACROSS, index + 1), drift)
    drawn = BytesIO()
    figure.savefig(drawn, dpi=90)
    return drawn.getvalue()


def draw_column(axes: "Axes", drift: Drift) -> None:
    """Draw the share of the rows in each bin, the fullest if there are many."""
    fullest = np.maximum(drift.then, drift.now)
    kept = sorted(np.argsort(-fullest, kind="stable")[:SHOWN])
    kept = [index for index in kept if fullest[index] > LEAST][::-1]
    places = np.arange(len(kept))
    axes.barh(places + 0.2, [100 * drift.then[index] for index in kept], 0.4, color="0.7")
    axes.barh(
        places - 0.2,
        [100 * drift.now[index] for index in kept],
        0.4,
        color=COLOURS[drift.verdict],
        label="now",
    )
    axes.set_yticks(places, [shorten(drift.bins[index], 24, placeholder="…") for index in kept])
    axes.set_title(f"{drift.name}: {drift.moved:.0%} moved, in % of rows", fontsize=9)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
