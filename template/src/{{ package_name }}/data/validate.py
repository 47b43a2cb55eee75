"""Validate: hold every row against the contract; bad ones go aside, each with its reasons."""

import tempfile
from pathlib import Path

from duckdb import DuckDBPyRelation as Relation

from .. import declarations, params
from ..contract import Contract
from ..contract.tables import (
    Connection,
    cast_column,
    connect,
    explain_errors,
    fetch_one,
    literal,
    quote,
    read_features,
    read_target,
    rejection_reasons,
)
from ..core.errors import ProjectError, cli
from ..core.files import write_json
from ..core.paths import CLEAN, DATA_REPORT, RAW, REJECTED
from ..stats.distributions import Statistics, describe
from .groups import repeated_ids
from .privacy import find_personal
from .report import Findings, write_report

LEAKAGE_ROWS = 5_000


def check_rows(con: Connection, prepared: Relation, contract: Contract) -> None:
    """Make the table `checked`: the contract's columns in its types, and in `__reasons` what is wrong."""
    absent = [column.name for column in contract.columns if column.name not in prepared.columns]
    if absent:
        raise ProjectError(
            f"validate: the table lacks {', '.join(absent)}, which the contract declares; it has "
            f"{', '.join(prepared.columns)}. Add it in problem.PREPARE, or correct the contract."
        )
    prepared.to_view("prepared")
    columns = ", ".join(f"{cast_column(column)} AS {quote(column.name)}" for column in contract.kept)
    broken = rejection_reasons(contract.columns)
    con.sql(f"CREATE TABLE checked AS SELECT {columns}, {broken} AS __reasons FROM prepared")


def reject_duplicates(con: Connection, contract: Contract) -> None:
    """Of equal rows the first stays; of different rows with one key none: which one is right?"""
    key, row = quote(contract.key), ", ".join(quote(column.name) for column in contract.kept)
    con.sql(f"""
        CREATE TABLE repeated AS
        SELECT rowid AS row, row_number() OVER (PARTITION BY {row} ORDER BY rowid) > 1 AS copy,
               count(DISTINCT hash({row})) OVER (PARTITION BY {key}) > 1 AS contradicted
        FROM checked
        WHERE {key} IN (SELECT {key} FROM checked GROUP BY {key} HAVING count(*) > 1)
    """)
    key_reason = literal(f"{contract.key}: not unique; several different rows have it")
    con.sql(f"""
        UPDATE checked SET __reasons = list_append(__reasons,
            CASE WHEN repeated.copy THEN 'duplicate: the same row came before' ELSE {key_reason} END)
        FROM repeated
        WHERE checked.rowid = repeated.row AND (repeated.copy OR repeated.contradicted)
    """)


def write_rows(con: Connection, contract: Contract) -> None:
    """Write clean rows (in time order, if there is a time) and rejected ones with their reasons."""
    order = f"ORDER BY {quote(contract.time)}, {quote(contract.key)}" if contract.time else ""
    clean = f"SELECT * EXCLUDE (__reasons) FROM checked WHERE len(__reasons) = 0 {order}"
    con.sql(f"COPY ({clean}) TO {literal(CLEAN)}")
    said = "array_to_string(__reasons, '; ') AS reasons"
    rejected = f"SELECT * EXCLUDE (__reasons), {said} FROM checked WHERE len(__reasons) > 0"
    con.sql(f"COPY ({rejected}) TO {literal(REJECTED)}")


def count_reasons(con: Connection) -> dict[str, int]:
    """How often each rule was broken, the value at fault left out."""
    rows = con.sql("""
        SELECT regexp_replace(one, ', got .*', '', 's') AS reason, count(*) AS n
        FROM (SELECT unnest(__reasons) AS one FROM checked)
        GROUP BY reason ORDER BY n DESC, reason
    """)
    return dict(rows.fetchall())


def failures(con: Connection, contract: Contract, settings: params.Validate, findings: Findings) -> list[str]:
    """Say what makes the whole table unfit, each with its way out."""
    found = rejected_share(findings, settings)
    if findings.rows == findings.rejected:
        return found
    unlearnable = label_problems(contract, findings.columns[contract.target], settings)
    found += unlearnable
    for what in find_personal(con, literal(CLEAN), contract):
        found.append(f"personal data: {what}. Set personal=True to drop it, or False if harmless.")
    for what in [] if unlearnable else leaks(con, contract, settings):
        found.append(f"target leakage: {what}. Set feature=False, or see validate.max_leakage_score.")
    return found


def rejected_share(findings: Findings, settings: params.Validate) -> list[str]:
    """Too many bad rows: the source or the contract is wrong."""
    share = findings.rejected / max(findings.rows, 1)
    if findings.rows and share <= settings.max_rejected_share:
        return []
    return [
        f"rejected rows: {findings.rejected:,} of {findings.rows:,} ({share:.1%}), over "
        f"validate.max_rejected_share ({settings.max_rejected_share:.1%}). {REJECTED} says why."
    ]


def label_problems(contract: Contract, target: Statistics, settings: params.Validate) -> list[str]:
    """A class with too few rows, or a number that never changes, teaches nothing."""
    if contract.task == "regression" and target.min == target.max:
        return [f"label: {contract.target} is {target.min} in every row. Bring rows that differ."]
    if contract.task != "classification":
        return []
    return [
        f"label: {contract.target} is {label!r} in {count} rows, under validate.min_class_rows "
        f"({settings.min_class_rows}). Bring more, or drop the category from the contract."
        for label, count in zip(contract.labels, target.counts, strict=True)
        if count < settings.min_class_rows
    ]


def key_warnings(contract: Contract) -> list[str]:
    """Say so if the model learns from what only identifies a row."""
    if contract.key == contract.time or contract.column(contract.key) not in contract.features:
        return []
    return [
        f"{contract.key}: the key is a feature: the model learns from it, and the API asks for it. If it "
        "only identifies rows, set key_is_feature=False in the contract. That makes a new model, which "
        "cannot be compared with this one column by column."
    ]


def leaks(con: Connection, contract: Contract, settings: params.Validate) -> list[str]:
    """Look for leaks in a sample of the rows, drawn by a hash of the key."""
    from .leakage import find_leaks

    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "sample.parquet"
        drawn = f"FROM {literal(CLEAN)} ORDER BY hash({quote(contract.key)}) LIMIT {LEAKAGE_ROWS}"
        con.sql(f"COPY ({drawn}) TO {literal(sample)}")
        target = read_target(sample, contract).to_numpy()
        return find_leaks(read_features(sample, contract), target, contract, settings.max_leakage_score)


def validate(con: Connection, contract: Contract, prepare: str, settings: params.Validate) -> Findings:
    """Split `data/raw.parquet` into clean and rejected rows, and judge the table as a whole."""
    con.read_parquet(str(RAW)).to_view("raw")
    with explain_errors(f"validate: problem.PREPARE does not run on {RAW}"):
        check_rows(con, con.sql(prepare), contract)
    reject_duplicates(con, contract)
    write_rows(con, contract)
    rows, rejected = fetch_one(con, "SELECT count(*), count(*) FILTER (len(__reasons) > 0) FROM checked")
    columns = describe(con, literal(CLEAN), contract)
    findings = Findings(rows, rejected, count_reasons(con), [], columns)
    findings.failures = failures(con, contract, settings, findings)
    findings.warnings = [*key_warnings(contract), *repeated_ids(con, contract, literal(CLEAN), "raw")]
    return findings


def main() -> None:
    settings, problem = params.load(), declarations.load()
    with (
        tempfile.TemporaryDirectory() as folder,
        connect(settings.memory_gb, Path(folder) / "checked.duckdb") as con,
    ):
        findings = validate(con, problem.contract, problem.prepare, settings.validate)
    DATA_REPORT.mkdir(parents=True, exist_ok=True)
    write_json(DATA_REPORT / "data.json", findings)
    write_report(findings, problem.contract, DATA_REPORT)
    clean = findings.rows - findings.rejected
    print(f"validate: {clean:,} rows clean, {findings.rejected:,} rejected")
    for warning in findings.warnings:
        print(f"warning: {warning}")
    if findings.failures:
        raise ProjectError("the data is not fit for training\n- " + "\n- ".join(findings.failures))


if __name__ == "__main__":
    cli(main)
