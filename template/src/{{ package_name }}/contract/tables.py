"""The contract as SQL: DuckDB checks and encodes whole tables in bounded memory."""

from collections.abc import Generator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from duckdb import DuckDBPyConnection as Connection
from duckdb import DuckDBPyRelation as Relation

from ..core.errors import ProjectError
from . import TIME, Column, Contract

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    from numpy.typing import NDArray

SQL_TYPES = {"number": "DOUBLE", "integer": "BIGINT"}  # of other kinds: VARCHAR
ROWS_PER_CHUNK = 10_000  # an Arrow array holds at most 2^31 numbers of its lists
SEPARATOR = 31  # "unit separator", which texts hardly contain
HIDDEN = r"\*\*\*|sha256:[0-9a-f]{64}"  # how ingest stores a personal value that it masks or hashes
BOOLEANS = {"true": r"true|t|1(\.0+)?", "false": r"false|f|0(\.0+)?"}


def connect(memory_gb: float = 2.0, database: Path | None = None) -> Connection:
    """Open DuckDB in UTC, without downloads of extensions.

    Args:
        memory_gb: Memory limit; larger results spill to disk.
        database: A file; None: in memory.

    Returns:
        The connection, a context manager.
    """
    limits = {"memory_limit": f"{memory_gb}GB", "autoinstall_known_extensions": "false"}
    con = duckdb.connect(str(database or ":memory:"), config={**limits})
    con.execute("SET TimeZone = 'UTC'")  # times with an offset must not depend on the host's time zone
    # It makes a join of a list of ten values or more; a join does not keep the order of rows, which features
    # and target share.
    con.execute("SET disabled_optimizers = 'in_clause'")
    return con


@contextmanager
def explain_errors(context: str) -> Generator[None]:
    """Turn errors of DuckDB into a `ProjectError`.

    Args:
        context: Begins the message: which file or query failed.

    Yields:
        Nothing.

    Raises:
        ProjectError: DuckDB raised an error.
    """
    try:
        yield
    except duckdb.Error as error:
        raise ProjectError(f"{context}: {str(error).splitlines()[0]}") from None


def fetch_one(con: Connection, sql: str) -> tuple[Any, ...]:
    """Run a query that has exactly one row as its result.

    Args:
        con: The connection.
        sql: The query.

    Returns:
        The row.
    """
    (row,) = con.sql(sql).fetchall()
    return row


def prepare_rows(con: Connection, rows: Relation, prepare: str) -> Relation:
    """Run `problem.PREPARE`: training data and batch files get the contract's columns in the same way.

    Args:
        con: The connection of the rows; it gets a view `raw`.
        rows: Rows as the source has them.
        prepare: SQL from the table `raw` to the contract's columns.

    Returns:
        The prepared rows. DuckDB computes them when they are read, so some of its errors come only then.
    """
    rows.to_view("raw")
    return con.sql(prepare)


def quote(name: str) -> str:
    """Write a name as an SQL identifier.

    Args:
        name: Any text.

    Returns:
        The quoted name.
    """
    return '"' + name.replace('"', '""') + '"'


def literal(text: str | Path) -> str:
    """Write a text as an SQL string.

    Args:
        text: Any text.

    Returns:
        The quoted text.
    """
    return "'" + str(text).replace("'", "''") + "'"


def text_list(values: tuple[str, ...]) -> str:
    """Write texts as an SQL list.

    Args:
        values: Any texts.

    Returns:
        The list of quoted texts.
    """
    return "[" + ", ".join(map(literal, values)) + "]"


def cast_column(column: Column) -> str:
    """Write SQL that casts a column to its type in the contract.

    Args:
        column: A column of the contract.

    Returns:
        SQL that is NULL for a value that cannot be cast, and for an unknown category that counts as missing.
    """
    name = quote(column.name)
    if column.kind == "time":  # in UTC, the time zone of `connect`; an offset is applied
        return f"TRY_CAST(TRY_CAST({name} AS TIMESTAMPTZ) AS TIMESTAMP)"
    if column.kind == "boolean":
        whens = (
            f"WHEN regexp_full_match(lower({name}::VARCHAR), {literal(pattern)}) THEN {value}"
            for value, pattern in BOOLEANS.items()
        )
        return f"CASE {' '.join(whens)} END"
    if column.unknown == "missing":
        return _known_categories(column)
    sql_type = SQL_TYPES.get(column.kind, "VARCHAR") + ("[]" if column.length else "")
    return f"TRY_CAST({name} AS {sql_type})"


def _known_categories(column: Column) -> str:
    """SQL: the value if it is a category of the column, or those items of a list that are."""
    name, categories = quote(column.name), text_list(column.categories)
    if column.length is None:
        return f"CASE WHEN list_contains({categories}, {name}::VARCHAR) THEN {name}::VARCHAR END"
    return f"list_filter(TRY_CAST({name} AS VARCHAR[]), lambda x: list_contains({categories}, x))"


def _is_valid(column: Column) -> str:
    """SQL: whether a value that is not NULL keeps `Column.rule`."""
    value = cast_column(column)
    if column.kind == "text" or (column.unknown == "missing" and column.length is None):
        return "true"
    if column.kind == "boolean":
        return f"{value} IS NOT NULL"
    if column.kind == "time":  # a cast alone accepts "infinity"
        is_written_right = f"regexp_full_match({quote(column.name)}::VARCHAR, {literal(TIME)})"
        return f"year({value}) > 0 AND {is_written_right}"
    if column.kind == "category":
        categories = text_list(column.categories)
        if column.length is None:
            return f"list_contains({categories}, {value})"
        if column.unknown == "missing":
            return f"len(TRY_CAST({quote(column.name)} AS VARCHAR[])) <= {column.length}"
        valid = f"list_filter({value}, lambda x: list_contains({categories}, x))"
        return f"len({value}) <= {column.length} AND len({valid}) = len({value})"
    if column.length is not None:
        valid = f"list_filter({value}, lambda x: {_is_within_bounds('x', column)})"
        return f"len({value}) = {column.length} AND len({valid}) = {column.length}"
    if column.kind == "integer":  # a cast alone rounds
        is_whole = f"TRY_CAST({quote(column.name)} AS DOUBLE) = {value}"
        return f"{_is_within_bounds(value, column)} AND {is_whole}"
    return _is_within_bounds(value, column)


def _is_within_bounds(value: str, column: Column) -> str:
    """SQL: whether a number is within the column's bounds."""
    lowest, highest = column.bounds
    return f"{value} BETWEEN {lowest!r} AND {highest!r}"


def _rejection_reason(column: Column) -> str:
    """SQL: why a value is rejected, in the words of `Column.rule`; NULL if it is valid."""
    raw, must = quote(column.name), f"must be {column.rule}"
    missing = "NULL" if column.nullable else literal(f"{column.name}: missing; {must}")
    shown = f"left({raw}::VARCHAR, 40)"
    if column.labels and column.length is None:  # quotes show a blank at the end
        shown = f"chr(39) || {shown} || chr(39)"
    got = "" if column.personal else f" || ', got ' || {shown}"
    valid = _is_valid(column)
    if column.personal:
        valid = f"({valid}) OR regexp_full_match({raw}::VARCHAR, {literal(HIDDEN)})"
    return (
        f"CASE WHEN {raw} IS NULL THEN {missing} WHEN NOT coalesce({valid}, false) "
        f"THEN {literal(f'{column.name}: {must}')}{got} END"
    )


def rejection_reasons(columns: tuple[Column, ...]) -> str:
    """Write SQL for the list of all rules that a row breaks.

    Args:
        columns: The columns to check.

    Returns:
        SQL for a list of texts; empty for a valid row. Values of personal columns are left out.
    """
    return f"list_filter([{', '.join(map(_rejection_reason, columns))}], lambda reason: reason IS NOT NULL)"


def seen_reasons(contract: Contract) -> str:
    """Write SQL that finds targets among the items that are not offered: no ranking could predict them.

    Args:
        contract: The contract of the rows.

    Returns:
        SQL for a list of texts, one for each column with `Column.seen` that has the target of its row.
    """
    target = contract.column(contract.target)
    reasons = []
    for column in (column for column in contract.columns if column.seen):
        reason = literal(f"{target.name}: is also in {column.name}, whose items are not offered again")
        is_seen = f"list_contains({cast_column(column)}, {cast_column(target)})"
        reasons.append(f"CASE WHEN {is_seen} THEN {reason} || ', got ' || {quote(target.name)}::VARCHAR END")
    return f"list_filter([{', '.join(reasons)}], lambda reason: reason IS NOT NULL)" if reasons else "[]"


def encode_column(column: Column) -> list[str]:
    """Write SQL for the numbers that a column becomes; `rows` encodes single rows alike.

    Args:
        column: A column of the contract.

    Returns:
        An SQL expression for each of `Column.encoded_names`.
    """
    value = cast_column(column)
    if column.kind == "time":
        return [f"hour({value}) + minute({value}) / 60", f"isodow({value})", f"month({value})"]
    if column.kind == "boolean":
        return [f"{value}::INTEGER"]
    if column.kind == "category" and column.length is None:
        return [f"list_position({text_list(column.categories)}, {value}) - 1"]
    if column.kind == "category":
        return [f"list_contains({value}, {literal(c)})::INTEGER" for c in column.categories]
    if column.length is not None:
        return [f"{value}[{index + 1}]" for index in range(column.length)]
    return [value]


def encode_features(contract: Contract) -> str:
    """Write SQL for a model's input.

    Args:
        contract: The contract.

    Returns:
        An SQL expression, of type FLOAT[], with an item for each of `Contract.feature_names`.
    """
    parts = []  # a list of numbers as a whole: an expression for each of its numbers takes ten times longer
    for is_list, columns in groupby(contract.features, lambda column: column.is_number_list):
        if is_list:
            parts += map(_encode_list, columns)
        else:
            numbers = (f"TRY_CAST({sql} AS FLOAT)" for column in columns for sql in encode_column(column))
            parts.append(f"[{', '.join(numbers)}]")
    return f"flatten([{', '.join(parts)}])"


def _encode_list(column: Column) -> str:
    """SQL: a list of numbers, of type FLOAT[]; NULL for each number that is missing."""
    return f"list_resize(coalesce(TRY_CAST({cast_column(column)} AS FLOAT[]), []), {column.length})"


def encode_monitored(contract: Contract) -> list[str]:
    """Write SQL for what events hold of a model's input; `serving.events` computes single rows alike.

    Args:
        contract: The contract.

    Returns:
        An SQL expression, of type FLOAT, for each of `Contract.monitored_names`.
    """
    return [
        f"TRY_CAST({sql} AS FLOAT)"
        for column in contract.features
        for sql in (_summarize(column) if column.is_summarized else encode_column(column))
    ]


def _summarize(column: Column) -> list[str]:
    """SQL for each part of `SUMMARY`, of the float32 numbers that the model sees."""
    values = f"{cast_column(column)}::FLOAT[]"
    return [f"list_{name}({values})" for name in ("avg", "stddev_pop", "min", "max")]


def read_features(source: str | Path, contract: Contract) -> "pd.DataFrame":
    """Read the features from a Parquet file.

    Args:
        source: Path or glob.
        contract: The contract.

    Returns:
        float32, of shape `(n_rows, n_features)`, with `Contract.feature_names` as columns; NaN if missing.
    """
    import numpy as np
    import pandas as pd

    with connect() as con:
        rows = con.sql(f"SELECT {encode_features(contract)} AS features FROM {literal(source)}")
        lists = rows.to_arrow_table(ROWS_PER_CHUNK)["features"]
    # Column by column in memory: the last digits of a mean depend on that order, and so do models.
    features = np.asfortranarray(to_array(lists, len(contract.feature_names)))
    return pd.DataFrame(features, columns=contract.feature_names, copy=False)


def to_array(lists: "pa.ChunkedArray", length: int) -> "NDArray[np.float32]":
    """Convert lists of numbers, which DuckDB computed, to an array.

    Args:
        lists: Lists of equal length, one for each row.
        length: Their length.

    Returns:
        Shape `(n_rows, length)`; NaN for NULL.
    """
    import numpy as np

    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in lists.chunks]
    return np.concatenate([np.empty(0, np.float32), *chunks], dtype=np.float32).reshape(-1, length)


def read_target(source: str | Path, contract: Contract) -> "pd.Series":
    """Read the target from a Parquet file.

    Args:
        source: Path or glob.
        contract: The contract.

    Returns:
        Shape `(n_rows,)`: float64 values, or int64 positions in the target's categories.
    """
    (sql,) = encode_column(contract.column(contract.target))
    kind = "DOUBLE" if contract.task == "regression" else "BIGINT"
    return read_column(source, f"({sql})::{kind}").rename(contract.target)


def key_text(contract: Contract) -> str:
    """Write SQL for the key as one text.

    Args:
        contract: The contract.

    Returns:
        The only column of the key as text; columns of a longer key are joined by a control character.
    """
    return f" || chr({SEPARATOR}) || ".join(f"{quote(name)}::VARCHAR" for name in contract.keys)


def read_row(source: str | Path, contract: Contract) -> dict[str, Any]:
    """Read the first row of a Parquet file.

    Args:
        source: Path or glob.
        contract: The contract.

    Returns:
        The values of the features, as the API takes them, by column.
    """
    names = [column.name for column in contract.features]
    with connect() as con:
        row = fetch_one(con, f"SELECT {', '.join(map(quote, names))} FROM {literal(source)} LIMIT 1")
    return dict(zip(names, row, strict=True))


def read_column(source: str | Path, sql: str) -> "pd.Series":
    """Read an SQL expression over a Parquet file.

    Args:
        source: Path or glob.
        sql: The expression.

    Returns:
        Its value for each row, of shape `(n_rows,)`.
    """
    with connect() as con:
        return con.sql(f"SELECT {sql} AS value FROM {literal(source)}").df()["value"]
