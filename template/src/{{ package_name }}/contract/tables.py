"""The contract over whole tables, as SQL for DuckDB: memory stays bounded, however many rows."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from duckdb import DuckDBPyConnection as Connection

from ..core.errors import ProjectError
from . import Column, Contract

if TYPE_CHECKING:
    import pandas as pd

TIME = r"\d{4}-\d\d-\d\d[T ]([01]\d|2[0-3]):\d\d:\d\d(\.\d+)?"
SQL_TYPES = {
    "number": "DOUBLE",
    "integer": "BIGINT",
    "category": "VARCHAR",
    "time": "TIMESTAMP",
    "text": "VARCHAR",
}


def connect(memory_gb: float = 2.0, database: Path | None = None) -> Connection:
    """Open DuckDB in UTC, with a memory limit (it goes on on disk) and without downloads of extensions."""
    limits = {"memory_limit": f"{memory_gb}GB", "autoinstall_known_extensions": "false"}
    con = duckdb.connect(str(database or ":memory:"), config={**limits})
    con.execute("SET TimeZone = 'UTC'")  # the host's would decide what a time with an offset becomes
    return con


@contextmanager
def explained(what: str) -> Generator[None]:
    """Say in words what DuckDB cannot do with something that is not ours."""
    try:
        yield
    except duckdb.Error as error:
        raise ProjectError(f"{what}: {str(error).splitlines()[0]}") from None


def one(con: Connection, sql: str) -> tuple[Any, ...]:
    """The only row of an answer."""
    (row,) = con.sql(sql).fetchall()
    return row


def quote(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str | Path) -> str:
    """A text as an SQL string."""
    return "'" + str(text).replace("'", "''") + "'"


def texts(values: tuple[str, ...]) -> str:
    """Texts as an SQL list."""
    return "[" + ", ".join(map(literal, values)) + "]"


def typed(column: Column) -> str:
    """SQL for the column in the contract's type: NULL where the value cannot be read as that."""
    sql_type = SQL_TYPES[column.kind] + ("[]" if column.length else "")
    return f"TRY_CAST({quote(column.name)} AS {sql_type})"


def allowed(column: Column) -> str:
    """SQL for whether a value that is there keeps the contract's rule."""
    value = typed(column)
    if column.kind == "text":
        return "true"
    if column.kind == "time":  # a cast alone would also take "infinity", and drop an offset
        written = f"regexp_full_match({quote(column.name)}::VARCHAR, {literal(TIME)})"
        return f"year({value}) > 0 AND {written}"
    if column.kind == "category":
        listed = texts(column.categories)
        if column.length is None:
            return f"list_contains({listed}, {value})"
        known = f"len(list_filter({value}, lambda x: list_contains({listed}, x)))"
        return f"len({value}) <= {column.length} AND {known} = len({value})"
    if column.length is not None:
        inside = f"len(list_filter({value}, lambda x: {within('x', column)}))"
        return f"len({value}) = {column.length} AND {inside} = {column.length}"
    if column.kind == "integer":  # a cast alone would round
        return f"{within(value, column)} AND TRY_CAST({quote(column.name)} AS DOUBLE) = {value}"
    return within(value, column)


def within(value: str, column: Column) -> str:
    """SQL for whether a number keeps the column's limits."""
    lowest, highest = column.bounds
    return f"{value} BETWEEN {lowest!r} AND {highest!r}"


def reason(column: Column) -> str:
    """SQL for why a value is refused (NULL where it is fine), in the words of `Column.rule`."""
    raw = quote(column.name)
    must = f"must be {column.rule}"
    missing = "NULL" if column.nullable else literal(f"{column.name}: missing; {must}")
    got = "" if column.personal else f" || ', got ' || left({raw}::VARCHAR, 40)"
    return (
        f"CASE WHEN {raw} IS NULL THEN {missing} "
        f"WHEN NOT coalesce({allowed(column)}, false) "
        f"THEN {literal(f'{column.name}: {must}')}{got} END"
    )


def reasons(columns: tuple[Column, ...]) -> str:
    """SQL for the list of all that is wrong with a row."""
    return f"list_filter([{', '.join(map(reason, columns))}], lambda reason: reason IS NOT NULL)"


def encoded(column: Column) -> list[str]:
    """SQL for the numbers of `Column.encoded_names`; for single rows it is `rows.encoder`."""
    value = typed(column)
    if column.kind == "time":
        return [f"hour({value}) + minute({value}) / 60", f"isodow({value})", f"month({value})"]
    if column.kind == "category" and column.length is None:
        return [f"list_position({texts(column.categories)}, {value}) - 1"]
    if column.kind == "category":
        return [f"list_contains({value}, {literal(c)})::INTEGER" for c in column.categories]
    if column.length is not None:
        return [f"{value}[{index + 1}]" for index in range(column.length)]
    return [value]


def numbers(contract: Contract) -> list[str]:
    """SQL for a model's input: one float32 number for each of `Contract.feature_names`."""
    return [f"TRY_CAST({sql} AS FLOAT)" for column in contract.features for sql in encoded(column)]


def read_features(source: str | Path, contract: Contract) -> "pd.DataFrame":
    """Read a parquet file's features: one float32 column for each `Contract.feature_names`."""
    import numpy as np
    import pandas as pd

    selected = ", ".join(f"{sql} AS c{index}" for index, sql in enumerate(numbers(contract)))
    with connect() as con:
        arrays = con.sql(f"SELECT {selected} FROM {literal(source)}").fetchnumpy()
    filled = [np.ma.filled(array.astype(np.float32), np.nan) for array in arrays.values()]
    return pd.DataFrame(dict(zip(contract.feature_names, filled, strict=True)), copy=False)


def read_target(source: str | Path, contract: Contract) -> "pd.Series":
    """Read a parquet file's target: numbers, or positions in the target's categories."""
    (sql,) = encoded(contract.column(contract.target))
    kind = "DOUBLE" if contract.task == "regression" else "BIGINT"
    return read_column(source, f"({sql})::{kind}").rename(contract.target)


def read_row(source: str | Path, contract: Contract) -> dict[str, Any]:
    """Read the features of a parquet file's first row."""
    names = [column.name for column in contract.features]
    with connect() as con:
        row = one(con, f"SELECT {', '.join(map(quote, names))} FROM {literal(source)} LIMIT 1")
    return dict(zip(names, row, strict=True))


def read_column(source: str | Path, sql: str) -> "pd.Series":
    """Read one SQL expression over a parquet file."""
    with connect() as con:
        return con.sql(f"SELECT {sql} AS value FROM {literal(source)}").df()["value"]
