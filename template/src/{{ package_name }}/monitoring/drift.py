"""Drift: are the rows of production still like those that the model was made from?

One method for every column, from counts in bins alone: categories as they are, numbers between the
tenths of the reference, missing values in a bin of their own.

- Size: the share of the rows that would have to fall into other bins for both distributions to be equal
  (total variation distance, between 0 and 1).
- Doubt: Pearson's chi-square test of homogeneity, and where it needs more rows a binomial test, corrected
  for the number of columns (Holm, 1979).

A column is accused only if the test leaves no doubt and the size is over `monitor.warn_distance` (a warning)
or `monitor.max_distance` (an alert): of many rows each difference is beyond doubt, of few each is large. So
equal distributions are accused in at most 1 - `monitor.confidence_level` of all windows, all columns
together.

Rows may be too few to tell. Then a column is a warning and names how many would be enough: if rows that are
all in one bin would leave doubt, or if a size over `monitor.max_distance` does.

That holds for rows that come by themselves. Where rows tell of the same case again (a customer asked about
each day), k of them prove what one does: `monitor.design_effect` is that k, and divides the events' counts
(the design effect: Rao and Scott, 1981). Hour, weekday and month of a time are shown and not judged: a
window shorter than a year has its own.
"""

from bisect import bisect_left
from collections.abc import Iterator
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..contract import Contract
from ..contract.events import feature_column, is_output, output_column, plain_name
from ..contract.tables import Connection
from ..params import Monitor
from ..stats.distributions import Distribution, tally
from ..stats.inference import adjust_holm, homogeneity_p_value

Verdict = Literal["ok", "warn", "alert"]  # from best to worst
Reference = dict[str, Distribution]
MOST_ROWS = 1_000_000  # where the search for enough rows ends


class Drift(msgspec.Struct):
    """How far one input or output of the model is from its reference."""

    name: str
    bins: list[str]  # the last: missing
    then: list[float]  # share of the rows in each bin: in the reference,
    now: list[float]  # and in the events
    moved: float
    p_value: float
    judged: bool
    verdict: Verdict = "ok"
    enough: int = 0  # rows that it takes to tell, if these are too few

    @property
    def said(self) -> str:
        """What moved, and where to most."""
        most = int(np.argmax(np.abs(np.subtract(self.now, self.then))))
        return (
            f"{self.moved:.0%} of the rows are not as they were; "
            f"most: {self.bins[most]}, {self.then[most]:.1%} then, {self.now[most]:.1%} now"
        )


def find_drift(
    con: Connection, table: str, reference: Reference, contract: Contract, monitor: Monitor
) -> list[Drift]:
    """Compare each column of the events in `table` (SQL) with its reference; the worst come first."""
    tables = {
        name: as_table(then, tally(con, table, name, then), monitor.design_effect)
        for name, then in reference.items()
    }
    found = [compare(name, reference[name], counts, contract) for name, counts in tables.items()]
    judge(found, monitor)
    level = (1 - monitor.confidence_level) / max(1, sum(drift.judged for drift in found))
    for drift, counts in zip(found, tables.values(), strict=True):
        if drift.judged and drift.verdict == "ok":
            drift.enough = enough_rows(counts, level, monitor.max_distance) * monitor.design_effect
            drift.verdict = "warn" if drift.enough else "ok"
    return sorted(found, key=lambda drift: (not drift.judged, -drift.moved))


def judge(found: list[Drift], monitor: Monitor) -> None:
    """Accuse what is far from its reference and beyond doubt."""
    judged = [drift for drift in found if drift.judged]
    p_values = adjust_holm([drift.p_value for drift in judged])
    for drift, p_value in zip(judged, p_values, strict=True):
        if p_value <= 1 - monitor.confidence_level and drift.moved > monitor.warn_distance:
            drift.verdict = "alert" if drift.moved > monitor.max_distance else "warn"


def enough_rows(counts: NDArray, level: float, limit: float) -> int:
    """How many rows it takes to tell drift from chance: 0 if those here are enough.

    Enough leave no doubt of what moved over the limit here, nor of a value that is stuck: of those that would
    be over the limit, the most usual.

    Args:
        counts: Of shape (2, bins): of the reference, and of the events as far as they are not alike.
        level: The p-value that leaves no doubt.
        limit: A size, as `monitor.max_distance`.
    """
    then, now = counts / counts.sum(axis=1, keepdims=True)
    bins, rows = np.arange(len(then)), counts[1].sum()
    shapes = [now] if np.abs(now - then).sum() / 2 > limit else []
    if over := [index for index in bins if 1 - then[index] > limit]:
        shapes.append(bins == max(over, key=lambda index: then[index]))

    def is_enough(rows: float) -> bool:
        return all(homogeneity_p_value(np.array([counts[0], rows * shape])) <= level for shape in shapes)

    return 0 if is_enough(rows) else bisect_left(range(MOST_ROWS), True, int(rows) + 1, key=is_enough)


def as_table(then: Distribution, now: Distribution, alike: int) -> NDArray:
    """The counts of two distributions in the same bins, of shape (2, bins), as far as rows are not alike."""
    counts = np.array([[*then.counts, then.missing], [*now.counts, now.missing]], float)
    return counts / [[1], [alike]]


def compare(name: str, then: Distribution, counts: NDArray, contract: Contract) -> Drift:
    """Hold two distributions in the same bins against each other."""
    shares: NDArray = counts / counts.sum(axis=1, keepdims=True)
    return Drift(
        name=f"answer: {plain_name(name)}" if is_output(name) else plain_name(name),
        bins=[*bin_names(name, then, contract), "missing"],
        then=shares[0].tolist(),
        now=shares[1].tolist(),
        moved=float(np.abs(shares[1] - shares[0]).sum() / 2),
        p_value=homogeneity_p_value(counts),
        judged=name not in set(unjudged(contract)),
    )


def unjudged(contract: Contract) -> Iterator[str]:
    """The calendar, and of two labels the first, which mirrors the second."""
    for column in contract.features:
        if column.kind == "time":
            yield from map(feature_column, column.encoded_names)
    if len(contract.labels) == 2:
        yield output_column(contract.labels[0])


def bin_names(name: str, like: Distribution, contract: Contract) -> list[str]:
    """What the bins hold, in words."""
    if not like.edges:
        return list(contract.column(plain_name(name)).categories)
    whole = any(it.kind == "integer" and feature_column(it.name) == name for it in contract.features)
    edges = [f"{edge:.5g}" for edge in like.edges]
    starts = [f"{edge + 1:.5g}" for edge in like.edges] if whole else edges
    inner = [
        end if start == end else f"{start} to {end}" for start, end in zip(starts, edges[1:], strict=False)
    ]
    return [f"below {edges[0]}", edges[0], *inner, f"above {edges[-1]}"]
