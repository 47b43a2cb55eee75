"""Figures as a Markdown table: what was measured, compared to what, against which target."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Literal, NamedTuple, Protocol

FORMATS = {
    "s": "{:.3g} s",
    "ms": "{:.2f} ms",
    "GiB": "{:.2f} GiB",
    "MB": "{:.2f} MB",
    "/s": "{:,.0f} /s",
    "%": "{:.1f} %",
}


class Line(Protocol):
    """A line of a table."""

    @property
    def header(self) -> tuple[str, ...]:
        """Titles of the columns; lines with others stand in a table of their own."""
        ...

    @property
    def cells(self) -> tuple[str, ...]:
        """The line as text."""
        ...


class Target(NamedTuple):
    """A limit: of the ratio where the unit is x, else of the value."""

    sign: Literal["≤", "≥"]
    limit: float
    unit: str

    def __str__(self) -> str:
        return f"{self.sign} {self.limit:g} {self.unit}"


class Row(NamedTuple):
    """One figure."""

    name: str
    value: float
    unit: str
    peer: str = ""
    """What it is compared to, measured in the same run and unit as `peer_value`."""
    peer_value: float | None = None
    target: Target | None = None

    header = ("benchmark", "value", "compared to", "ratio", "target", "met")

    @property
    def ratio(self) -> float | None:
        """How many times the peer's value."""
        return self.value / self.peer_value if self.peer_value else None

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.target is None:
            return None
        judged = self.ratio if self.target.unit == "x" else self.value
        if judged is None:
            return None
        return judged <= self.target.limit if self.target.sign == "≤" else judged >= self.target.limit

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        write = FORMATS[self.unit].format
        return (
            self.name,
            write(self.value),
            f"{self.peer}: {write(self.peer_value)}" if self.peer_value else "",
            f"{self.ratio:.2f} x" if self.ratio else "",
            str(self.target or ""),
            {True: "yes", False: "**no**", None: ""}[self.met],
        )


def markdown(rows: Iterable[Line]) -> str:
    """A table for each header, its columns aligned in the source too."""
    tables = groupby(rows, key=lambda row: row.header)
    return "\n\n".join(_table([header, *(row.cells for row in group)]) for header, group in tables)


def _table(lines: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)
