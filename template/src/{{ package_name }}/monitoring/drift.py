"""Drift: does production still get rows like those that the model was made from?

One method for every column, from counts in bins alone: categories as they are, numbers between the deciles of
the reference, missing values in a bin of their own.

- Size: the total variation distance between reference and current distribution (0 to 1).
- Significance: Pearson's chi-square test of homogeneity, or a binomial test where the chi-square test needs
  more rows, corrected for the number of columns (Holm, 1979).

A column drifts if the difference is significant and the distance is above `monitor.warn_distance` (a warning)
or `monitor.max_distance` (an alert): with many rows each difference is significant, with few each is large.
Equal distributions are flagged in at most 1 - `monitor.confidence_level` of all windows, for
all columns together.

Too few rows cannot tell drift from chance. Then a column has the status "too few" and the number of rows that
would be enough: for a distance above `monitor.max_distance` as in these rows, and for rows that are all in
one bin.

Rows of one unit (a customer who is scored each day) may be alike, so they count less than independent rows:
the counts are divided by the column's design effect (Rao and Scott, 1981). It is estimated from the units
that the events name (`monitoring.events.find_unit`), and for the reference from the contract's group. An
explicit `monitor.design_effect` replaces the estimate, for example if neighbouring times are alike.
Hour, weekday and month of a time are shown but not tested: a window shorter than a year has its own.
"""

import math
from bisect import bisect_left
from collections.abc import Iterator
from typing import Literal, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..contract import Contract
from ..contract.events import feature_column, is_output, output_column, plain_name
from ..contract.tables import Connection
from ..params import Monitor
from ..stats.distributions import Distribution, count_like, estimate_design_effects
from ..stats.inference import adjust_holm, homogeneity_p_value

Status = Literal["ok", "warn", "alert"]  # from best to worst
DriftStatus = Literal["ok", "too few", "warn", "alert"]
Reference = dict[str, Distribution]
MAX_ROWS = 1_000_000  # upper end of the search for a sufficient number of rows


class Drift(msgspec.Struct):
    """Distance of one input or output of the model from its reference.

    Attributes:
        name: Column, with the prefix "prediction: " for an output.
        bins: Names of the bins; the last one is "missing".
        reference: Share of the rows in each bin, in the reference data.
        current: Share of the rows in each bin, in the events.
        distance: Total variation distance (0 to 1).
        p_value: Of the test of homogeneity, without correction.
        is_tested: False for a column that is only shown.
        status: Result of the check; "too few": the rows cannot tell drift from chance.
        design_effect: How many rows of the events are worth one independent row.
        required_rows: How many rows would be enough; 0 if there are enough.
        column: The list that it is a number of; empty for what is no list.
    """

    name: str
    bins: list[str]
    reference: list[float]
    current: list[float]
    distance: float
    p_value: float
    is_tested: bool
    status: DriftStatus = "ok"
    design_effect: float = 1.0
    required_rows: int = 0
    column: str = ""

    @property
    def message(self) -> str:
        """The largest change.

        Returns:
            Name of the bin with the largest difference, and its two shares.
        """
        index = int(np.argmax(np.abs(np.subtract(self.current, self.reference))))
        return (
            f"largest change: {self.bins[index]}, {self.reference[index]:.1%} in the reference, "
            f"{self.current[index]:.1%} now"
        )


def check_drift(
    con: Connection,
    table: str,
    reference: Reference,
    contract: Contract,
    monitor: Monitor,
    has_units: bool = False,
) -> list[Drift]:
    """Compare each column of the events with its reference.

    Args:
        con: Database with the events.
        table: SQL of a table or view with one row per prediction.
        reference: Distribution of each event column, from the bundle.
        contract: Contract of the model.
        monitor: Limits and confidence level.
        has_units: Whether the table has a column `unit`: rows of one unit may be alike.

    Returns:
        The tested columns, largest distance first, then those that are only shown.
    """
    n_tested = len(reference.keys() - set(_untested_columns(contract)))
    alpha = (1 - monitor.confidence_level) / max(1, n_tested)
    current = count_like(con, table, reference)
    effects = dict.fromkeys(reference, monitor.design_effect or 1.0)
    if monitor.design_effect is None and has_units:
        effects = estimate_design_effects(con, table, current, alpha)
    for name, distribution in current.items():
        distribution.design_effect = effects[name]
    counts = {name: _count_table(reference[name], current[name]) for name in reference}
    drifts = {name: _compare(name, reference[name], counts[name], contract) for name in reference}
    lists = _list_columns(contract)
    for name, drift in drifts.items():
        drift.design_effect, drift.column = current[name].design_effect, lists.get(name, "")
    tested = {name: drift for name, drift in drifts.items() if drift.is_tested}
    flag_drift(list(tested.values()), monitor)
    for name, drift in tested.items():
        if drift.status == "ok":
            n_effective = required_rows(counts[name], alpha, monitor.max_distance)
            drift.required_rows = math.ceil(n_effective * drift.design_effect)
            drift.status = "too few" if drift.required_rows else "ok"
    return sorted(drifts.values(), key=lambda drift: (not drift.is_tested, -drift.distance))


def group_lists(drifts: list[Drift]) -> dict[str, list[Drift]]:
    """Put the numbers of one list together, so that a reader sees a list of 100 numbers as one column.

    Args:
        drifts: Columns of one window.

    Returns:
        Name of the list, or of the column that is none, to its numbers, in the order of the first one. The
        worst number of a list comes first: by status, then by distance.
    """
    groups: dict[str, list[Drift]] = {}
    for drift in drifts:
        groups.setdefault(drift.column or drift.name, []).append(drift)
    statuses = get_args(DriftStatus)
    for numbers in groups.values():
        numbers.sort(key=lambda drift: (statuses.index(drift.status), drift.distance), reverse=True)
    return groups


def flag_drift(tested: list[Drift], monitor: Monitor) -> None:
    """Set the status of columns with a significant and large distance.

    Args:
        tested: All columns of one window that are tested.
        monitor: Limits and confidence level.
    """
    p_values = adjust_holm([drift.p_value for drift in tested])
    for drift, p_value in zip(tested, p_values, strict=True):
        if p_value <= 1 - monitor.confidence_level and drift.distance > monitor.warn_distance:
            drift.status = "alert" if drift.distance > monitor.max_distance else "warn"


def required_rows(counts: NDArray[np.float64], alpha: float, max_distance: float) -> int:
    """Find how many rows are needed to tell drift from chance.

    With that many rows, two shapes are significant: the current one, if its distance is above the limit; and
    a value that is stuck in the most frequent bin for which the distance would be above the limit.

    Args:
        counts: Rows of reference and events in each bin, divided by the design effect: `(2, n_bins)`.
        alpha: Significance level.
        max_distance: Total variation distance, as `monitor.max_distance`.

    Returns:
        The number of effective rows; 0 if the events are enough.
    """
    reference, current = counts / counts.sum(axis=1, keepdims=True)
    bins, n_rows = np.arange(len(reference)), counts[1].sum()
    shapes = [current] if np.abs(current - reference).sum() / 2 > max_distance else []
    if candidates := [index for index in bins if 1 - reference[index] > max_distance]:
        shapes.append(bins == max(candidates, key=lambda index: reference[index]))

    def is_enough(n_rows: float) -> bool:
        return all(homogeneity_p_value(np.array([counts[0], n_rows * shape])) <= alpha for shape in shapes)

    return 0 if is_enough(n_rows) else bisect_left(range(MAX_ROWS), True, int(n_rows) + 1, key=is_enough)


def _count_table(*distributions: Distribution) -> NDArray[np.float64]:
    """Return the effective counts of two distributions in the same bins, `(2, n_bins)`."""
    return np.array([np.array([*part.counts, part.missing]) / part.design_effect for part in distributions])


def _compare(name: str, reference: Distribution, counts: NDArray[np.float64], contract: Contract) -> Drift:
    """Compare two distributions in the same bins."""
    shares = counts / counts.sum(axis=1, keepdims=True)
    return Drift(
        name=f"prediction: {plain_name(name)}" if is_output(name) else plain_name(name),
        bins=[*_bin_names(name, reference, contract), "missing"],
        reference=shares[0].tolist(),
        current=shares[1].tolist(),
        distance=float(np.abs(shares[1] - shares[0]).sum() / 2),
        p_value=homogeneity_p_value(counts),
        is_tested=name not in set(_untested_columns(contract)),
    )


def _untested_columns(contract: Contract) -> Iterator[str]:
    """Yield the calendar's columns and, of two labels, the first, which mirrors the second."""
    for column in contract.features:
        if column.kind == "time":
            yield from map(feature_column, column.encoded_names)
    if len(contract.labels) == 2:
        yield output_column(contract.labels[0])


def _list_columns(contract: Contract) -> dict[str, str]:
    """Name of the list by event column; a list that is monitored by its summary is none."""
    return {
        feature_column(name): column.name
        for column in contract.features
        if column.length and not column.is_summarized
        for name in column.encoded_names
    }


def _bin_names(name: str, reference: Distribution, contract: Contract) -> list[str]:
    """Name the categories, or the intervals of a number."""
    if not reference.edges:
        return list(contract.column(plain_name(name)).labels)
    is_integer = any(c.kind == "integer" and feature_column(c.name) == name for c in contract.features)
    edges = [f"{edge:.5g}" for edge in reference.edges]
    starts = [f"{edge + 1:.5g}" for edge in reference.edges] if is_integer else edges
    pairs = zip(starts, edges[1:], strict=False)
    inner = [end if start == end else f"{start} to {end}" for start, end in pairs]
    return [f"below {edges[0]}", edges[0], *inner, f"above {edges[-1]}"]
