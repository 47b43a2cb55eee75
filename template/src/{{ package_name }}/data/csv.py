"""CSV: read files as text, with the options of `ingest.csv`, which have the names that DuckDB gives them."""

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import duckdb
import msgspec

from ..contract import Contract
from ..contract.tables import Connection, literal, quote, text_list
from ..core.errors import ProjectError
from .merge import Table, fold, inspect_table

READER = (
    *("comment", "compression", "delim", "encoding", "escape", "header", "max_line_size", "names"),
    *("null_padding", "nullstr", "quote", "sep", "skip", "strict_mode"),
)
FORMATS = ("decimal_separator", "thousands", "dateformat", "timestampformat")  # for columns of the contract


def open_csv(con: Connection, files: tuple[str, ...], options: dict[str, Any]) -> Table:
    """Open CSV files as one table of texts: `validate` casts them and reports values that do not fit.

    Args:
        con: Connection that will read the files.
        files: One file or more.
        options: `ingest.csv`.

    Returns:
        The rows of all files.

    Raises:
        ProjectError: An option is unknown.
    """
    if unknown := sorted(options.keys() - {*READER, *FORMATS}):
        raise ProjectError(
            f"ingest.csv: {unknown[0]!r} is no option. They are {', '.join((*READER, *FORMATS))}; for their "
            "meaning, see the CSV reader of DuckDB."
        )
    reader_options = "".join(f", {name}={_value(value)}" for name, value in options.items() if name in READER)
    texts = f"{text_list(files)}, all_varchar=true, union_by_name=true"
    return inspect_table(con, f"read_csv({texts}{reader_options})")


def _value(value: Any) -> str:
    """Write a value of YAML in SQL."""
    if isinstance(value, list):
        return text_list(tuple(map(str, value)))
    return str(value).lower() if isinstance(value, bool | int) else literal(str(value))


def read_formats(table: Table, contract: Contract, options: dict[str, Any]) -> Table:
    """Write the numbers and times of a table of texts as the contract expects them.

    DuckDB would stop at a value that is not in the format; here it stays as it is, and validation rejects it.

    Args:
        table: A table of the source; it is left as it is unless it comes from CSV files.
        contract: Says which columns are numbers and times.
        options: `ingest.csv`.

    Returns:
        The table with these columns replaced.
    """
    if not options.keys() & {*FORMATS} or not table.sql.startswith("read_csv("):
        return table
    readers = {"number": _read_number, "integer": _read_number, "time": _read_time}
    columns = [column for column in contract.columns if fold(column.name) in table.types]
    replaced = [
        f"{readers[column.kind](quote(column.name), options)} AS {quote(column.name)}"
        for column in columns
        if column.kind in readers and column.length is None
    ]
    return msgspec.structs.replace(table, sql=f"(SELECT * REPLACE ({', '.join(replaced)}) FROM {table.sql})")


def _read_number(value: str, options: dict[str, Any]) -> str:
    """SQL for a number with a point and without separators of thousands."""
    for name, substitute in (("thousands", ""), ("decimal_separator", ".")):
        if name in options:
            value = f"replace({value}, {literal(str(options[name]))}, {literal(substitute)})"
    return value


def _read_time(value: str, options: dict[str, Any]) -> str:
    """SQL for a time as ISO 8601."""
    parsed = [
        f"strftime(try_strptime({value}, {literal(str(options[name]))}), {literal(written)})"
        for name, written in (("timestampformat", "%Y-%m-%d %H:%M:%S.%f"), ("dateformat", "%Y-%m-%d"))
        if name in options
    ]
    return f"coalesce({', '.join([*parsed, value])})" if parsed else value


@contextmanager
def explain_csv() -> Generator[None]:
    """Name file, line and cause of an error in a CSV file, which DuckDB spreads over its message.

    Yields:
        Nothing.

    Raises:
        ProjectError: A CSV file cannot be read.
    """
    try:
        yield
    except duckdb.Error as error:
        text = str(error)
        line = re.search(r"CSV Error on Line: (\d+)", text)
        file = re.search(r"^ +file = (.*)", text, re.M)
        if not (line and file):
            raise
        cause = text.splitlines()[2:3] or text.splitlines()[:1]
        raise ProjectError(
            f"ingest: {file[1]}, line {line[1]}, or near it: {cause[0]}. Correct the file, or set options of "
            "ingest.csv, such as encoding."
        ) from error
