"""Undeclared groups: rows of one customer, patient or machine that training and test would share.

A model may then recognise the customer instead of learning, and its metrics are too good for new customers.
"""

import re
from collections.abc import Collection, Iterator

from ..contract import Contract
from ..contract.tables import Connection, fetch_one, quote
from .merge import fold, inspect_table
from .quality import DataCheck, make_check

MIN_IDS = 10  # fewer distinct values are categories, such as regions
MIN_ROWS_PER_ID = 1.5
MAX_ROWS_PER_ID = 100  # more rows share a value of a lookup table, such as a distance between airports
MAX_FEATURES = 40
SAMPLE_ROWS = 50_000
MIN_EQUAL = 0.95  # share of rows with equal values, from which one column decides another
MAX_CHANCE = 0.5  # of two rows to have equal values; a column above tells nothing
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


def check_repeated_ids(con: Connection, contract: Contract, clean: str, raw: str) -> list[DataCheck]:
    """Search for columns that look like the id of a customer, patient or machine with several rows.

    A column is reported if its name is that of an id or an owner of rows, and its values repeat.

    Args:
        con: Connection that can read the tables.
        contract: The contract of the rows.
        clean: The clean rows as SQL, searched for the contract's integer and text columns.
        raw: The source's rows as SQL, searched for the columns that the contract lacks. They are not searched
            if `problem.PREPARE` makes one row of several.

    Returns:
        A warning for each such column; one passed check if there is none.
    """
    if contract.group:
        return [make_check("repeated ids", contract.group, True, "rows of one group stay together")]
    declared = {fold(column.name): column.kind for column in contract.kept}
    # A part of a key repeats as an id does; with a time, such rows are a series, whose past is known.
    keys = contract.keys if len(contract.keys) == 1 or contract.time else ()
    roles = {fold(name) for name in (*keys, contract.target, contract.time or "")}
    candidates = {name for name, kind in declared.items() if kind in ("integer", "text")}
    warnings = list(repeated_ids(con, clean, candidates - roles))
    n_raw, n_clean = (fetch_one(con, f"SELECT count(*) FROM {table}")[0] for table in (raw, clean))
    if n_raw <= 2 * n_clean:
        warnings += repeated_ids(con, raw, inspect_table(con, raw).types.keys() - declared - roles)
    message = "no column looks like an id with several rows"
    return warnings or [make_check("repeated ids", "table", True, message)]


def repeated_ids(con: Connection, table: str, candidates: Collection[str]) -> Iterator[DataCheck]:
    """Search for columns that look like ids with several rows each.

    Args:
        con: Connection that can read the table.
        table: The table as SQL.
        candidates: Folded names of the columns to look at.

    Yields:
        A warning for each such column.
    """
    columns = inspect_table(con, table)
    for name in columns.names:
        if fold(name) not in candidates or not looks_like_id(name) or columns.types[fold(name)].endswith("]"):
            continue
        value, number = quote(name), f"TRY_CAST({quote(name)}::VARCHAR AS DOUBLE)"
        counts = f"count({value}), count(DISTINCT {value}), count(*) FILTER ({number} <> trunc({number}))"
        rows, ids, fractional = fetch_one(con, f"SELECT {counts} FROM {table}")
        if ids >= MIN_IDS and rows >= MIN_ROWS_PER_ID * ids and not fractional:
            message = f"looks like an id, with {ids:,} values in {rows:,} rows"
            yield make_check("repeated ids", name, False, message)


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


def check_repeated_rows(con: Connection, contract: Contract, clean: str) -> DataCheck:
    """Search for rows that repeat in almost all features, although no column looks like an id.

    Rows of one customer share what does not change: income, age, address. So a feature with many values, each
    in a few rows, decides at least half of the other features.

    Args:
        con: Connection that can read the table.
        contract: The contract of the rows. With a time, rows of one customer in both splits are natural.
        clean: The clean rows as SQL.

    Returns:
        The check; its subject is the feature that identifies such rows best.
    """
    if contract.group or contract.time:
        return make_check("repeated rows", "table", True, "the split follows the group or the time")
    features = [c.name for c in contract.features if c.length is None][:MAX_FEATURES]
    chances = {name: _chance_of_equal(con, clean, name) for name in features}
    decided = {name: _decided_by(con, clean, name, chances) for name in features}
    best = max(decided, key=lambda name: len(decided[name]), default="")
    if not best or len(decided[best]) < max(2, (len(features) - 1) / 2):
        return make_check("repeated rows", "table", True, "rows do not repeat in most features")
    message = f"rows that are equal in it are equal in {', '.join(decided[best][:5])} too"
    return make_check("repeated rows", best, False, message)


def _chance_of_equal(con: Connection, table: str, name: str) -> float:
    """The probability that two rows have the same value."""
    counts = f"SELECT count(*)::DOUBLE AS n FROM {table} GROUP BY {quote(name)}"
    return fetch_one(con, f"SELECT coalesce(sum(n * n) / (sum(n) * sum(n)), 1) FROM ({counts})")[0]


def _decided_by(con: Connection, table: str, name: str, chances: dict[str, float]) -> list[str]:
    """The other columns whose value is the same in all rows with one value of this column."""
    candidates = [other for other, chance in chances.items() if other != name and chance <= MAX_CHANCE]
    ids, rows = fetch_one(con, f"SELECT count(DISTINCT {quote(name)}), count({quote(name)}) FROM {table}")
    if not candidates or ids < MIN_IDS or not MIN_ROWS_PER_ID <= rows / ids <= MAX_ROWS_PER_ID:
        return []
    value, part = quote(name), max(1, rows // SAMPLE_ROWS)
    firsts = ", ".join(f"first({quote(other)}) AS c{index}" for index, other in enumerate(candidates))
    equal = ", ".join(
        f"sum((rows.{quote(other)} IS NOT DISTINCT FROM firsts.c{index})::INTEGER)"
        for index, other in enumerate(candidates)
    )
    n_rows, n_ids, *counts = fetch_one(
        con,
        f"""
        WITH rows AS (FROM {table} WHERE {value} IS NOT NULL AND hash({value}) % {part} = 0),
            firsts AS (SELECT {value} AS __id, {firsts} FROM rows GROUP BY {value})
        SELECT count(*), count(DISTINCT __id), {equal} FROM rows JOIN firsts ON rows.{value} = firsts.__id
        """,
    )
    repeats = max(1, n_rows - n_ids)  # each first row is equal to itself
    return [
        name for name, count in zip(candidates, counts, strict=True) if (count - n_ids) / repeats >= MIN_EQUAL
    ]
