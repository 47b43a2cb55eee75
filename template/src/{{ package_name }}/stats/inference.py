"""Bootstrap intervals and significance tests: pure functions over arrays."""

from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Numbers = NDArray[np.number]
Statistic = Callable[[Floats], Floats]  # counts of shape (n_resamples, n_rows) → (n_resamples,)
Statistics = Mapping[str, Statistic]
MAX_CELLS = 4_000_000  # resamples times rows held in memory at once
MIN_DEFINED_SHARE = 0.9  # of the resamples; below, an estimate is undefined


class Estimate(msgspec.Struct):
    """A statistic of the sample, with its percentile bootstrap interval and its standard error."""

    value: float
    low: float
    high: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"

    @property
    def is_defined(self) -> bool:
        """Whether the statistic has a value.

        Returns:
            False if the rows do not determine it, such as the ROC AUC of one class.
        """
        return bool(np.isfinite(self.value))


def _draw_counts(random: np.random.Generator, n_resamples: int, n_rows: int, block_size: int) -> Floats:
    """How often each resample draws each row, of shape `(n_resamples, n_rows)`.

    Errors of neighbouring rows may be correlated, so blocks of neighbours are drawn together. Circular block
    bootstrap: Politis and Romano, 1992. A `block_size` of 1 is the plain bootstrap (Efron, 1979).
    """
    starts = random.integers(n_rows, size=(n_resamples, -(-n_rows // block_size), 1))
    drawn = ((starts + np.arange(block_size)) % n_rows).reshape(n_resamples, -1)[:, :n_rows]
    positions = drawn + n_rows * np.arange(n_resamples)[:, None]
    counts = np.bincount(positions.ravel(), minlength=n_resamples * n_rows)
    return counts.reshape(n_resamples, n_rows).astype(float)


def bootstrap(
    statistics: Statistics,
    n_rows: int,
    n_bootstrap: int,
    confidence_level: float,
    block_size: int = 1,
    groups: NDArray[np.intp] | None = None,
) -> dict[str, Estimate]:
    """Estimate statistics with bootstrap intervals; all share the same resamples, so differences are paired.

    Args:
        statistics: Functions from counts `(n_resamples, n_rows)` to values `(n_resamples,)`, by name.
        n_rows: Rows of the sample.
        n_bootstrap: Resamples to draw.
        confidence_level: Of the two-sided interval, between 0 and 1.
        block_size: Neighbouring rows that are drawn together.
        groups: Group of each row, numbers from 0, shape `(n_rows,)`: whole groups are drawn, and no blocks.
            Cluster bootstrap: Davison and Hinkley, 1997, "Bootstrap Methods and their Application", 3.8.

    Returns:
        Estimates by name; NaN where fewer than nine in ten resamples have a value.
    """
    random, batch = np.random.default_rng(0), max(1, MAX_CELLS // n_rows)
    values: dict[str, list[Floats]] = {name: [] for name in statistics}
    for start in range(0, n_bootstrap, batch):
        n_drawn = min(batch, n_bootstrap - start)
        if groups is None:
            counts = _draw_counts(random, n_drawn, n_rows, block_size)
        else:
            counts = _draw_counts(random, n_drawn, int(np.max(groups)) + 1, 1)[:, groups]
        for name, statistic in statistics.items():
            values[name].append(statistic(counts))
    unit_counts = np.ones((1, n_rows))
    return {
        name: _summarise(float(statistic(unit_counts)[0]), np.concatenate(values[name]), confidence_level)
        for name, statistic in statistics.items()
    }


def _summarise(value: float, resampled: Floats, confidence_level: float) -> Estimate:
    """Percentile interval and standard error of resampled values."""
    if np.isfinite(resampled).mean() < MIN_DEFINED_SHARE:
        return Estimate(np.nan, np.nan, np.nan, np.nan)
    tails = [(1 - confidence_level) / 2, (1 + confidence_level) / 2]
    low, high = np.nanquantile(resampled, tails).tolist()
    return Estimate(value, low, high, float(np.nanstd(resampled)))


def p_value_below_zero(estimate: Estimate) -> float:
    """Test the null hypothesis that a statistic is not below zero.

    The normal approximation is used because counting resamples cannot give p-values as small as a
    correction for many tests needs.

    Args:
        estimate: The statistic.

    Returns:
        One-sided p-value; small if the statistic is below zero.
    """
    if estimate.standard_error == 0:
        return 0.0 if estimate.value < 0 else 1.0
    return NormalDist().cdf(estimate.value / estimate.standard_error)


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple tests (Holm, 1979).

    Args:
        p_values: P-values of tests made together.

    Returns:
        Adjusted p-values, in the same order. Rejecting all that are at most alpha has a risk of at most
        alpha of any false rejection.
    """
    adjusted, highest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values).tolist()):
        highest = max(highest, p_values[index] * (len(p_values) - rank))
        adjusted[index] = min(1.0, highest)
    return adjusted


def mcnemar_p_value(changes: Numbers) -> float:
    """Test that not more predictions turned from right to wrong than from wrong to right.

    McNemar, 1947, with the continuity correction of Edwards, 1948; for groups of rows as in Durkalski et al.,
    2003, "Analysis of clustered matched-pair data".

    Args:
        changes: For each row or group, the number of predictions that turned right minus those that turned
            wrong, shape `(n_rows,)` or `(n_groups,)`.

    Returns:
        One-sided p-value; small if significantly more predictions turned wrong.
    """
    total = float(changes.sum())
    if total >= 0:
        return 1.0
    return NormalDist().cdf((total + 1) / float((changes**2).sum()) ** 0.5)


def assign_calibration_bins(predicted: Floats) -> NDArray[np.intp]:
    """Assign predictions to bins of equal size, ten or as many as hold at least 100 rows each.

    In a smaller bin all rows may be equal by chance, which leaves no standard error.

    Args:
        predicted: Shape `(n_rows,)`.

    Returns:
        Shape `(n_rows,)`: the bin of each row, from 0.
    """
    n_bins = min(10, max(1, len(predicted) // 100))
    edges = np.quantile(predicted, np.linspace(0, 1, n_bins + 1)[1:-1])
    return np.searchsorted(edges, predicted, side="left")


def homogeneity_p_value(table: Numbers, min_expected: float = 20.0) -> float:
    """Test that both rows of counts come from one distribution.

    Pearson's chi-square test (1900) over bins that expect at least `min_expected` in both rows: with fewer,
    small p-values come too often. Smaller bins are merged (after Cochran, 1954), and `_binomial_p_value`
    tests them unmerged. The smaller of both p-values counts, doubled (Bonferroni).

    Args:
        table: Counts of shape `(2, n_bins)`; one row may hold fractions.
        min_expected: Expected count from which a bin is not merged.

    Returns:
        Between 0 and 1; 1 if all counts are in one bin.
    """
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2:
        return 1.0
    merged = _merge_bins(table, min_expected)
    if merged.shape == table.shape:
        return _chi_square_p_value(table)
    p_values = [_binomial_p_value(table)] + [_chi_square_p_value(merged)] * (merged.shape[1] > 1)
    return min(1.0, len(p_values) * min(p_values))


def _merge_bins(table: Numbers, min_expected: float) -> Numbers:
    """Merge the bins that expect too few rows, and the next smallest until the merged bin expects enough."""
    table = table[:, np.argsort(table.sum(axis=0), kind="stable")]
    expected = table.sum(axis=0) * table.sum(axis=1).min() / table.sum()
    n_too_small = int((expected < min_expected).sum())
    n_merged = max(n_too_small, int(np.searchsorted(expected.cumsum(), min_expected)) + 1)
    return np.column_stack([table[:, :n_merged].sum(axis=1), table[:, n_merged:]])


def _chi_square_p_value(table: Numbers) -> float:
    """P-value of Pearson's test of homogeneity, for counts of shape `(2, n_bins)`."""
    from scipy.special import chdtrc  # lighter to import than scipy.stats

    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    return float(chdtrc(table.shape[1] - 1, ((table - expected) ** 2 / expected).sum()))


def _binomial_p_value(table: Numbers) -> float:
    """P-value of homogeneity, for counts of shape `(2, n_bins)` and any number of rows.

    Tests whether a bin, or all bins up to it, holds too many or too few of the smaller row. Given both
    totals, the count is hypergeometric, and the binomial distribution has heavier tails (Uhlmann, 1966).
    Bonferroni corrects for 2 n_bins - 3 such groups with two sides each. Fractions are rounded so that the
    p-value grows.
    """
    from scipy.special import bdtr, bdtrc

    smaller = int(np.argmin(table.sum(axis=1)))
    n_rows = int(table[smaller].sum() + 1e-9)
    if n_rows == 0:
        return 1.0
    groups = np.column_stack([table, np.cumsum(table, axis=1)[:, :-1]])
    counts, shares = groups[smaller] * n_rows / table[smaller].sum(), groups.sum(axis=0) / table.sum()
    too_many = bdtrc(np.floor(counts + 1e-9) - 1, n_rows, shares)
    too_few = bdtr(np.ceil(counts - 1e-9), n_rows, shares)
    return min(1.0, 2 * (2 * table.shape[1] - 3) * float(min(too_many.min(), too_few.min())))
