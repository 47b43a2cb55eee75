"""Data quality: checks of the whole table of clean rows, after each row was checked by the contract."""

import re
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from .. import params
from ..contract import Contract
from ..contract.dataset import load_dataset
from ..contract.tables import Connection, fetch_one, literal, quote
from ..stats.distributions import ColumnSummary
from .leakage import score_features
from .merge import fold, inspect_table

LEAKAGE_ROWS = 5_000
MAX_MATCHES = 1_000
MIN_IDS = 10  # fewer distinct values are categories, such as regions
MIN_ROWS_PER_ID = 1.5

ACTIONS = {
    "rejected rows": "Read the reasons in data/rejected.parquet; correct source, PREPARE or contract.",
    "class size": "Add rows of this class, or remove the category from the contract.",
    "constant target": "Add rows with other values of the target.",
    "target leakage": "If it is known only after the target, set known_at_prediction=False in the contract.",
    "personal data": "Set personal=True in the contract to drop the column, or personal=False if harmless.",
    "key as feature": "If the key only identifies rows, set key_is_feature=False in the contract. The new "
    "model cannot be compared with this one column by column.",
    "repeated ids": "If a customer, patient or machine has several rows, training and test both have some, "
    "and the metrics are too good for new ones. Keep one row of each, or split the source by it.",
}
WARNINGS = ("key as feature", "repeated ids")  # the other checks stop the pipeline

PERSONAL_DATA = {
    "e-mail addresses": r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}",
    "card numbers": r"\b\d(?:[ -]?\d){12,18}\b",
    "social security numbers": r"\b\d{3}-\d{2}-\d{4}\b",
    "bank account numbers": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b",
    "phone numbers": r"(?:\+|\b00[1-9])\d[\d ()/.-]{6,16}\d\b|\(?\b\d{3}\)?[ .-]\d{3}[ .-]\d{4}\b",
}
# Names of ids, as regular expressions over words joined by "_".
IDS = "id|ids|uuid|guid"
NUMBERS = f"{IDS}|no|nr|num|number|code|key|serial|ref"
OWNERS = (
    "account|animal|applicant|asset|athlete|borrower|buyer|case|claimant|client|company|"
    "contact|customer|device|doctor|donor|driver|employee|engine|family|farm|firm|guest|"
    "hospital|household|individual|learner|loan|machine|member|merchant|meter|mother|"
    "organisation|organization|owner|participant|passenger|patient|person|player|policy|"
    "policyholder|product|property|provider|pupil|respondent|rider|school|seller|sensor|"
    "session|shop|sku|store|student|subject|subscriber|supplier|tailnum|tenant|turbine|user|"
    "vehicle|vendor|vin|visitor|worker"
)
MEASURES = "of|at|per|in|by|with|since|for|count|n|years|months|days|age|is|has|new"


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
        return "" if self.status == "pass" else ACTIONS.get(self.check, "")

    def __str__(self) -> str:
        limit = f" ({self.value:.4g}; must be {self.limit}: {self.parameter})" if self.limit else ""
        return f"{self.check}: {self.subject}: {self.message}{limit}. {self.action}"


def _result(check: str, subject: str, passes: bool, message: str, *limit: Any) -> DataCheck:
    """Create a check; `limit` holds its value, limit and parameter."""
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
    passes = rows > 0 and share <= max_share
    return _result("rejected rows", "table", passes, message, *limit, "validate.max_rejected_share")


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
        yield _result("constant target", contract.target, target.min != target.max, message)
    if contract.task == "classification":
        limit = f"≥ {settings.min_class_rows}", "validate.min_class_rows"
        for label, n in zip(contract.labels, target.counts, strict=True):
            subject = f"{contract.target} = {label}"
            yield _result("class size", subject, n >= settings.min_class_rows, f"{n:,} rows", n, *limit)


def check_leakage(con: Connection, clean: Path, contract: Contract, max_score: float) -> Iterator[DataCheck]:
    """Check whether a feature, or a pair of features, reveals the target.

    Args:
        con: Any connection.
        clean: Parquet file of the clean rows, of which 5,000 are drawn by a hash of the key.
        contract: The contract of the rows.
        max_score: `validate.max_leakage_score`.

    Yields:
        A failed check for each leak; one passed check, with the best score, if there is none.
    """
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "sample.parquet"
        drawn = f"FROM {literal(clean)} ORDER BY hash({quote(contract.key)}) LIMIT {LEAKAGE_ROWS}"
        con.sql(f"COPY ({drawn}) TO {literal(sample)}")
        scores = score_features(load_dataset(sample, contract), max_score)
    best = sorted(scores, key=scores.__getitem__)[-1:]
    message = f"a small decision tree predicts {contract.target} from it with this score"
    limit = f"< {max_score:g}", "validate.max_leakage_score"
    for name in [name for name in scores if scores[name] >= max_score] or best:
        passes = scores[name] < max_score
        yield _result("target leakage", name, passes, message, round(scores[name], 6), *limit)


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
            yield _result("personal data", column.name, kind is None, message)


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
    """Check that the key, which usually only identifies a row, is not a feature.

    Args:
        contract: The contract of the rows.

    Returns:
        The check; a warning if the key is a feature. A key that is the time passes.
    """
    if contract.key == contract.time or contract.column(contract.key) not in contract.features:
        return _result("key as feature", contract.key, True, "the key only identifies rows")
    message = "the model learns from the key, the API requires it"
    return _result("key as feature", contract.key, False, message)


def check_repeated_ids(con: Connection, contract: Contract, clean: str, raw: str) -> list[DataCheck]:
    """Search for columns that look like the id of a customer, patient or machine with several rows.

    With rows of one customer in training and test, a model may recognise the customer instead of learning. A
    column is reported if its name is that of an id or an owner of rows, and its values repeat.

    Args:
        con: Connection that can read the tables.
        contract: The contract of the rows.
        clean: The clean rows as SQL, searched for the contract's integer and text columns.
        raw: The source's rows as SQL, searched for the columns that the contract lacks. They are not searched
            if `problem.PREPARE` makes one row of several.

    Returns:
        A warning for each such column; one passed check if there is none.
    """
    declared = {fold(column.name): column.kind for column in contract.kept}
    roles = {fold(name) for name in (contract.key, contract.target, contract.time or "")}
    candidates = {name for name, kind in declared.items() if kind in ("integer", "text")}
    warnings = list(_repeated_ids(con, clean, candidates - roles))
    n_raw, n_clean = (fetch_one(con, f"SELECT count(*) FROM {table}")[0] for table in (raw, clean))
    if n_raw <= 2 * n_clean:
        warnings += _repeated_ids(con, raw, inspect_table(con, raw).types.keys() - declared - roles)
    message = "no column looks like an id with several rows"
    return warnings or [_result("repeated ids", "table", True, message)]


def _repeated_ids(con: Connection, table: str, candidates: Collection[str]) -> Iterator[DataCheck]:
    """Warn of those columns of a table (SQL) that look like repeated ids."""
    columns = inspect_table(con, table)
    for name in columns.names:
        if fold(name) not in candidates or not looks_like_id(name) or columns.types[fold(name)].endswith("]"):
            continue
        value, number = quote(name), f"TRY_CAST({quote(name)}::VARCHAR AS DOUBLE)"
        counts = f"count({value}), count(DISTINCT {value}), count(*) FILTER ({number} <> trunc({number}))"
        rows, ids, fractional = fetch_one(con, f"SELECT {counts} FROM {table}")
        if ids >= MIN_IDS and rows >= MIN_ROWS_PER_ID * ids and not fractional:
            message = f"looks like an id, with {ids:,} values in {rows:,} rows"
            yield _result("repeated ids", name, False, message)


def looks_like_id(name: str) -> bool:
    """Return whether a name is that of an id (`user_id`, `customerNo`) or of an owner of rows (`patient`).

    Args:
        name: Name of a column, in snake_case, camelCase or with spaces.

    Returns:
        False also for an owner in a measure, such as `years_at_company`.
    """
    words = "_".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)).lower()
    is_id = re.fullmatch(rf"(.*_)?({IDS})|(.*_)?({OWNERS})(_(.*_)?)?({NUMBERS})", words)
    is_owner = re.fullmatch(rf"(.*_)?({OWNERS})", words) and not re.search(rf"(^|_)({MEASURES})_", words)
    return bool(is_id or is_owner)
