"""Distributions: of a table's columns for the data report, of a model's inputs and outputs for drift."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

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
        for name in column.encoded_names
    }
    return inputs | dict.fromkeys(output_columns(contract), 0)


def compute_distribution(con: Connection, table: str, column: str, n_categories: int) -> Distribution:
    """Compute the distribution of one input or output, with bins of its own.

    Args:
        con: Connection that can read the table.
        table: The table as SQL: a name, or a quoted Parquet path.
        column: Name of the column: float32 numbers, or positions in the categories.
        n_categories: Number of categories; 0 for a number.

    Returns:
        The distribution, a reference for `count_like`.
    """
    if n_categories:
        return count_like(con, table, column, Distribution([0] * n_categories, 0))
    (deciles,) = fetch_one(con, f"SELECT quantile_disc({_nan_to_null(column)}, {DECILES}) FROM {table}")
    edges = sorted(set(deciles or [0.0]))
    return count_like(con, table, column, Distribution([0] * (len(edges) + 2), 0, edges))


def count_like(con: Connection, table: str, column: str, reference: Distribution) -> Distribution:
    """Count the values of a column in the bins of another distribution.

    Args:
        con: Connection that can read the table.
        table: The table as SQL: a name, or a quoted Parquet path.
        column: Name of the column: float32 numbers, or positions in the categories.
        reference: The distribution whose bins are used.

    Returns:
        The column's distribution, with the bins of the reference.
    """
    value = _nan_to_null(column)
    place = f"{value}::INTEGER"
    if reference.edges:
        above = " + ".join(f"({value} > {edge!r})::INTEGER" for edge in reference.edges)
        place = f"({value} >= {reference.edges[0]!r})::INTEGER + {above}"
    *counts, missing = _count_rows(con, table, place, [*range(len(reference.counts)), None])
    return Distribution(counts, missing, reference.edges)


def _count_rows(con: Connection, table: str, value: str, keys: Iterable[Any]) -> list[int]:
    """Count the rows of a table (SQL) for each value of an SQL expression."""
    counts = dict(con.sql(f"SELECT {value}, count(*) FROM {table} GROUP BY 1").fetchall())
    return [counts.get(key, 0) for key in keys]


def _nan_to_null(column: str) -> str:
    """Build SQL for a number of a model's input, where NaN stands for a missing value."""
    return f"nullif({quote(column)}, 'NaN'::FLOAT)"
