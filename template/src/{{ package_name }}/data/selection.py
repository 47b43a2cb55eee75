"""Selection: which columns of the source are stored, and how. All that is stored is pushed."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import duckdb
import msgspec

from ..contract import Contract
from ..contract.tables import Connection, connect, literal, prepare_rows, quote
from ..core.errors import ProjectError
from .groups import repeated_ids
from .merge import Table, exact_text, fold, inspect_table, merge

SOURCE = "__source"
KEY = "PERSONAL_KEY"  # variable of the environment, without which nobody can compute a hash again
MIN_KEY = 16
# What they do would hide columns that only a condition reads.
DISABLED = "in_clause,filter_pushdown,statistics_propagation"


def undeclared_columns(table: Table, contract: Contract, prepare: str) -> list[str]:
    """Find the columns that neither the contract nor `problem.PREPARE` needs.

    Args:
        table: The fetched rows.
        contract: The contract.
        prepare: `problem.PREPARE`.

    Returns:
        Their names in the source. `PREPARE` needs a column that it names, and all columns if it uses rows as
        a whole, as `SELECT DISTINCT *` does.
    """
    needed = {fold(column.name) for column in contract.columns}
    needed |= {name for name in table.types if _is_named(name, prepare)}
    with suppress(duckdb.Error):  # PREPARE does not run on these columns; validation says why
        needed |= _columns_read(table, contract, prepare)
    return [name for name in table.names if fold(name) not in needed]


def _is_named(name: str, prepare: str) -> bool:
    """Whether a query has the folded name of a column as a word."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", fold(prepare)) is not None


def _columns_read(table: Table, contract: Contract, prepare: str) -> set[str]:
    """The columns that DuckDB reads to compute the contract's columns, by its plan of the query."""
    columns = ", ".join(f"{quote(name)} {sql_type}" for name, sql_type in table.types.items())
    with connect() as con:
        con.execute(f"SET disabled_optimizers = '{DISABLED}'")
        con.execute(f"CREATE TABLE {SOURCE} ({columns}); INSERT INTO {SOURCE} DEFAULT VALUES")
        prepared = prepare_rows(con, con.table(SOURCE), prepare)
        names = [quote(column.name) for column in contract.columns if column.name in prepared.columns]
        ((_, plan),) = con.sql(
            f"EXPLAIN (FORMAT json) {prepared.select(', '.join(names)).sql_query()}"
        ).fetchall()
    return set(map(fold, _projections(json.loads(plan))))


def _projections(nodes: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the columns that the scans of a plan read."""
    for node in nodes:
        facts = node.get("extra_info") or {}
        if str(facts.get("Table", "")).endswith(SOURCE):
            columns = facts.get("Projections", [])
            yield from [columns] if isinstance(columns, str) else columns
        yield from _projections(node.get("children", []))


def select_columns(
    con: Connection, fetched: list[Table], contract: Contract, prepare: str, keep_undeclared: bool
) -> list[Table]:
    """Leave out the columns that nothing reads, and say which.

    Args:
        con: Connection that can read the tables.
        fetched: The source.
        contract: The contract.
        prepare: `problem.PREPARE`.
        keep_undeclared: Whether they stay (`ingest.keep_undeclared`).

    Returns:
        The tables without these columns.
    """
    rows = inspect_table(con, f"({merge(con, fetched, contract)})")
    if not (undeclared := undeclared_columns(rows, contract, prepare)):
        return fetched
    names = ", ".join(undeclared)
    if keep_undeclared:
        print(f"ingest: stored and pushed although neither contract nor PREPARE names it: {names}")
        return fetched
    print(f"ingest: not stored, because neither contract nor PREPARE names it: {names}")
    for check in repeated_ids(con, rows.sql, set(map(fold, undeclared))):
        print(f"warning: {check}")
    return [_without(table, set(map(fold, undeclared))) for table in fetched]


def _without(table: Table, left_out: set[str]) -> Table:
    """A table without some of its columns."""
    names = tuple(name for name in table.names if fold(name) not in left_out)
    types = {name: sql_type for name, sql_type in table.types.items() if name not in left_out}
    sql = f"(SELECT {', '.join(map(quote, names)) or 'NULL'} FROM {table.sql})"
    return msgspec.structs.replace(table, sql=sql, names=names, types=types)


def hide_personal(
    con: Connection, fetched: list[Table], contract: Contract, prepare: str, how: str
) -> list[Table]:
    """Mask or hash the columns that the contract calls personal, and say so.

    Args:
        con: Connection that will read the tables.
        fetched: The tables to store.
        contract: The contract.
        prepare: `problem.PREPARE`.
        how: `ingest.personal`: mask, hash, or keep.

    Returns:
        The tables. A personal value is `***`, or `sha256:` and a hash, which is the same for equal values.

    Raises:
        ProjectError: The key of the hashes is missing or too short.
    """
    personal = {fold(column.name) for column in contract.columns if column.personal}
    names = [name for name in dict.fromkeys(fold(n) for t in fetched for n in t.names) if name in personal]
    if not names or how == "keep":
        return fetched
    if how == "hash":
        key = os.environ.get(KEY, "")
        if len(key) < MIN_KEY:
            raise ProjectError(
                f"ingest.personal: hash needs a secret of at least {MIN_KEY} characters in the variable {KEY}"
                " of the environment. Keep it: with another one, all hashes change."
            )
        con.execute(f"SET VARIABLE personal_key = {literal(key)}")
    state = {"mask": "masked", "hash": "hashed"}[how]
    print(f"ingest: personal, and {state} before they are stored: {', '.join(names)}")
    if read := [name for name in names if _is_named(name, prepare)]:
        print(f"warning: PREPARE reads {', '.join(read)}, {state}; see `personal` in README.md")
    return [_hide(table, names, how) for table in fetched]


def _hide(table: Table, names: list[str], how: str) -> Table:
    """A table with other values in some of its columns."""
    present = [name for name in names if name in table.types]
    if not present:
        return table
    replaced = ", ".join(f"{_hidden_value(table, name, how)} AS {quote(name)}" for name in present)
    sql = f"(SELECT * REPLACE ({replaced}) FROM {table.sql})"
    return msgspec.structs.replace(table, sql=sql, types=table.types | dict.fromkeys(present, "VARCHAR"))


def _hidden_value(table: Table, name: str, how: str) -> str:
    """SQL for a personal value, masked or hashed; a missing value stays missing."""
    if how == "mask":
        return f"CASE WHEN {quote(name)} IS NOT NULL THEN '***' END"
    key, value = "getvariable('personal_key')", exact_text(table, name)
    return f"'sha256:' || sha256({key} || sha256({key} || {value}))"
