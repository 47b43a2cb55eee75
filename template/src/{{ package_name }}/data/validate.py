"""Validate: check every row by the contract; rejected rows are written apart, each with its reasons."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from duckdb import DuckDBPyRelation as Relation

from .. import declarations, params
from ..contract import Contract, tables
from ..contract.tables import Connection, connect, explain_errors, fetch_one, literal, quote
from ..core.errors import ProjectError, cli
from ..core.files import write_json
from ..core.paths import CLEAN, DATA_REPORT, RAW, REJECTED
from ..stats.distributions import ColumnSummary, summarize_columns
from . import groups, quality
from .raw import newest_rows, raw_files
from .report import DataReport, write_markdown

SHOWN_VALUES, SHOWN_RULES = 3, 3  # of the rejected rows
# SQL after which DuckDB's threads give the rows in another order each time.
REARRANGING = re.compile(
    r"\b(join|over|group\s+by|distinct|pivot|unpivot|unnest|union|except|intersect)\b", re.IGNORECASE
)


def _check_rows(con: Connection, prepared: Relation, contract: Contract) -> None:
    """Create the table `checked`: the contract's columns in its types, and `__reasons` with broken rules."""
    missing = [column.name for column in contract.columns if column.name not in prepared.columns]
    if missing:
        raise ProjectError(
            f"validate: the table lacks the contract's columns {', '.join(missing)}; its columns are "
            f"{', '.join(prepared.columns)}. Add them in problem.PREPARE, or correct the contract. If the "
            "source has them and they are new in the contract, fetch them: make ingest."
        )
    prepared.to_view("prepared")
    columns = ", ".join(f"{tables.cast_column(column)} AS {quote(column.name)}" for column in contract.kept)
    broken = f"list_concat({tables.rejection_reasons(contract.columns)}, {tables.seen_reasons(contract)})"
    con.sql(f"CREATE TABLE checked AS SELECT {columns}, {broken} AS __reasons FROM prepared")


def _reject_duplicates(con: Connection, contract: Contract) -> None:
    """Keep the first of equal rows, and none of different rows with one key."""
    key, row = (", ".join(map(quote, names)) for names in (contract.keys, [c.name for c in contract.kept]))
    key_reason = literal(f"{', '.join(contract.keys)}: not unique; several different rows have it")
    con.sql(f"""
        UPDATE checked SET __reasons = list_append(__reasons,
            CASE WHEN repeated.is_copy THEN 'duplicate: an equal row came before' ELSE {key_reason} END)
        FROM (
            SELECT rowid AS id, row_number() OVER (PARTITION BY {row} ORDER BY rowid) > 1 AS is_copy,
                   count(DISTINCT hash({row})) OVER (PARTITION BY {key}) > 1 AS is_ambiguous
            FROM checked
            WHERE ({key}) IN (SELECT ({key}) FROM checked GROUP BY {key} HAVING count(*) > 1)
        ) AS repeated
        WHERE checked.rowid = repeated.id AND (repeated.is_copy OR repeated.is_ambiguous)
    """)


def _write_rows(con: Connection, contract: Contract, is_ordered: bool) -> None:
    """Write clean rows and rejected rows, with their reasons, in an order that each run gives them.

    It is that of time and key; or that of the source, if there is no time and the rows came in it.
    """
    columns = ", ".join(quote(name) for name in dict.fromkeys([contract.time, *contract.keys]) if name)
    order = f"ORDER BY {columns}" if contract.time or not is_ordered else ""
    clean = f"SELECT * EXCLUDE (__reasons) FROM checked WHERE len(__reasons) = 0 {order}"
    con.sql(f"COPY ({clean}) TO {literal(CLEAN)}")
    joined = "array_to_string(__reasons, '; ') AS reasons"
    rejected = f"SELECT * EXCLUDE (__reasons), {joined} FROM checked WHERE len(__reasons) > 0 {order}"
    con.sql(f"COPY ({rejected}) TO {literal(REJECTED)}")


def _count_reasons(con: Connection) -> list[tuple[str, int, list[str]]]:
    """For each broken rule, most rows first: the number of rows, and the most frequent rejected values."""
    rows = con.sql(f"""
        SELECT rule, sum(n)::BIGINT AS total, list(value ORDER BY n DESC, value)[:{SHOWN_VALUES}]
        FROM (
            SELECT regexp_replace(reason, ', got .*', '', 's') AS rule,
                regexp_extract(reason, ', got (.*)', 1, 's') AS value, count(*) AS n
            FROM (SELECT unnest(__reasons) AS reason FROM checked) GROUP BY ALL)
        GROUP BY rule ORDER BY total DESC, rule
    """)
    return rows.fetchall()


def _check_table(
    con: Connection, contract: Contract, settings: params.Validate, columns: dict[str, ColumnSummary]
) -> list[quality.DataCheck]:
    """Run all checks of the clean rows."""
    clean = literal(CLEAN)
    checks = list(quality.check_target(contract, columns[contract.target], settings))
    if all(check.status == "pass" for check in checks):  # else nothing can be predicted
        checks += quality.check_leakage(con, CLEAN, contract, settings.max_leakage_score)
    checks += quality.check_horizon(con, CLEAN, contract)
    checks += quality.check_empty_columns(contract, columns)
    checks += quality.check_precision(contract, columns)
    checks += quality.check_unknown_categories(con, "prepared", contract)
    checks += quality.check_personal_data(con, clean, contract)
    checks += [quality.check_key(contract), groups.check_repeated_rows(con, contract, clean)]
    checks += groups.check_repeated_ids(con, contract, clean, "raw")
    return list(quality.accept(checks, contract))


def validate(con: Connection, contract: Contract, prepare: str, settings: params.Validate) -> DataReport:
    """Divide the newest rows of `data/raw` into clean and rejected rows, and check the table as a whole.

    Args:
        con: A connection that nothing else uses.
        contract: The contract of the rows.
        prepare: SQL from the table `raw` to the contract's columns.
        settings: The limits.

    Returns:
        The data report.

    Raises:
        ProjectError: `prepare` fails, or gives a table without a column of the contract.
    """
    rows = con.sql(newest_rows(con, contract))
    with explain_errors(f"validate: problem.PREPARE does not run on {RAW}"):
        _check_rows(con, tables.prepare_rows(con, rows, prepare), contract)
    _reject_duplicates(con, contract)
    _write_rows(con, contract, is_ordered=len(raw_files()) == 1 and not REARRANGING.search(prepare))
    rows, rejected = fetch_one(con, "SELECT count(*), count(*) FILTER (len(__reasons) > 0) FROM checked")
    columns = summarize_columns(con, literal(CLEAN), contract)
    checks = [quality.check_rejected_share(rows, rejected, settings)]
    if rejected < rows:
        checks += _check_table(con, contract, settings, columns)
    reasons = _count_reasons(con)
    counts = {rule: count for rule, count, _ in reasons}
    values = {rule: frequent for rule, _, frequent in reasons if frequent != [""]}
    return DataReport(rows, rejected, counts, checks, columns, values)


def main() -> None:
    """Run the stage."""
    settings, problem = params.load(), declarations.load()
    with TemporaryDirectory() as folder, connect(settings.memory_gb, Path(folder) / "checked.duckdb") as con:
        report = validate(con, problem.contract, problem.prepare, settings.validate)
    DATA_REPORT.mkdir(parents=True, exist_ok=True)
    write_json(DATA_REPORT / "data.json", report)
    write_markdown(report, problem.contract, DATA_REPORT / "data.md")
    print(f"validate: {report.rows - report.rejected:,} rows clean, {report.rejected:,} rejected")
    for rule, count in list(report.reasons.items())[:SHOWN_RULES]:
        print(f"  {count:,} rows: {rule}{report.describe_values(rule)}")
    for check in report.with_status("warn"):
        print(f"warning: {check}")
    if failures := report.with_status("fail"):
        raise ProjectError("the data is not fit for training\n- " + "\n- ".join(map(str, failures)))


if __name__ == "__main__":
    cli(main)
