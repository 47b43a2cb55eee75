"""Merge: one table from tables whose columns differ in type, without a change of any value.

DuckDB promotes types: an integer beside a float becomes a float, and a large one another number. Here a
column is kept in the first type that holds each of its values as it is; text holds them all.
"""

import duckdb
import msgspec

from ..contract import Contract
from ..contract.tables import TIME, Connection, fetch_one, literal, quote

SIZES = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
WHOLE = {*SIZES, *(f"U{size}" for size in SIZES)}
HUGE = {"HUGEINT", "UHUGEINT"}  # which Parquet does not have: written as they are, they become floats
EXACT_UP_TO = {"FLOAT": 2**24, "DOUBLE": 2**53}  # beyond, one float stands for several whole numbers


class Part(msgspec.Struct, frozen=True):
    """A table (SQL), and name and type of each column by its name in lower case."""

    table: str
    columns: dict[str, tuple[str, str]]

    def name(self, folded: str) -> str:
        """The column as an SQL identifier, written as this table has it."""
        return quote(self.columns[folded][0])

    def type(self, folded: str) -> str:
        """The column's SQL type."""
        return self.columns[folded][1]


def fold(name: str) -> str:
    """A name as DuckDB compares it: without regard to the case of ASCII letters."""
    return name.encode().lower().decode()


def describe(con: Connection, table: str) -> Part:
    """Look up the columns of a table (SQL)."""
    relation = con.sql(f"FROM {table}")
    named = zip(relation.columns, map(str, relation.types), strict=True)
    return Part(table, {fold(name): (name, sql_type) for name, sql_type in named})


def is_number(sql_type: str) -> bool:
    """Whether a type is one of numbers, or of lists of them."""
    item = sql_type.split("[")[0]
    return item in WHOLE or item in EXACT_UP_TO or item.startswith("DECIMAL")


def exact_text(part: Part, folded: str) -> str:
    """SQL for a value as text: 7 for a float of 7.0, or a decimal of 7.00."""
    value, sql_type = part.name(folded), part.type(folded)
    if sql_type in WHOLE or sql_type.endswith("]") or not is_number(sql_type):
        return f"{value}::VARCHAR"
    limit = EXACT_UP_TO.get(sql_type)
    exact = f"abs({value}) <= {limit} AND " if limit else ""
    whole = f"TRY_CAST({value} AS HUGEINT)::VARCHAR"
    return f"CASE WHEN {exact}{value} = trunc({value}) THEN {whole} ELSE {value}::VARCHAR END"


def key_text(part: Part, contract: Contract) -> str:
    """SQL for the key as text: the same for equal keys, however a table has typed and written them."""
    folded, kind = fold(contract.key), contract.column(contract.key).kind
    if folded not in part.columns:
        return "NULL::VARCHAR"
    value, text = part.name(folded), exact_text(part, folded)
    if kind == "integer":
        whole = f"TRY_CAST({value} AS HUGEINT)"
        return f"CASE WHEN TRY_CAST({value} AS DOUBLE) = {whole} THEN {whole}::VARCHAR ELSE {text} END"
    if kind == "time":
        is_time = f"regexp_full_match({value}::VARCHAR, {literal(TIME)})"
        return f"coalesce(CASE WHEN {is_time} THEN TRY_CAST({value} AS TIMESTAMP)::VARCHAR END, {text})"
    return text


def count_rounded(con: Connection, part: Part, name: str) -> int:
    """Count the floats of a column that may stand for several whole numbers."""
    folded = fold(name)
    limit = EXACT_UP_TO.get(part.type(folded)) if folded in part.columns else None
    if limit is None:
        return 0
    value = part.name(folded)
    rounded = f"abs({value}) > {limit} AND NOT isnan({value})"
    return fetch_one(con, f"SELECT count(*) FROM {part.table} WHERE {rounded}")[0]


def merge(con: Connection, parts: list[Part], contract: Contract, exact: str = "") -> str:
    """SQL for the rows of all parts, their columns matched by name.

    Args:
        con: Connection that reads the parts.
        parts: One table or more.
        contract: Its texts, categories and times keep their text, its numbers their value.
        exact: A column whose whole floats become integers although no part has it as integers.
    """
    replaced: list[list[str]] = [[] for _ in parts]
    for folded in dict.fromkeys(name for part in parts for name in part.columns):
        present = [part for part in parts if folded in part.columns]
        types = {part.type(folded) for part in present}
        if len(types) == 1 and not types & HUGE and folded != fold(exact):
            continue
        target = common_type(con, present, folded, contract)
        for part, items in zip(parts, replaced, strict=True):
            if part in present:
                cast = f"TRY_CAST({part.name(folded)} AS {target})"
                items.append(f"{cast if target else exact_text(part, folded)} AS {part.name(folded)}")
    selects = []
    for part, items in zip(parts, replaced, strict=True):
        changes = f"REPLACE ({', '.join(items)}) " if items else ""
        selects.append(f"SELECT * {changes}FROM {part.table}")
    return " UNION ALL BY NAME ".join(selects)


def common_type(con: Connection, parts: list[Part], folded: str, contract: Contract) -> str | None:
    """The type in which a column of all parts keeps every value; None: only text does."""
    filled = [
        part for part in parts if fetch_one(con, f"SELECT count({part.name(folded)}) FROM {part.table}")[0]
    ]
    text = is_text(contract, filled, folded)
    for target in candidates(con, filled or parts, folded):
        if all(holds(con, part, folded, target, text) for part in filled):
            return target
    return None


def is_text(contract: Contract, parts: list[Part], folded: str) -> bool:
    """Whether the text of a column counts, and not only its value as a number."""
    kinds = {column.kind for column in contract.columns if fold(column.name) == folded}
    if kinds:
        return not kinds & {"number", "integer"}
    return not all(is_number(part.type(folded)) for part in parts)


def candidates(con: Connection, parts: list[Part], folded: str) -> list[str]:
    """Types that may hold a column of all parts, the best first."""
    tables = (f"SELECT {part.name(folded)} AS x FROM {part.table}" for part in parts)
    promoted = str(con.sql(" UNION ALL ".join(tables)).types[0])
    if promoted in HUGE:
        return ["BIGINT", "DECIMAL(38,0)"]
    if promoted in EXACT_UP_TO:
        return ["BIGINT", promoted]
    return [promoted, "BIGINT"] if promoted.startswith("DECIMAL") else [promoted]


def holds(con: Connection, part: Part, folded: str, target: str, text: bool) -> bool:
    """Whether a type keeps every value of a column, and its text if that counts."""
    value, cast = part.name(folded), f"TRY_CAST({part.name(folded)} AS {target})"
    changed = f"TRY_CAST({cast} AS {part.type(folded)}) IS DISTINCT FROM {value}"
    if text:
        changed += f" OR {cast}::VARCHAR IS DISTINCT FROM {exact_text(part, folded)}"
    try:
        return fetch_one(con, f"SELECT count(*) FROM {part.table} WHERE {changed}")[0] == 0
    except duckdb.Error:  # no such cast
        return False
