"""The data report: JSON for programs, Markdown for people."""

from pathlib import Path
from typing import Any

import msgspec

from ..contract import Column, Contract
from ..core.files import read_json, table
from ..core.paths import CLEAN, REJECTED
from ..stats.distributions import ColumnSummary
from .quality import DataCheck

STATUSES = ("fail", "warn", "pass")  # in the order of the report
BARS = "·▁▂▃▄▅▆▇█"
MAX_CATEGORIES = 6


class DataReport(msgspec.Struct):
    """The content of `data.json`."""

    rows: int
    rejected: int
    reasons: dict[str, int]  # broken rule to the number of rows
    checks: list[DataCheck]
    columns: dict[str, ColumnSummary]
    rejected_values: dict[str, list[str]] = {}  # broken rule to the most frequent values that break it

    def describe_values(self, rule: str) -> str:
        """Name the most frequent values that break a rule.

        Args:
            rule: A broken rule.

        Returns:
            The values as text; empty if the rule is about a missing or personal value.
        """
        values = self.rejected_values.get(rule, [])
        return f", got {', '.join(values)}, …" if values else ""

    def with_status(self, status: str) -> list[DataCheck]:
        """Select checks.

        Args:
            status: `pass`, `warn` or `fail`.

        Returns:
            The checks of that status.
        """
        return [check for check in self.checks if check.status == status]


def load_data_report(path: Path) -> DataReport:
    """Read `data.json`, also as written by 0.2.

    Args:
        path: Path of the file.

    Returns:
        The report.

    Raises:
        ProjectError: The file is missing or broken.
    """
    content = read_json(path)
    failures = [DataCheck("validation", "table", "fail", text) for text in content.get("failures", [])]  # 0.2
    return msgspec.convert({"checks": msgspec.to_builtins(failures)} | content, DataReport)


def format_distribution(column: Column, summary: ColumnSummary) -> str:
    """Write the distribution of a column as text.

    Args:
        column: The column.
        summary: Its summary.

    Returns:
        A bar for each bin of a number; the shares of the most frequent categories, in the contract's order;
        empty for a time or a text.
    """
    counts, n_rows = summary.counts, max(sum(summary.counts), 1)
    if summary.edges:
        return "".join(BARS[-(-8 * count // max(counts))] for count in counts)
    frequent = sorted(range(len(counts)), key=lambda index: -counts[index])[:MAX_CATEGORIES]
    shares = (f"{column.labels[index]} {counts[index] / n_rows:.0%}" for index in sorted(frequent))
    return ", ".join(shares) + (", …" if len(counts) > MAX_CATEGORIES else "")


def write_markdown(report: DataReport, contract: Contract, path: Path) -> None:
    """Write the report for people.

    Args:
        report: The report.
        contract: The contract of the rows.
        path: Path of the Markdown file.
    """
    failed, warned = len(report.with_status("fail")), len(report.with_status("warn"))
    reasons = [
        {"broken rule": rule, "rows": n, "most frequent": ", ".join(report.rejected_values.get(rule, []))}
        for rule, n in report.reasons.items()
    ]
    parts = [
        "# Data report",
        f"**{'Not fit' if failed else 'Fit'} for training**: {failed} checks failed, {warned} warnings.",
        f"{report.rows:,} rows: {report.rows - report.rejected:,} clean (`{CLEAN}`), "
        f"{report.rejected:,} rejected (`{REJECTED}`, each with its reasons).",
        "## Checks",
        table([_check_row(check) for status in STATUSES for check in report.with_status(status)]),
        "## Rejected rows" if reasons else "",
        table(reasons),
        "## Columns",
        table([_column_row(column, report.columns[column.name], contract) for column in contract.kept]),
    ]
    path.write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")


def _check_row(check: DataCheck) -> dict[str, Any]:
    """Return the row of a check in the report."""
    row = {"status": check.status, "check": check.check, "subject": check.subject, "result": check.message}
    limit = {"value": check.value, "limit": check.limit, "parameter": check.parameter}
    return row | limit | {"what to do": check.action}


def _column_row(column: Column, summary: ColumnSummary, contract: Contract) -> dict[str, Any]:
    """Return the row of a column in the report."""
    return {
        "column": f"`{column.name}`",
        "role": contract.roles(column),
        "description": column.description,
        "rule": column.rule,
        "missing": f"{summary.missing / summary.rows:.1%}" if summary.missing else "",
        "distinct (about)": summary.distinct,
        "min": summary.min if summary.earliest is None else summary.earliest,
        "mean": summary.mean,
        "max": summary.max if summary.latest is None else summary.latest,
        "distribution": format_distribution(column, summary),
    }
