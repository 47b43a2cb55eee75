"""The data report for people: Markdown, with a picture of each column's distribution."""

from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import msgspec

from ..contract import Column, Contract
from ..core.files import table
from ..stats.distributions import Statistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 12
ACROSS = 4


class Findings(msgspec.Struct):
    """What validation found: the machine-readable report."""

    rows: int
    rejected: int
    reasons: dict[str, int]
    failures: list[str]
    columns: dict[str, Statistics]
    warnings: list[str] = []


def write_report(findings: Findings, contract: Contract, folder: Path) -> None:
    """Write `data.md` and `distributions.png` into `folder`."""
    drawn = [column for column in contract.kept if findings.columns[column.name].counts]
    if drawn:
        draw(drawn, findings.columns, folder / "distributions.png")
    verdict = "\n- ".join(["**Not fit for training:**\n", *findings.failures])
    clean = findings.rows - findings.rejected
    parts = [
        "# Data report",
        verdict if findings.failures else "**Fit for training.**",
        "\n".join(f"- Warning: {warning}" for warning in findings.warnings),
        f"{findings.rows:,} rows: {clean:,} clean, {findings.rejected:,} rejected.",
        table([{"rule broken": rule, "rows": count} for rule, count in findings.reasons.items()]),
        "![Distribution of each column](distributions.png)" if drawn else "",
        table([describe(column, findings.columns[column.name]) for column in contract.kept]),
    ]
    (folder / "data.md").write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")


def describe(column: Column, found: Statistics) -> dict[str, Any]:
    """One line of the table of columns."""
    return {
        "column": f"`{column.name}`",
        "what it is": column.description,
        "must be": column.rule,
        "missing": f"{found.missing / found.rows:.1%}" if found.missing else "",
        "distinct (about)": found.distinct,
        "min": found.min,
        "mean": found.mean,
        "max": found.max,
    }


def draw(columns: list[Column], statistics: dict[str, Statistics], path: Path) -> None:
    """Draw a small picture for each column."""
    from matplotlib.figure import Figure

    down = -(-len(columns) // ACROSS)
    figure = Figure(figsize=(3.6 * ACROSS, 2.2 * down))
    for index, column in enumerate(columns):
        draw_column(figure.add_subplot(down, ACROSS, index + 1), column, statistics[column.name])
    figure.subplots_adjust(0.08, 0.3 / down, 0.99, 1 - 0.3 / down, wspace=0.6, hspace=0.45)
    figure.savefig(path, dpi=80, metadata={"Software": None})


def draw_column(axes: "Axes", column: Column, found: Statistics) -> None:
    """Draw a number's histogram, or the most frequent categories."""
    axes.set_title(column.name, fontsize=9)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    if found.edges:
        axes.stairs(found.counts, found.edges, fill=True)
        return
    ranked = sorted(zip(found.counts, column.categories, strict=True))[-SHOWN:]
    names = [shorten(name, 22, placeholder="…") for _, name in ranked]
    axes.barh(names, [count for count, _ in ranked])
