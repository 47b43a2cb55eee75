"""The contract over single rows: JSON in; out comes a float32 matrix, or every broken rule."""

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from functools import cache
from itertools import islice
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from . import Column, Contract

MAX_ROWS = 10_000
SHOWN_PROBLEMS = 100  # no more are looked for: a refusal costs no more than an answer
MAX_NAMES = 100_000  # colons of a row; what has more is not taken apart
SHORT = 1_000  # bytes of a value that is read to be shown
LONGEST = 200  # characters of a decoder's message

ROWS = f"must be from 1 to {MAX_ROWS} rows"
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
NO_ROW = msgspec.Raw()
Numbers = tuple[float, ...]


class Problem(msgspec.Struct, omit_defaults=True):
    """One broken rule: where it is, what was expected and what came."""

    row: int
    column: str
    rule: str
    got: str = ""


class RowError(ValueError):
    """Rows that the contract forbids; `problems` names the first of them (at most `SHOWN_PROBLEMS`)."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(f"{len(problems)} broken rules")
        self.problems = problems
        shown_all = len(problems) < SHOWN_PROBLEMS
        self.note = "" if shown_all else f"the first {SHOWN_PROBLEMS} problems; there may be more"


class RowReader:
    """Read JSON rows (an object, or an array of objects) that keep the rules of columns."""

    def __init__(
        self, columns: tuple[Column, ...], name: str, max_lengths: dict[str, int] | None = None
    ) -> None:
        """Rows of columns, documented by a name.

        Args:
            columns: What a row consists of.
            name: Title of a row in the API's documentation.
            max_lengths: Most characters of a text, by its column; such a text is not empty.
        """
        lengths = max_lengths or {}
        self._columns = {column.name: column for column in columns}
        self._rules = {column.name: column.rule for column in columns}
        self._rules |= {column: f"a text of 1 to {most} characters" for column, most in lengths.items()}
        types: dict[str, Any] = {column.name: annotation(column) for column in columns}
        types |= {column: text_type(types[column], most) for column, most in lengths.items()}
        row: Any = row_type(columns, types, name)
        limits = msgspec.Meta(min_length=1, max_length=MAX_ROWS)
        self.body_type: Any = row | Annotated[list[row], limits]
        self._decoder = msgspec.json.Decoder(self.body_type)
        # Made once: to make one takes longer than what it does for a value.
        self._row, self._parts = msgspec.json.Decoder(row), msgspec.json.Decoder(dict[str, msgspec.Raw])
        self._values = {column: msgspec.json.Decoder(value) for column, value in types.items()}

    def read(self, body: bytes) -> list[tuple[Any, ...]]:
        """The values of each row, in the order of the columns.

        Raises:
            RowError: there are too many rows, or some break rules.
        """
        if len(body) > MAX_ROWS and body.count(b"{") > MAX_ROWS:  # a text may hold it too
            split_rows(body)
        try:
            rows = self._decoder.decode(body)
        except UNREADABLE:
            raise RowError(self._problems(body)) from None
        return [*map(msgspec.structs.astuple, rows if isinstance(rows, list) else [rows])]

    def _problems(self, body: bytes) -> list[Problem]:
        """Look again, row by row, for what is wrong: the fast decoder stops at the first error."""
        rows = split_rows(body)
        found = (problem for index, row in enumerate(rows) for problem in self._row_problems(index, row))
        return list(islice(found, SHOWN_PROBLEMS)) or [Problem(0, "", ROWS)]

    def _row_problems(self, index: int, row: msgspec.Raw) -> list[Problem]:
        """What is wrong with one row."""
        rule, got = "must be an object with the contract's columns", shorten(row)
        try:
            self._row.decode(row)
        except UNREADABLE as error:
            got = str(error)[:LONGEST] if memoryview(row)[:1] == b"{" else got
        else:
            return []
        if bytes(row).count(b":") > MAX_NAMES:
            return [Problem(index, "", rule, got)]
        try:
            values = self._parts.decode(row)
        except UNREADABLE:
            return [Problem(index, "", rule, got)]
        # None, though the row is wrong: it has a column twice.
        return list(islice(self._value_problems(index, values), SHOWN_PROBLEMS)) or [
            Problem(index, "", rule, got)
        ]

    def _value_problems(self, index: int, values: dict[str, msgspec.Raw]) -> Iterator[Problem]:
        """What is wrong with the values of a row, by their columns' names."""
        for name, column in self._columns.items():
            if name in values and not reads(values[name], self._values[name]):
                yield Problem(index, name, f"must be {self._rules[name]}", shorten(values[name]))
            if name not in values and not column.nullable:
                yield Problem(index, name, f"missing; must be {self._rules[name]}")
        for name in values:
            if name not in self._columns:
                yield Problem(index, name[:40], "not a column of the contract")


class RowCodec(RowReader):
    """Decode JSON rows into model input, by the contract."""

    def __init__(self, contract: Contract) -> None:
        super().__init__(contract.features, "Row")
        self._encoders = [
            (encoder(column), (math.nan,) * len(column.encoded_names)) for column in contract.features
        ]

    def decode(self, body: bytes) -> NDArray[np.float32]:
        """Return the matrix of shape (rows, features); raise `RowError` with every broken rule."""
        return np.array([self._encode(row) for row in self.read(body)], np.float32)

    def _encode(self, values: tuple[Any, ...]) -> list[float]:
        return [
            number
            for (encode, missing), value in zip(self._encoders, values, strict=True)
            for number in (missing if value is None else encode(value))
        ]


@cache
def splitter() -> msgspec.json.Decoder:
    """A decoder that takes an array of up to `MAX_ROWS` values apart, and stops at one more.

    It reads none of them, so whatever they are costs neither memory nor much time.
    """
    rows: list[Any] = [(f"row{index}", msgspec.Raw, NO_ROW) for index in range(MAX_ROWS)]
    return msgspec.json.Decoder(
        msgspec.defstruct("Rows", rows, array_like=True, forbid_unknown_fields=True, gc=False)
    )


def split_rows(body: bytes) -> list[msgspec.Raw]:
    """The rows of a body, not read yet.

    Raises:
        RowError: there are more than `MAX_ROWS`, or the body is not JSON.
    """
    try:
        if not body.lstrip(b" \t\r\n").startswith(b"["):
            return [msgspec.json.decode(body, type=msgspec.Raw)]
        return [row for row in msgspec.structs.astuple(splitter().decode(body)) if row is not NO_ROW]
    except msgspec.ValidationError:
        raise RowError([Problem(0, "", ROWS, "more")]) from None
    except UNREADABLE as error:
        rule = "must be JSON: an object, or an array of objects"
        raise RowError([Problem(0, "", rule, str(error)[:LONGEST])]) from None


def row_type(columns: tuple[Column, ...], types: dict[str, Any], name: str) -> type[msgspec.Struct]:
    """Columns as a msgspec type: checked while parsed, documented as JSON schema."""
    fields: list[Any] = []
    for index, column in enumerate(columns):
        default = (None,) if column.nullable else ()
        fields.append((f"c{index}", types[column.name], *default))
    names = {f"c{index}": column.name for index, column in enumerate(columns)}
    return msgspec.defstruct(name, fields, kw_only=True, forbid_unknown_fields=True, rename=names)


def annotation(column: Column) -> Any:
    """The type of one value, limits included."""
    value: Any = Literal
    if column.kind == "category":
        value = value[column.categories]
    elif column.kind == "time":
        value = Annotated[datetime, msgspec.Meta(tz=False)]
    elif column.kind == "text":
        value = str
    else:
        lowest, highest = column.bounds
        # JSON knows one kind of number: 40.0 is an integer there, 40.5 is not.
        whole = 1 if column.kind == "integer" else None
        value = Annotated[float, msgspec.Meta(ge=lowest, le=highest, multiple_of=whole)]
    if column.length is not None:
        fewest = column.length if column.kind == "number" else 0
        value = Annotated[list[value], msgspec.Meta(min_length=fewest, max_length=column.length)]
    if column.nullable:
        value = value | None
    meta = msgspec.Meta(description=f"{column.description} Must be {column.rule}.".strip())
    return Annotated[value, meta]


def text_type(text: Any, most: int) -> Any:
    """The type of a text that is not empty, and has at most so many characters."""
    return Annotated[text, msgspec.Meta(min_length=1, max_length=most)]


def encoder(column: Column) -> Callable[[Any], Numbers]:
    """How a value becomes the numbers of `Column.encoded_names`; in SQL: `tables.encoded`."""
    if column.kind == "time":
        return lambda t: (t.hour + t.minute / 60, t.isoweekday(), t.month)
    if column.kind == "category" and column.length is None:
        codes = {category: (float(code),) for code, category in enumerate(column.categories)}
        return codes.__getitem__
    if column.kind == "category":
        return lambda items: tuple(float(category in items) for category in column.categories)
    return tuple if column.length else lambda value: (value,)


def reads(value: msgspec.Raw, decoder: msgspec.json.Decoder) -> bool:
    """Whether a value from JSON is what a decoder takes."""
    try:
        decoder.decode(value)
    except UNREADABLE:
        return False
    return True


def shorten(value: msgspec.Raw) -> str:
    """A value as it came, cut to be shown."""
    text = bytes(memoryview(value)[:SHORT]).decode(errors="replace").lstrip('"')
    if len(memoryview(value)) <= SHORT:
        with suppress(*UNREADABLE):
            read = msgspec.json.decode(value)
            text = read if isinstance(read, str) and read else repr(read)
    return text if len(text) <= 40 else text[:39] + "…"
