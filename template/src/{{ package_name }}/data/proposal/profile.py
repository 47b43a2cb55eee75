"""Profile: what the values of a column look like, whatever type the source gives them."""

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from ...contract import LARGEST, TIME
from ...contract.tables import BOOLEANS, Connection, fetch_one, literal, quote

Shape = Literal["boolean", "integer", "number", "time", "numbers", "texts", "text", "empty", "nested"]

MAX_VALUES = 100  # distinct values that are counted; a category with more is hard to read and to learn
MIN_SHARE = 0.95  # of the values that must have a shape; the others are texts such as "unknown", or errors
MAX_STRAYS = 5  # distinct values of another shape that are taken for missing ones
TRIED_VALUES = 1_000  # distinct values on which rare formats are tried first
MISSING = ("", "na", "n/a", "#n/a", "<na>", "nan", "nat", "null", "?")  # in lower case
NESTED = r"(STRUCT|MAP|UNION|VARIANT|BLOB|BIT|GEOMETRY)\b.*|.*\]\[\d*\]"


class Format(NamedTuple):
    """A way to write values: their shape, an SQL condition over `text`, and SQL that reads a value, `{}`."""

    shape: Shape
    condition: str
    reading: str = "{}"


def _matches(pattern: str, text: str = "text") -> str:
    """SQL: whether a text has a pattern."""
    return f"regexp_full_match({text}, {literal(pattern)})"


def _number_format(pattern: str, reading: str) -> Format:
    """Numbers that have to be rewritten."""
    is_number = f"isfinite(TRY_CAST({reading.format('text')} AS DOUBLE))"
    return Format("number", f"{_matches(pattern)} AND {is_number}", reading)


def _time_format(pattern: str) -> Format:
    """Times that have to be parsed."""
    reading = "try_strptime({}, " + literal(pattern) + ")"
    return Format("time", f"{reading.format('text')} IS NOT NULL", reading)


INTEGER = r"[+-]?\d+"
CODE = _matches(r"0\d+")  # 01067 is a place, no number
NUMBER_LIST = "TRY_CAST(text AS DOUBLE[])"
USUAL = (
    Format("boolean", _matches("|".join(BOOLEANS.values()), "lower(text)")),
    Format("number", f"isfinite(TRY_CAST(text AS DOUBLE)) AND NOT {CODE}"),
    Format("time", f"{_matches(TIME)} AND TRY_CAST(text AS TIMESTAMPTZ) IS NOT NULL"),
    Format("numbers", f"len(list_filter({NUMBER_LIST}, lambda x: isfinite(x))) = len({NUMBER_LIST})"),
    Format("texts", "text LIKE '[%]' AND TRY_CAST(text AS VARCHAR[]) IS NOT NULL"),
)
RARE = (
    _number_format(r"-?[1-9]\d{0,2}(,\d{3})*(\.\d+)?|0(\.\d+)?", "replace({}, ',', '')"),
    _number_format(r"-?\d+(,\d+)?", "replace({}, ',', '.')"),
    _number_format(r"-?\d{1,3}(\.\d{3})*(,\d+)?", "replace(replace({}, '.', ''), ',', '.')"),
    *(
        _time_format(f"{day}{clock}")
        for day in ("%d.%m.%Y", "%Y/%m/%d", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%b %d, %Y", "%d %b %Y")
        for clock in ("", " %H:%M", " %H:%M:%S")
    ),
)
TEXT = Format("text", "true")


class Profile(NamedTuple):
    """What a column holds.

    Attributes:
        name: Name in the source.
        sql_type: Type in the source.
        rows: Number of all rows.
        shape: What nearly all values are.
        reading: SQL that turns a value, `{}`, into one that can be cast.
        missing: Number of rows without a value, or with one of `missing_texts`.
        missing_texts: Values that stand for a missing one.
        distinct: Number of distinct values of the shape.
        counts: Number of rows by value as text (in lists: by item), most frequent first: up to `MAX_VALUES`,
            and one more.
        low: Smallest number.
        high: Largest number.
        is_whole: Whether all numbers are whole.
        lengths: Number of items of the shortest and of the longest list.
    """

    name: str
    sql_type: str
    rows: int
    shape: Shape
    reading: str = "{}"
    missing: int = 0
    missing_texts: tuple[str, ...] = ()
    distinct: int = 0
    counts: dict[str, int] = {}  # noqa: RUF012 (never changed)
    low: float = 0
    high: float = 0
    is_whole: bool = False
    lengths: tuple[int, int] = (0, 0)

    @property
    def filled(self) -> int:
        """Number of rows with a value.

        Returns:
            All rows but the missing ones.
        """
        return self.rows - self.missing

    @property
    def is_unique(self) -> bool:
        """Whether each row has a value of its own.

        Returns:
            False also if a value is missing.
        """
        return self.distinct == self.rows > 0

    @property
    def sql(self) -> str:
        """SQL for the value; missing texts are replaced, and rare formats read.

        Returns:
            An expression over the table `raw`.
        """
        name = quote(self.name)
        texts = ", ".join(map(literal, self.missing_texts))
        return self.reading.format(f"CASE WHEN {name} NOT IN ({texts}) THEN {name} END" if texts else name)


def profile_table(con: Connection) -> list[Profile]:
    """Profile the table `raw`.

    Args:
        con: Connection that has the table.

    Returns:
        The profile of each column, in order.
    """
    table = con.sql("FROM raw")
    (rows,) = fetch_one(con, "SELECT count(*) FROM raw")
    types = zip(table.columns, map(str, table.types), strict=True)
    return [_profile_column(con, name, sql_type, rows) for name, sql_type in types]


def _profile_column(con: Connection, name: str, sql_type: str, rows: int) -> Profile:
    """Profile one column of the table `raw`."""
    if re.fullmatch(NESTED, sql_type):
        return Profile(name, sql_type, rows, "nested")
    con.execute(
        "CREATE OR REPLACE TEMP TABLE counts AS SELECT text, count(*) AS n "
        f"FROM (SELECT {quote(name)}::VARCHAR AS text FROM raw) WHERE text IS NOT NULL GROUP BY text"
    )
    missing_texts = _take_out(con, f"lower(trim(text)) IN {MISSING}")
    present, distinct = _count(con)
    if not present:
        return Profile(name, sql_type, rows, "empty", missing=rows, missing_texts=missing_texts)
    chosen = _find_format(con)
    strays = _take_out(con, f"NOT coalesce({chosen.condition}, false)")
    of_shape, distinct = _count(con)
    if len(strays) <= MAX_STRAYS:
        present, missing_texts = of_shape, missing_texts + strays
    top = con.sql(f"SELECT text, n FROM counts ORDER BY n DESC, text LIMIT {MAX_VALUES + 1}").fetchall()
    facts = (chosen.shape, chosen.reading, rows - present, missing_texts, distinct, dict(top))
    return _measure(con, Profile(name, sql_type, rows, *facts))


def _count(con: Connection) -> tuple[int, int]:
    """Number of rows, and of distinct values, in the table `counts`."""
    rows, distinct = fetch_one(con, "SELECT coalesce(sum(n), 0)::BIGINT, count(*) FROM counts")
    return rows, distinct


def _take_out(con: Connection, condition: str) -> tuple[str, ...]:
    """Delete values from the table `counts`; return them, or some if they are many."""
    texts = con.sql(f"SELECT text FROM counts WHERE {condition} ORDER BY n DESC, text LIMIT 50").fetchall()
    con.execute(f"DELETE FROM counts WHERE {condition}")
    return tuple(text for (text,) in texts)


def _find_format(con: Connection) -> Format:
    """The format of nearly all values in the table `counts`."""
    (has_codes,) = fetch_one(con, f"SELECT bool_or({CODE}) FROM counts")
    sides = "count(DISTINCT lower(text) IN ('true', 't') OR text LIKE '1%')"
    (n_sides,) = fetch_one(con, f"SELECT {sides} FROM counts")
    for fitting in _fitting(con, USUAL):
        if fitting.shape == "boolean" and n_sides < 2:
            continue  # only zeros, or only ones
        if fitting.shape != "number" or not has_codes:
            return fitting
    tried = _fitting(con, (form for form in RARE if form.shape != "number" or not has_codes), TRIED_VALUES)
    return next(iter(_fitting(con, tried)), TEXT)


def _fitting(con: Connection, formats: Iterable[Format], n_values: int | None = None) -> list[Format]:
    """The formats that nearly all values in the table `counts` have, or nearly all of the first values."""
    formats = list(formats)
    if not formats:
        return []
    sums = ", ".join(f"sum(n) FILTER ({form.condition}) / sum(n)" for form in formats)
    limit = f"LIMIT {n_values}" if n_values else ""
    shares = fetch_one(con, f"SELECT {sums} FROM (FROM counts {limit})")
    needed = [1 if form.shape == "boolean" else MIN_SHARE for form in formats]
    return [form for form, share, least in zip(formats, shares, needed, strict=True) if (share or 0) >= least]


def _measure(con: Connection, profile: Profile) -> Profile:
    """Add the range of numbers, or the lengths of lists."""
    if profile.shape in ("numbers", "texts"):
        size = "len(TRY_CAST(text AS VARCHAR[]))"
        shortest, longest = fetch_one(con, f"SELECT min({size}), max({size}) FROM counts")
        items = "SELECT unnest(TRY_CAST(text AS VARCHAR[])) AS item, n FROM counts"
        ranked = f"SELECT item, sum(n) AS n FROM ({items}) WHERE item IS NOT NULL GROUP BY item"
        top = con.sql(f"{ranked} ORDER BY n DESC, item LIMIT {MAX_VALUES + 1}").fetchall()
        return profile._replace(lengths=(shortest, longest), counts=dict(top))
    if profile.shape != "number":
        return profile
    text = profile.reading.format("text")
    value = f"CAST({text} AS DOUBLE)"
    are_whole = f"bool_and({value} = trunc({value})), bool_and({_matches(INTEGER, text)})"
    facts = fetch_one(con, f"SELECT min({value}), max({value}), {are_whole} FROM counts")
    low, high, is_whole, is_written_whole = facts
    if is_written_whole and max(abs(low), abs(high)) > LARGEST["integer"]:
        return profile._replace(shape="text", reading="{}")  # JSON would round such an id
    shape: Shape = "integer" if is_written_whole else "number"
    return profile._replace(shape=shape, low=low, high=high, is_whole=is_whole)
