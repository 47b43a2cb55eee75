"""What rows drawn by chance can prove: small statistical functions, free of files and settings."""

from collections.abc import Callable, Mapping
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import NDArray

Statistic = Callable[[NDArray], NDArray]  # counts of shape (resamples, rows) → (resamples,)
CELLS = 4_000_000  # resamples times rows, held in memory at once


def draw(random: np.random.Generator, resamples: int, rows: int, block: int) -> NDArray:
    """How often each row is drawn, of shape (resamples, rows), in runs of `block` neighbours.

    Rows near in time err alike; drawn one by one they would prove more than they do. Circular block
    bootstrap: Politis and Romano, 1992. A `block` of 1 is the plain bootstrap (Efron, 1979).
    """
    starts = random.integers(rows, size=(resamples, -(-rows // block), 1))
    drawn = ((starts + np.arange(block)) % rows).reshape(resamples, -1)[:, :rows]
    shifted = drawn + rows * np.arange(resamples)[:, None]
    return np.bincount(shifted.ravel(), minlength=resamples * rows).reshape(resamples, rows).astype(float)


class Estimate(msgspec.Struct):
    """A statistic over the rows as they are, with its percentile interval and standard error."""

    value: float
    low: float
    high: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"


def estimate(
    statistics: Mapping[str, Statistic], rows: int, resamples: int, confidence: float, block: int = 1
) -> dict[str, Estimate]:
    """Bootstrap each statistic over the same resamples: what a statistic compares is paired.

    An estimate is NaN where fewer than nine in ten resamples have a value.
    """
    random, batch = np.random.default_rng(0), max(1, CELLS // rows)
    drawn: dict[str, list[NDArray]] = {name: [] for name in statistics}
    for done in range(0, resamples, batch):
        counts = draw(random, min(batch, resamples - done), rows, block)
        for name, statistic in statistics.items():
            drawn[name].append(statistic(counts))
    once, tails = np.ones((1, rows)), [(1 - confidence) / 2, (1 + confidence) / 2]
    found = {}
    for name, parts in drawn.items():
        values = np.concatenate(parts)
        if np.isfinite(values).mean() < 0.9:
            found[name] = Estimate(np.nan, np.nan, np.nan, np.nan)
            continue
        low, high = np.nanquantile(values, tails).tolist()
        found[name] = Estimate(float(statistics[name](once)[0]), low, high, float(np.nanstd(values)))
    return found


def below_zero(found: Estimate) -> float:
    """One-sided p-value against "not below zero", from the standard error.

    Counting resamples could not reach the small p-values that many segments ask for.
    """
    if found.error == 0:
        return 0.0 if found.value < 0 else 1.0
    return NormalDist().cdf(found.value / found.error)


def holm(p_values: list[float], level: float) -> list[bool]:
    """Which hypotheses are rejected, at most `level` risk of any false one (Holm, 1979)."""
    rejected = [False] * len(p_values)
    for place, index in enumerate(np.argsort(p_values)):
        if p_values[index] > level / (len(p_values) - place):
            break
        rejected[index] = True
    return rejected


def mcnemar(lost: int, won: int) -> float:
    """One-sided p-value that more rows turn wrong (`lost`) than right (`won`).

    McNemar, 1947, with the continuity correction of Edwards, 1948.
    """
    return NormalDist().cdf((won - lost + 1) / (lost + won) ** 0.5) if lost > won else 1.0


def calibration_bins(predicted: NDArray) -> NDArray:
    """The bin of each row, from 0: ten with as many rows in each, fewer where they would hold under 100.

    In a smaller bin all rows may be alike by chance, which leaves no standard error to judge it by.
    """
    bins = min(10, max(1, len(predicted) // 100))
    edges = np.quantile(predicted, np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(edges, predicted, side="left")


def homogeneity(table: NDArray, least: float = 20.0) -> float:
    """P-value that both rows of counts come from one distribution.

    Pearson's chi-square test (1900) where each bin expects `least` in both rows: with fewer, small p-values
    come too often. Bins that expect fewer are counted as one (after Cochran, 1954), and `binomial_tails`
    tests them as they are: the smaller of both p-values counts, doubled (Bonferroni).

    Args:
        table: Counts of shape (2, bins), of which those of a row may be fractions.
        least: A count.

    Returns:
        Between 0 and 1; 1 if all rows are in one bin.
    """
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2:
        return 1.0
    merged = merge_bins(table, least)
    if merged.shape == table.shape:
        return chi_square(table)
    p_values = [binomial_tails(table)] + [chi_square(merged)] * (merged.shape[1] > 1)
    return min(1.0, len(p_values) * min(p_values))


def merge_bins(table: NDArray, least: float) -> NDArray:
    """Count bins that expect fewer than `least` in a row as one, with as many others as that takes."""
    table = table[:, np.argsort(table.sum(axis=0), kind="stable")]
    expected = table.sum(axis=0) * table.sum(axis=1).min() / table.sum()
    merged = max(int((expected < least).sum()), int(np.searchsorted(expected.cumsum(), least)) + 1)
    return np.column_stack([table[:, :merged].sum(axis=1), table[:, merged:]])


def chi_square(table: NDArray) -> float:
    """P-value of Pearson's test of homogeneity, for counts of shape (2, bins)."""
    from scipy.special import chdtrc  # lighter to import than scipy.stats

    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    return float(chdtrc(table.shape[1] - 1, ((table - expected) ** 2 / expected).sum()))


def binomial_tails(table: NDArray) -> float:
    """P-value of homogeneity, for counts of shape (2, bins) and any number of rows.

    Is a bin, or all bins up to it, too full or too empty in the smaller row? Given what both rows hold, its
    count is hypergeometric, and the binomial distribution has heavier tails (Uhlmann, 1966). Bonferroni
    corrects for 2 bins - 3 such groups with two sides each. Fractions are rounded to what proves less.
    """
    from scipy.special import bdtr, bdtrc

    smaller = int(np.argmin(table.sum(axis=1)))
    rows = int(table[smaller].sum() + 1e-9)
    if rows == 0:
        return 1.0
    groups = np.column_stack([table, table.cumsum(axis=1)[:, :-1]])
    counts, shares = groups[smaller] * rows / table[smaller].sum(), groups.sum(axis=0) / table.sum()
    many = bdtrc(np.floor(counts + 1e-9) - 1, rows, shares)
    few = bdtr(np.ceil(counts - 1e-9), rows, shares)
    return min(1.0, 2 * (2 * table.shape[1] - 3) * float(min(many.min(), few.min())))
