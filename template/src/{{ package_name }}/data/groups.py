"""Groups: columns that look like the id of somebody or something that has several rows.

With rows of one customer in training and test, a model may recognise the customer instead of learning. A
column is named if its name is that of an id or of an owner of rows, and its values repeat as an id's do.
"""

import re
from collections.abc import Iterator

from ..contract import Contract
from ..contract.tables import Connection, fetch_one, quote
from .merge import describe, fold

IDS = {"id", "ids", "uuid", "guid"}
NUMBERS = {"no", "nr", "num", "number", "code", "key", "serial", "ref", *IDS}
OWNERS = """account animal applicant asset athlete borrower buyer case claimant client company contact
    customer device doctor donor driver employee engine family farm firm guest hospital household individual
    learner loan machine member merchant meter mother organisation organization owner participant passenger
    patient person player policy policyholder product property provider pupil respondent rider school seller
    sensor session shop sku store student subject subscriber supplier tailnum tenant turbine user vehicle
    vendor vin visitor worker"""
COUNTED = "of at per in by with since for count n years months days age is has new"
MIN_VALUES = 10  # fewer are kinds, such as regions
MIN_ROWS = 1.5  # of each value, on average


def names_an_id(name: str) -> bool:
    """Whether a name is that of an id (`user_id`, `customerNo`) or of an owner of rows (`patient`)."""
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]
    owners, counted = {*re.findall(r"\w+", OWNERS)}, {*re.findall(r"\w+", COUNTED)}
    if not words:
        return False
    *before, last = words
    glued = re.fullmatch(rf"(.+?)({'|'.join(NUMBERS)})", last)
    return (
        last in IDS
        or (last in owners and counted.isdisjoint(before))  # a company, but not years at it
        or (last in NUMBERS and not owners.isdisjoint(before))
        or (glued is not None and glued[1] in owners)
    )


def repeated_ids(con: Connection, contract: Contract, clean: str, raw: str) -> list[str]:
    """Warn of repeated ids among the contract's columns, in `clean`, and the source's others, in `raw`."""
    declared = {fold(column.name) for column in contract.kept}
    roles = {fold(name) for name in (contract.key, contract.target, contract.time or "")}
    numbers_or_texts = {fold(column.name) for column in contract.kept if column.kind in ("integer", "text")}
    found = list(repeated(con, clean, numbers_or_texts - roles))
    # A table that PREPARE makes of many source rows each has other rows than the source.
    if count(con, raw) <= 2 * count(con, clean):
        found += repeated(con, raw, set(describe(con, raw).columns) - declared - roles)
    return found


def repeated(con: Connection, table: str, candidates: set[str]) -> Iterator[str]:
    """Warn of those columns of a table (SQL) that look like repeated ids."""
    for folded, (name, sql_type) in describe(con, table).columns.items():
        if folded not in candidates or not names_an_id(name) or sql_type.endswith("]"):
            continue
        value, number = quote(name), f"TRY_CAST({quote(name)}::VARCHAR AS DOUBLE)"
        fractions = f"count(*) FILTER ({number} <> trunc({number}))"
        query = f"SELECT count({value}), count(DISTINCT {value}), {fractions} FROM {table}"
        rows, values, fractional = fetch_one(con, query)
        if values >= MIN_VALUES and rows >= MIN_ROWS * values and not fractional:
            yield (
                f"{name}: looks like an id, with {values:,} values in {rows:,} rows. If they are customers, "
                "patients or machines with several rows each, these lie in training and test alike, and the "
                "figures flatter the model: they do not hold for new ones. Keep one row of each, or split "
                "the source by it."
            )


def count(con: Connection, table: str) -> int:
    """The number of rows of a table (SQL)."""
    return fetch_one(con, f"SELECT count(*) FROM {table}")[0]
