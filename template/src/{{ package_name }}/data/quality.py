"""Data quality: checks of the whole table of clean rows, after each row was checked by the contract."""

import re
import tempfile
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import msgspec

from .. import params
from ..contract import Contract
from ..contract.dataset import load_dataset
from ..contract.tables import Connection, fetch_one, key_text, literal, quote, text_list
from ..stats.distributions import ColumnSummary
from .leakage import AND, score_classes, score_features

LEAKAGE_ROWS = 5_000
MAX_MATCHES = 1_000
EXACT_INTEGER = 2**24  # beyond, float32 rounds integers
N_STRONGEST = 5  # features whose leakage score is shown, whatever it is
MIN_MATCHES = 0.95  # share of values found among the targets that are not known yet

ACCEPT = 'If it is no fault, say so in the contract: accepted={"<check>": "<reason>"}.'
ACTIONS = {
    "rejected rows": "Read the reasons in data/rejected.parquet; correct source, PREPARE or contract.",
    "class size": "Add rows of this class, or remove the category from the contract.",
    "constant target": "Add rows with other values of the target.",
    "target leakage": f"If it is known only after the target, set known_at_prediction=False. {ACCEPT}",
    "class leakage": f"If it is known only after the target, set known_at_prediction=False. {ACCEPT}",
    "unknown target": "A feature must be known at prediction: use a value that is at least a horizon old. "
    f"{ACCEPT}",
    "empty column": "Leave the column out (feature=False) until the source has values.",
    "precision": "The model's numbers are float32: subtract a constant in problem.PREPARE, or use a time.",
    "unknown categories": "Add frequent values to the categories of the contract.",
    "personal data": "Set personal=True in the contract to drop the column, or personal=False if harmless.",
    "key as feature": "If the key only identifies rows, delete key_is_feature=True in the contract: the new "
    "model is then not compared with this one. If the model needs the key, set feature=True in its column.",
    "repeated ids": "If a customer, patient or machine has several rows, training and test both have some, "
    'and the metrics are too good for new ones: declare it in the contract, group="<column>". If new rows '
    f"come from known ones only, that is no fault. {ACCEPT}",
    "repeated rows": "If they are rows of one customer, patient or machine, the metrics are too good for new "
    f'ones: declare the column with its id, group="<column>". {ACCEPT}',
}
WARNINGS = (
    "key as feature",
    "repeated ids",
    "repeated rows",
    "class leakage",
    "unknown categories",
    "precision",
)
"""Checks that do not stop the pipeline."""

PERSONAL_DATA = {
    "e-mail addresses": r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}",
    "card numbers": r"\b\d(?:[ -]?\d){12,18}\b",
    "social security numbers": r"\b\d{3}-\d{2}-\d{4}\b",
    "bank account numbers": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b",
    "phone numbers": r"(?:\+|\b00[1-9])\d[\d ()/.-]{6,16}\d\b|\(?\b\d{3}\)?[ .-]\d{3}[ .-]\d{4}\b",
}


class DataCheck(msgspec.Struct, omit_defaults=True):
    """Result of one check of the whole table."""

    check: str
    subject: str
    status: Literal["pass", "warn", "fail"]
    message: str  # the observation, in words
    value: float | None = None
    limit: str = ""
    parameter: str = ""  # that sets the limit

    @property
    def action(self) -> str:
        """What to do about a check that does not pass.

        Returns:
            One sentence; empty for a check that passes.
        """
        return "" if self.status == "pass" else ACTIONS.get(self.check, "").replace("<check>", self.check)

    def __str__(self) -> str:
        limit = f" ({self.value:.4g}; must be {self.limit}: {self.parameter})" if self.limit else ""
        return f"{self.check}: {self.subject}: {self.message}{limit}. {self.action}"


def make_check(check: str, subject: str, passes: bool, message: str, *limit: Any) -> DataCheck:
    """Create a check.

    Args:
        check: Its name.
        subject: What was checked.
        passes: Whether it passes.
        message: The observation, in words.
        *limit: Its value, limit and parameter.

    Returns:
        The check, with a warning or a failure if it does not pass.
    """
    status = "pass" if passes else "warn" if check in WARNINGS else "fail"
    return DataCheck(check, subject, status, message, *limit)


def check_rejected_share(rows: int, rejected: int, settings: params.Validate) -> DataCheck:
    """Check the share of rows that break the contract.

    Args:
        rows: Number of all rows.
        rejected: Number of rejected rows.
        settings: The limits.

    Returns:
        The check; it fails for an empty table too.
    """
    share, max_share = rejected / max(rows, 1), settings.max_rejected_share
    message, limit = f"{rejected:,} of {rows:,} rows break the contract", (share, f"≤ {max_share:g}")
    if rows == 0:
        message = "the source, or problem.PREPARE, gives no row"
    passes = rows > 0 and share <= max_share
    return make_check("rejected rows", "table", passes, message, *limit, "validate.max_rejected_share")


def check_target(contract: Contract, target: ColumnSummary, settings: params.Validate) -> Iterator[DataCheck]:
    """Check that each class has enough rows, or that a number varies.

    Args:
        contract: The contract of the rows.
        target: Summary of the target.
        settings: The limits.

    Yields:
        A check for each class; one check for a regression; none for a ranking.
    """
    if contract.task == "regression":
        message = f"values from {target.min} to {target.max}"
        yield make_check("constant target", contract.target, target.min != target.max, message)
    if contract.task == "classification":
        limit = f"≥ {settings.min_class_rows}", "validate.min_class_rows"
        for label, n in zip(contract.labels, target.counts, strict=True):
            subject = f"{contract.target} = {label}"
            yield make_check("class size", subject, n >= settings.min_class_rows, f"{n:,} rows", n, *limit)


def check_leakage(con: Connection, clean: Path, contract: Contract, max_score: float) -> Iterator[DataCheck]:
    """Check whether a feature, or a pair of features, reveals the target.

    Args:
        con: Any connection.
        clean: Parquet file of the clean rows, of which 5,000 are drawn by a hash of the key.
        contract: The contract of the rows.
        max_score: `validate.max_leakage_score`.

    Yields:
        A check for each leak and for each of the five strongest features; a warning for a feature that
        reveals one class only.
    """
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "sample.parquet"
        drawn = f"FROM {literal(clean)} ORDER BY hash({key_text(contract)}) LIMIT {LEAKAGE_ROWS}"
        con.sql(f"COPY ({drawn}) TO {literal(sample)}")
        rows = load_dataset(sample, contract)
    scores, classes = score_features(rows, max_score), score_classes(rows)
    message = f"a small decision tree predicts {contract.target} from it with this score"
    limit = f"< {max_score:g}", "validate.max_leakage_score"
    features = {column.name for column in contract.features}
    strongest = sorted(features, key=lambda name: (-scores[name], name))[:N_STRONGEST]
    leaks = [name for name in sorted(scores, key=lambda name: -scores[name]) if scores[name] >= max_score]
    for name in dict.fromkeys([*leaks, *strongest]):
        passes = scores[name] < max_score
        yield make_check("target leakage", name, passes, message, round(scores[name], 6), *limit)
    for (name, label), score in classes.items():
        if score >= max_score > scores[name]:
            message = f"a small decision tree tells {contract.target} = {label} from it with this score"
            yield make_check("class leakage", name, False, message, round(score, 6), *limit)


def check_horizon(con: Connection, clean: Path, contract: Contract) -> Iterator[DataCheck]:
    """Check that no feature holds a target that is not known yet, such as that of the day before.

    Args:
        con: Any connection.
        clean: Parquet file of the clean rows.
        contract: The contract of the rows. Nothing is checked without a horizon, nor for a classification:
            labels are equal by chance.

    Yields:
        A failed check for each feature that nearly always equals the target of a row within the horizon, of
        the same group, but seldom that of a row drawn at random; one passed check if there is none.
    """
    if contract.time is None or not contract.gap or contract.task != "regression":
        return
    passes = True
    for column in contract.features:
        is_number = column.kind in ("number", "integer") and column.length is None
        if is_number and column.name != contract.time:
            share, chance = _unknown_share(con, clean, contract, column.name)
            if share >= MIN_MATCHES and share > 2 * chance:
                message = f"{share:.0%} of its values equal {contract.target} of a row within the horizon"
                passes = False
                yield make_check("unknown target", column.name, passes, message, share, f"< {MIN_MATCHES}")
    if passes:
        yield make_check("unknown target", "table", passes, "no feature holds a target within the horizon")


def _unknown_share(con: Connection, clean: Path, contract: Contract, feature: str) -> tuple[float, float]:
    """Share of a feature's values that equal a target within the horizon; and of values of other rows."""
    gap = contract.gap
    gap_sql = f"INTERVAL {gap.total_seconds()} SECOND" if isinstance(gap, timedelta) else repr(gap)
    group = quote(contract.group) if contract.group else "0"
    is_recent = f"""rows.unit = sample.unit
        AND rows.time <= sample.time AND rows.time > sample.time - {gap_sql}"""
    query = f"""
        WITH rows AS (
            SELECT {quote(contract.time or "")} AS time, {quote(contract.target)} AS target, {group} AS unit,
                {quote(feature)} AS value, hash({key_text(contract)}) AS place FROM {literal(clean)}),
        sample AS (
            SELECT *, lead(value) OVER (PARTITION BY unit ORDER BY place) AS other
            FROM (FROM rows WHERE value IS NOT NULL ORDER BY place LIMIT {LEAKAGE_ROWS}))
        SELECT (SELECT count(*) FROM sample SEMI JOIN rows ON {is_recent} AND rows.target = sample.value),
            (SELECT count(*) FROM sample SEMI JOIN rows ON {is_recent} AND rows.target = sample.other),
            (SELECT greatest(1, count(*)) FROM sample)
    """
    n_equal, n_by_chance, n_rows = fetch_one(con, query)
    return n_equal / n_rows, n_by_chance / n_rows


def check_empty_columns(contract: Contract, columns: dict[str, ColumnSummary]) -> Iterator[DataCheck]:
    """Check that each feature has a value.

    Args:
        contract: The contract of the rows.
        columns: Summaries of the columns.

    Yields:
        A failed check for each feature that is always missing.
    """
    for column in contract.features:
        if columns[column.name].missing == columns[column.name].rows:
            yield make_check("empty column", column.name, False, "has no value in any row")


def check_precision(contract: Contract, columns: dict[str, ColumnSummary]) -> Iterator[DataCheck]:
    """Check that the model can tell neighbouring integers apart.

    Args:
        contract: The contract of the rows.
        columns: Summaries of the columns.

    Yields:
        A warning for each integer feature with values that float32 rounds.
    """
    for column in contract.features:
        low, high = columns[column.name].min, columns[column.name].max
        if column.kind == "integer" and low is not None and high is not None:
            largest = max(abs(low), abs(high))
            if largest > EXACT_INTEGER:
                message = f"its values reach {largest:,.0f}"
                yield make_check("precision", column.name, False, message, largest, f"≤ {EXACT_INTEGER:,}")


def check_unknown_categories(con: Connection, table: str, contract: Contract) -> Iterator[DataCheck]:
    """Count the values that are no category and count as missing (`Column.unknown`).

    Args:
        con: Connection that can read the table.
        table: The rows as the source has them, as SQL.
        contract: The contract of the rows.

    Yields:
        A check for each column with `unknown="missing"`; a warning that shows the most frequent values.
    """
    for column in contract.kept:
        if column.unknown == "missing":
            values = (
                f"unnest(TRY_CAST({quote(column.name)} AS VARCHAR[]))"
                if column.length
                else quote(column.name)
            )
            unknown = con.sql(f"""
                SELECT value, count(*) AS n FROM (SELECT {values}::VARCHAR AS value FROM {table})
                WHERE NOT list_contains({text_list(column.categories)}, value)
                GROUP BY value ORDER BY n DESC, value
            """).fetchall()
            shown = ", ".join(f"{value!r} ({n:,})" for value, n in unknown[:N_STRONGEST])
            message = f"{sum(n for _, n in unknown):,} values are no category and count as missing: {shown}"
            yield make_check("unknown categories", column.name, not unknown, message if unknown else "none")


def accept(checks: Iterable[DataCheck], contract: Contract) -> Iterator[DataCheck]:
    """Let findings pass that the contract accepts.

    Args:
        checks: The checks.
        contract: The contract; `Column.accepted` names the check and the reason.

    Yields:
        The checks.
    """
    for check in checks:
        for column in contract.columns:
            is_subject = column.name == check.subject or column.name in check.subject.split(AND)
            if check.status != "pass" and is_subject and check.check in column.accepted:
                reason = column.accepted[check.check]
                check = msgspec.structs.replace(
                    check, status="pass", message=f"{check.message}; accepted: {reason}"
                )
        yield check


def check_personal_data(con: Connection, table: str, contract: Contract) -> Iterator[DataCheck]:
    """Search the text columns that the contract does not declare as personal or harmless.

    Args:
        con: Connection that can read the table.
        table: The table as SQL: a name, or a quoted Parquet path.
        contract: The contract of the rows.

    Yields:
        A check for each such column.
    """
    for column in contract.kept:
        if column.kind == "text" and column.personal is None:
            counts = {kind: _count_matches(con, table, column.name, kind) for kind in PERSONAL_DATA}
            kind = next((kind for kind in counts if counts[kind]), None)
            message = f"{counts[kind]} or more values look like {kind}" if kind else "no value looks personal"
            yield make_check("personal data", column.name, kind is None, message)


def _count_matches(con: Connection, table: str, column: str, kind: str) -> int:
    """Count distinct values with personal data, up to a limit; card numbers must pass their checksum too."""
    pattern, name = PERSONAL_DATA[kind], quote(column)
    matches = f"SELECT DISTINCT {name} FROM {table} WHERE regexp_matches({name}, {literal(pattern)})"
    values = con.sql(f"{matches} LIMIT {MAX_MATCHES}").fetchall()
    if kind == "card numbers":
        values = [text for (text,) in values if any(map(_has_checksum, re.findall(pattern, text)))]
    return len(values)


def _has_checksum(number: str) -> bool:
    """Return whether the check digit of a card number is right (Luhn, ISO/IEC 7812-1)."""
    digits = [int(digit) for digit in reversed(number) if digit.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def check_key(contract: Contract) -> DataCheck:
    """Check that the key, which usually only identifies a row, is a feature only if that was asked for.

    Args:
        contract: The contract of the rows.

    Returns:
        The check; a warning if the key is a feature because it was one by default up to 0.3.
    """
    name = ", ".join(contract.keys)
    if features := [key for key in contract.keys if contract.column(key).feature]:
        message = f"the model learns from {', '.join(features)}, as feature=True says"
        return make_check("key as feature", name, True, message)
    if not contract.key_is_feature or contract.key == contract.time:
        return make_check("key as feature", name, True, "the key only identifies rows")
    return make_check("key as feature", name, False, "the model learns from the key, the API requires it")
