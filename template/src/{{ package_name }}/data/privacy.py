"""Personal data that nobody declared: patterns over the text of a table."""

import re

from ..contract import Contract
from ..contract.tables import Connection, literal, quote

PATTERNS = {
    "e-mail addresses": r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}",
    "card numbers": r"\b\d(?:[ -]?\d){12,18}\b",
    "social security numbers": r"\b\d{3}-\d{2}-\d{4}\b",
    "bank account numbers": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b",
    "phone numbers": r"(?:\+|\b00[1-9])\d[\d ()/.-]{6,16}\d\b|\(?\b\d{3}\)?[ .-]\d{3}[ .-]\d{4}\b",
}
LOOKED_AT = 1000


def find_personal(con: Connection, table: str, contract: Contract) -> list[str]:
    """Name the undeclared columns (`personal` is None) whose text looks like personal data."""
    found = []
    for column in contract.kept:
        if column.kind != "text" or column.personal is not None:
            continue
        for what, pattern in PATTERNS.items():
            count = matches(con, table, column.name, what, pattern)
            if count:
                found.append(f"{column.name} holds what looks like {what} ({count} or more values)")
                break
    return found


def matches(con: Connection, table: str, name: str, what: str, pattern: str) -> int:
    """Count distinct values that match, up to `LOOKED_AT`; cards must pass their checksum too."""
    hits = con.sql(
        f"SELECT DISTINCT {quote(name)} FROM {table} "
        f"WHERE regexp_matches({quote(name)}, {literal(pattern)}) LIMIT {LOOKED_AT}"
    ).fetchall()
    if what != "card numbers":
        return len(hits)
    return sum(any(luhn(number.group()) for number in re.finditer(pattern, text)) for (text,) in hits)


def luhn(number: str) -> bool:
    """The checksum of payment cards (ISO/IEC 7812-1), which doubles every second digit."""
    digits = [int(digit) for digit in reversed(number) if digit.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0
