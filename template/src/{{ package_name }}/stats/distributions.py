"""Distributions: of a table's columns for the data report, of a model's inputs and outputs for drift."""

from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..contract import Column, Contract
from ..contract.events import feature_column, output_columns
from ..contract.tables import Connection, fetch_one, quote

N_BINS = 20
COLUMNS_PER_QUERY = 100  # a query for each column would read the table as often
DECILES = [tenth / 10 for tenth in range(11)]


class ColumnSummary(msgspec.Struct, omit_defaults=True):
    """Counts and limits of one column; lists are counted item by item, `text` by its distinct values only."""

    rows: int
    missing: int
    distinct: int  # an estimate from one pass (HyperLogLog)
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    edges: list[float] = []  # of a number's bins, all of one width: one more than `counts`
    counts: list[int] = []  # rows in each bin of a number, or of each category in the contract's order
    earliest: str | None = None
    latest: str | None = None


def summarize_columns(con: Connection, table: str, contract: Contract) -> dict[str, ColumnSummary]:
    """Summarize the contract's columns in a table.

    Args:
        con: Connection that can read the table.
        table: The table as SQL: a name, or a quoted Parquet path.
        contract: Its columns, but for the personal ones, are summarized.

    Returns:
        Name of each column to its summary.
    """
    summaries: dict[str, ColumnSummary] = {}
    for start in range(0, len(contract.kept), COLUMNS_PER_QUERY):
        columns = contract.kept[start : start + COLUMNS_PER_QUERY]
        names = (column.name for column in columns)
        part = dict(zip(names, _count(con, table, columns), strict=True))
        _add_limits(con, table, columns, part)
        _add_times(con, table, columns, part)
        _add_counts(con, table, columns, part)
        summaries |= part
    return summaries


def _count(con: Connection, table: str, columns: Sequence[Column]) -> list[ColumnSummary]:
    """Count rows, missing and distinct values of each column."""
    expressions = []
    for name in (quote(column.name) for column in columns):
        distinct = f"least(approx_count_distinct({name}), count({name}))"
        expressions += ["count(*)", f"count(*) - count({name})", distinct]
    counts = fetch_one(con, f"SELECT {', '.join(expressions)} FROM {table}")
    return [ColumnSummary(*counts[start : start + 3]) for start in range(0, len(counts), 3)]


def _add_limits(
    con: Connection, table: str, columns: Sequence[Column], summaries: dict[str, ColumnSummary]
) -> None:
    """Add minimum, maximum and mean of numbers, and the edges of their histograms."""
    numeric = [column for column in columns if column.kind in ("number", "integer")]
    expressions = []
    for column in numeric:
        name = quote(column.name)
        if column.length is None:
            expressions += [f"min({name})", f"max({name})", f"avg({name})"]
        else:
            mean = f"sum(list_sum({name})) / sum(len({name}))"
            expressions += [f"min(list_min({name}))", f"max(list_max({name}))", mean]
    limits = fetch_one(con, f"SELECT {', '.join(expressions)} FROM {table}") if numeric else ()
    for index, column in enumerate(numeric):
        low, high, mean = limits[3 * index : 3 * index + 3]
        if low is not None:
            summary = summaries[column.name]
            summary.min, summary.max = low, high
            summary.mean = float(f"{mean:.9g}")  # the last digits depend on the number of threads
            width = (high - low) / N_BINS or 1.0
            summary.edges = [low + width * edge for edge in range(N_BINS + 1)]


def _add_times(
    con: Connection, table: str, columns: Sequence[Column], summaries: dict[str, ColumnSummary]
) -> None:
    """Add the first and the last time."""
    for name in (column.name for column in columns if column.kind == "time"):
        limits = f"SELECT min({quote(name)})::VARCHAR, max({quote(name)})::VARCHAR FROM {table}"
        summaries[name].earliest, summaries[name].latest = fetch_one(con, limits)


def _add_counts(
    con: Connection, table: str, columns: Sequence[Column], summaries: dict[str, ColumnSummary]
) -> None:
    """Add the rows in each bin of a number, and of each category; lists are counted item by item."""
    counted = [column for column in columns if column.labels or summaries[column.name].edges]
    values = {column.name: _binned(column, summaries[column.name].edges) for column in counted}
    scalars = [column.name for column in counted if column.length is None]
    histograms = ", ".join(f"map_entries(histogram({values[name]}))" for name in scalars)
    results = dict(
        zip(scalars, fetch_one(con, f"SELECT {histograms} FROM {table}") if scalars else (), strict=True)
    )
    for column in counted:
        if column.length:
            items = f"(SELECT unnest({quote(column.name)}) AS x FROM {table})"
            histogram = f"SELECT map_entries(histogram({values[column.name]})) FROM {items}"
            (results[column.name],) = fetch_one(con, histogram)
        keys = range(N_BINS) if summaries[column.name].edges else column.labels
        counts = {entry["key"]: entry["value"] for entry in results[column.name] or ()}
        summaries[column.name].counts = [counts.get(key, 0) for key in keys]


def _binned(column: Column, edges: list[float]) -> str:
    """SQL: the number of a value's bin, or its category; of the items `x` if the column is a list."""
    value = "x" if column.length else quote(column.name)
    if not edges:
        return f"{value}::VARCHAR"
    width = edges[1] - edges[0]
    place = f"least({N_BINS - 1}, floor(({value} - {edges[0]!r}) / {width!r}))::INTEGER"
    return f"CASE WHEN {value} IS NOT NULL THEN {place} END"  # `least` ignores a missing value


class Distribution(msgspec.Struct, omit_defaults=True):
    """Counts of the values of one input or output of a model.

    A category has a bin for each of its categories. For a number, `edges` are the distinct deciles of the
    reference, which fit any scale and resist outliers; the bins are: below the first edge, equal to it, up to
    each further edge, and above the last.
    """

    counts: list[int]
    missing: int
    edges: list[float] = []
    design_effect: float = 1.0  # see `estimate_design_effects`


def model_columns(contract: Contract) -> dict[str, int]:
    """List the inputs and outputs of a model.

    Args:
        contract: The contract of the model.

    Returns:
        Event column of each input and output to its number of categories; 0 for a number.
    """
    inputs = {
        feature_column(name): 0 if column.length else len(column.labels)
        for column in contract.features
        for name in column.monitored_names
    }
    return inputs | dict.fromkeys(output_columns(contract), 0)


def compute_distributions(con: Connection, table: str, columns: Mapping[str, int]) -> dict[str, Distribution]:
    """Compute the distributions of inputs and outputs, with bins of their own.

    Args:
        con: Connection that can read the table.
        table: The table as SQL: a name, or a quoted Parquet path.
        columns: Columns by name: float32 numbers, or positions in the categories. The value is the number of
            categories; 0 for a number.

    Returns:
        The distributions by column, references for `count_like`.
    """
    references = {name: Distribution([0] * n_categories, 0) for name, n_categories in columns.items()}
    numbers = [name for name, n_categories in columns.items() if not n_categories]
    for part in _batches(numbers):
        selected = ", ".join(f"quantile_disc({_nan_to_null(name)}, {DECILES})" for name in part)
        for name, deciles in zip(part, fetch_one(con, f"SELECT {selected} FROM {table}"), strict=True):
            edges = sorted(set(deciles or [0.0]))
            references[name] = Distribution([0] * (len(edges) + 2), 0, edges)
    return count_like(con, table, references)


def count_like(
    con: Connection, table: str, references: Mapping[str, Distribution]
) -> dict[str, Distribution]:
    """Count the values of columns in the bins of other distributions.

    Args:
        con: Connection that can read the table.
        table: The table as SQL: a name, or a quoted Parquet path.
        references: The distributions whose bins are used, by column.

    Returns:
        The columns' distributions, with the bins of the references.
    """
    distributions = {}
    for part in _batches([*references]):
        query = f"SELECT i, bin, count(*) FROM {_unpivot(table, part, references)} GROUP BY ALL"
        counts = {(i, place): n_rows for i, place, n_rows in con.sql(query).fetchall()}
        for i, name in enumerate(part):
            bins, missing = range(len(references[name].counts)), counts.get((i, None), 0)
            in_bins = [counts.get((i, place), 0) for place in bins]
            distributions[name] = Distribution(in_bins, missing, references[name].edges)
    return distributions


def estimate_design_effects(
    con: Connection, table: str, distributions: Mapping[str, Distribution], alpha: float | None = None
) -> dict[str, float]:
    """Estimate how many rows of a column are worth one independent row.

    That is 1 + (m - 1) rho (Kish, 1965, "Survey Sampling"): m is the number of rows in the unit of an average
    row, rho the intraclass correlation of the bins, by analysis of variance (Donner, 1986). If all values are
    in one bin, rho is unknown and taken to be 1.

    Args:
        con: Connection that can read the table.
        table: The table as SQL, with a column `unit`: rows of one unit (such as a customer) may be alike.
        distributions: Distributions in the table, by column: float32 numbers, or positions in the categories.
        alpha: Significance level of the test that uses the estimate. The fewer the units, the less certain is
            an estimate: it is multiplied by the squared ratio of Student's to the normal quantile. None: not.

    Returns:
        For each column, from 1, for independent rows, to m, for units whose rows all have the same value.
    """
    effects = {}
    for part in _batches([*distributions]):
        values = _unpivot(table, part, distributions, "unit")
        by_column = con.sql(f"""
            SELECT i, count(*), sum(n ** 2), sum(n ** 4), sum(agreement) FROM (
                SELECT i, unit, sum(n) AS n, sum(n ** 2) / sum(n) AS agreement FROM (
                    SELECT i, unit, bin, count(*)::DOUBLE AS n FROM {values} GROUP BY ALL
                ) GROUP BY ALL
            ) GROUP BY i ORDER BY i
        """)
        for i, n_units, squares, fourth_powers, agreement in by_column.fetchall():
            counted = distributions[part[i]]
            ratio = 1.0 if alpha is None else _quantile_ratio(squares**2 / fourth_powers - 1, alpha)
            bins = np.array([*counted.counts, counted.missing])
            effects[part[i]] = _design_effect(bins, n_units, squares, agreement, ratio**2)
    return effects


def _unpivot(table: str, names: list[str], distributions: Mapping[str, Distribution], *more: str) -> str:
    """SQL of the bins of several columns below each other: `i` is the column's place, and NULL no bin."""
    bins = ", ".join(_bin(name, distributions[name]) for name in names)
    selected = ", ".join([*more, f"unnest(range({len(names)})) AS i", f"unnest([{bins}]) AS bin"])
    return f"(SELECT {selected} FROM {table})"


def _design_effect(
    bins: NDArray[np.integer], n_units: int, squares: float, agreement: float, factor: float
) -> float:
    """The design effect of a column, from its counts `(n_bins,)` and sums over the units."""
    n_rows, square = float(np.sum(bins)), float(np.sum(bins**2))
    size = squares / n_rows
    total, within = n_rows - square / n_rows, n_rows - agreement  # sums of squares of 0/1 indicators
    if n_units < 2 or n_units == n_rows or total <= 0:
        return _round(size)
    between_mean, within_mean = (total - within) / (n_units - 1), within / (n_rows - n_units)
    other_size = (n_rows - size) / (n_units - 1)
    correlation = (between_mean - within_mean) / (between_mean + (other_size - 1) * within_mean)
    return _round(min(size, factor * max(1.0, 1 + (size - 1) * correlation)))


def _batches(names: list[str]) -> Iterator[list[str]]:
    """Cut a list of columns: a query for each column would take long, one for all of them much memory."""
    for start in range(0, len(names), COLUMNS_PER_QUERY):
        yield names[start : start + COLUMNS_PER_QUERY]


def _quantile_ratio(df: float, alpha: float) -> float:
    """Ratio of Student's to the normal two-sided quantile, at least 1."""
    from scipy.special import ndtri, stdtrit

    return float(stdtrit(max(df, 1.0), 1 - alpha / 2) / ndtri(1 - alpha / 2))


def _round(number: float) -> float:
    """Round to six digits: the last digits of a sum depend on the number of threads."""
    return float(f"{number:.6g}")


def _bin(column: str, distribution: Distribution) -> str:
    """Build SQL for the position of a value's bin, NULL for a missing value."""
    value = _nan_to_null(column)
    if not distribution.edges:
        return f"{value}::INTEGER"
    above = " + ".join(f"({value} > {edge!r})::INTEGER" for edge in distribution.edges)
    return f"({value} >= {distribution.edges[0]!r})::INTEGER + {above}"


def _nan_to_null(column: str) -> str:
    """Build SQL for a number of a model's input, where NaN stands for a missing value."""
    return f"nullif({quote(column)}, 'NaN'::FLOAT)"
