"""Statistics: of a table's columns for reports, of a model's inputs and outputs as reference for drift."""

import msgspec

from ..contract import Column, Contract
from ..contract.events import feature_column, output_columns
from ..contract.tables import Connection, fetch_one, quote

BINS = 20
TENTHS = [tenth / 10 for tenth in range(11)]


class Statistics(msgspec.Struct, omit_defaults=True):
    """What one column holds; lists are counted item by item, `text` by its distinct values only."""

    rows: int
    missing: int
    distinct: int  # estimated in one pass (HyperLogLog)
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    edges: list[float] = []  # bounds of a number's bins, all of one width: one more than counts
    counts: list[int] = []  # rows in each bin of a number, or of each category, in the contract's order


def describe(con: Connection, table: str, contract: Contract) -> dict[str, Statistics]:
    """Describe the contract's columns in `table` (SQL: a name, or a quoted parquet path)."""
    return {column.name: describe_column(con, table, column) for column in contract.kept}


def describe_column(con: Connection, table: str, column: Column) -> Statistics:
    """Describe one column."""
    name = quote(column.name)
    count = f"count(*), count(*) - count({name})"
    distinct = f"least(approx_count_distinct({name}), count({name}))"
    found = Statistics(*fetch_one(con, f"SELECT {count}, {distinct} FROM {table}"))
    values = f"(SELECT {f'unnest({name})' if column.length else name} AS x FROM {table})"
    if column.kind in ("number", "integer"):
        describe_numbers(con, values, found)
    if column.kind == "category":
        counts = dict(con.sql(f"SELECT x, count(*) FROM {values} GROUP BY x").fetchall())
        found.counts = [counts.get(category, 0) for category in column.categories]
    return found


def describe_numbers(con: Connection, values: str, found: Statistics) -> None:
    """Add limits, mean and histogram of the numbers `x` in `values` (SQL)."""
    found.min, found.max, mean = fetch_one(con, f"SELECT min(x), max(x), avg(x) FROM {values}")
    if found.min is None or found.max is None:
        return
    found.mean = float(f"{mean:.9g}")  # the last digits depend on the number of threads
    width = (found.max - found.min) / BINS or 1.0
    found.edges = [found.min + width * index for index in range(BINS + 1)]
    place = f"least({BINS - 1}, floor((x - {found.min!r}) / {width!r}))::INTEGER"
    counts = dict(con.sql(f"SELECT {place}, count(*) FROM {values} GROUP BY 1").fetchall())
    found.counts = [counts.get(index, 0) for index in range(BINS)]


class Distribution(msgspec.Struct, omit_defaults=True):
    """How often an input or output of a model has which values.

    Of a category, the bins are its categories. Of a number, `edges` are the distinct tenths of the
    reference, which suit any scale and no outlier can stretch; the bins lie below the first edge, at it,
    up to each further one, and above the last.
    """

    counts: list[int]
    missing: int
    edges: list[float] = []


def model_columns(contract: Contract) -> dict[str, int]:
    """Inputs and outputs, as events call them: how many categories each has, 0 for a number."""
    inputs = {
        feature_column(name): 0 if column.length else len(column.categories)
        for column in contract.features
        for name in column.encoded_names
    }
    return inputs | dict.fromkeys(output_columns(contract), 0)


def distribution(con: Connection, table: str, name: str, categories: int) -> Distribution:
    """The distribution of one such column in `table` (SQL)."""
    if categories:
        return tally(con, table, name, Distribution([0] * categories, 0))
    (tenths,) = fetch_one(con, f"SELECT quantile_disc({known(name)}, {TENTHS}) FROM {table}")
    edges = sorted(set(tenths or [0.0]))
    return tally(con, table, name, Distribution([0] * (len(edges) + 2), 0, edges))


def tally(con: Connection, table: str, name: str, like: Distribution) -> Distribution:
    """Count a column of `table` (SQL) in the bins of another distribution."""
    place = f"{known(name)}::INTEGER"
    if like.edges:
        above = " + ".join(f"({known(name)} > {edge!r})::INTEGER" for edge in like.edges)
        place = f"({known(name)} >= {like.edges[0]!r})::INTEGER + {above}"
    counts = dict(con.sql(f"SELECT {place}, count(*) FROM {table} GROUP BY 1").fetchall())
    found = [counts.get(index, 0) for index in range(len(like.counts))]
    return Distribution(found, counts.get(None, 0), like.edges)


def known(name: str) -> str:
    """SQL for a number that is NaN to a model where it is missing."""
    return f"nullif({quote(name)}, 'NaN'::FLOAT)"
