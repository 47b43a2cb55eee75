"""Merge: combine tables whose columns differ in type, without changing any value.

DuckDB promotes types: an integer beside a float becomes a float, and a large integer another number. Here
a column gets the first type that holds each of its values unchanged; text holds every value.
"""

import duckdb
import msgspec

from ..contract import TIME, Contract, Kind
from ..contract.tables import SEPARATOR, Connection, fetch_one, literal, quote

FLOAT_LIMITS = {"FLOAT": 2**24, "DOUBLE": 2**53}  # above, one float stands for several integers
INTEGERS = {f"{sign}{size}INT" for sign in ("", "U") for size in ("TINY", "SMALL", "BIG", "HUGE")}
NUMBERS = INTEGERS | {"INTEGER", "UINTEGER", "DECIMAL", *FLOAT_LIMITS}
NOT_IN_PARQUET = {"HUGEINT", "UHUGEINT"}  # DuckDB would write them as floats


class Table(msgspec.Struct, frozen=True):
    """A table as SQL, its column names as written, and its SQL types by folded name."""

    sql: str
    names: tuple[str, ...]
    types: dict[str, str]


def fold(name: str) -> str:
    """Lower the ASCII letters of a name, as DuckDB does when it compares names.

    Args:
        name: Name of a column.

    Returns:
        The folded name.
    """
    return name.encode().lower().decode()


def inspect_table(con: Connection, sql: str) -> Table:
    """Look up the columns of a table.

    Args:
        con: Connection that can read the table.
        sql: The table as SQL: a name, a quoted path, a table function.

    Returns:
        The table with the names and types of its columns.
    """
    relation = con.sql(f"FROM {sql}")
    folded, types = map(fold, relation.columns), map(str, relation.types)
    return Table(sql, tuple(relation.columns), dict(zip(folded, types, strict=True)))


def key_text(table: Table, contract: Contract) -> str:
    """Build SQL for the key as text: the same for equal keys, whatever type and format a table has.

    Args:
        table: Table with or without the contract's key.
        contract: Its key's kind decides which values are equal.

    Returns:
        SQL expression of type VARCHAR; NULL if the table lacks a column of the key.
    """
    parts = (_key_part(table, name, contract.column(name).kind) for name in contract.keys)
    return f" || chr({SEPARATOR}) || ".join(parts)


def _key_part(table: Table, column: str, kind: Kind) -> str:
    """Build SQL for one column of the key as text."""
    name = fold(column)
    if name not in table.types:
        return "NULL::VARCHAR"
    value, text = quote(name), exact_text(table, name)
    if kind == "integer":
        integer = f"TRY_CAST({value} AS HUGEINT)"
        return f"CASE WHEN TRY_CAST({value} AS DOUBLE) = {integer} THEN {integer}::VARCHAR ELSE {text} END"
    if kind == "time":
        is_time = f"regexp_full_match({value}::VARCHAR, {literal(TIME)})"
        in_utc = f"TRY_CAST(TRY_CAST({value} AS TIMESTAMPTZ) AS TIMESTAMP)"
        return f"coalesce(CASE WHEN {is_time} THEN {in_utc}::VARCHAR END, {text})"
    return text


def count_rounded(con: Connection, table: Table, column: str) -> tuple[int, float | None]:
    """Count the floats of a column that may each stand for several integers.

    Args:
        con: Connection that can read the table.
        table: Table with or without the column.
        column: Name of the column, in any case.

    Returns:
        The number of such rows, and one of the values; 0 if the column is missing or not of a float type.
    """
    limit = FLOAT_LIMITS.get(table.types.get(fold(column), ""))
    if limit is None:
        return 0, None
    value = quote(column)
    rounded = f"abs({value}) > {limit} AND NOT isnan({value})"
    count, example = fetch_one(con, f"SELECT count(*), max({value}) FROM {table.sql} WHERE {rounded}")
    return count, example


def merge(con: Connection, tables: list[Table], contract: Contract, integer_key: bool = False) -> str:
    """Build SQL for the rows of all tables, their columns matched by name.

    Args:
        con: Connection that can read the tables.
        tables: One table or more.
        contract: Texts, categories and times keep their text, numbers their value.
        integer_key: Whether a key of whole floats becomes an integer although no table has it as one.

    Returns:
        A SELECT statement.
    """
    targets = {}
    for name in dict.fromkeys(name for table in tables for name in table.types):
        present = [table for table in tables if name in table.types]
        types = {table.types[name] for table in present}
        if len(types) > 1 or types & NOT_IN_PARQUET or (integer_key and name in map(fold, contract.keys)):
            targets[name] = _lossless_type(con, present, name, contract)
    return " UNION ALL BY NAME ".join(_select(table, targets) for table in tables)


def _select(table: Table, targets: dict[str, str]) -> str:
    """Build SQL for the rows of one table in the target types."""
    casts = []
    for column in table.names:
        name = fold(column)
        if target := targets.get(name):
            is_text = target == "VARCHAR"
            value = exact_text(table, name) if is_text else f"TRY_CAST({quote(name)} AS {target})"
            casts.append(f"{value} AS {quote(column)}")
    replaced = f"REPLACE ({', '.join(casts)})" if casts else ""
    return f"SELECT * {replaced} FROM {table.sql}"


def _lossless_type(con: Connection, tables: list[Table], name: str, contract: Contract) -> str:
    """Find the type in which a column of all tables keeps every value."""
    filled = [table for table in tables if fetch_one(con, f"SELECT count({quote(name)}) FROM {table.sql}")[0]]
    columns = (f"SELECT {quote(name)} FROM {table.sql}" for table in filled or tables)
    promoted = str(con.sql(" UNION ALL ".join(columns)).types[0])
    compare_text = _is_text(contract, filled, name)
    for target in () if promoted == "VARCHAR" else ("BIGINT", "DECIMAL(38,0)", promoted):
        is_lossless = all(_keeps_values(con, table, name, target, compare_text) for table in filled)
        if is_lossless and target not in NOT_IN_PARQUET:
            return target
    return "VARCHAR"


def _is_text(contract: Contract, tables: list[Table], name: str) -> bool:
    """Return whether a column must keep its text, and not only its value as a number."""
    kinds = {column.kind for column in contract.columns if fold(column.name) == name}
    if kinds:
        return not kinds & {"number", "integer"}
    return not all(table.types[name].split("(")[0] in NUMBERS for table in tables)


def exact_text(table: Table, name: str) -> str:
    """Build SQL for a value as text: 7 for a float of 7.0 or a decimal of 7.00.

    Args:
        table: Table with the column.
        name: Folded name of the column.

    Returns:
        SQL expression of type VARCHAR.
    """
    value, sql_type = quote(name), table.types[name]
    if sql_type in FLOAT_LIMITS or (sql_type.startswith("DECIMAL") and not sql_type.endswith("]")):
        return rf"regexp_replace({value}::VARCHAR, '\.0*$', '')"
    return f"{value}::VARCHAR"


def _keeps_values(con: Connection, table: Table, name: str, target: str, compare_text: bool) -> bool:
    """Return whether a type keeps every value of a column, and its text if that counts."""
    value, cast = quote(name), f"TRY_CAST({quote(name)} AS {target})"
    changed = f"TRY_CAST({cast} AS {table.types[name]}) IS DISTINCT FROM {value}"
    if compare_text:
        changed += f" OR {cast}::VARCHAR IS DISTINCT FROM {exact_text(table, name)}"
    try:
        return fetch_one(con, f"SELECT count(*) FROM {table.sql} WHERE {changed}")[0] == 0
    except duckdb.Error:  # there is no such cast
        return False
