"""The contract for single rows: decode JSON to a float32 matrix, or report all broken rules."""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from . import TIME, Column, Contract

MAX_ROWS = 10_000
SHOWN_PROBLEMS = 100  # limit, so that a rejection costs no more than a prediction
MAX_NAMES = 100_000  # colons in a row, above which its values are not looked at
MAX_VALUE_BYTES = 1_000  # of a value that is decoded for a message
MAX_MESSAGE = 200  # characters of a decoder's message

ROWS_RULE = f"must be from 1 to {MAX_ROWS} rows"
DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
MISSING = msgspec.Raw()
UNKNOWN = (math.nan,)
Numbers = tuple[float, ...]
_TIME = re.compile(TIME)


class Time(datetime):
    """A time in UTC, of the form that `contract.TIME` describes."""


class Problem(msgspec.Struct, omit_defaults=True):
    """A broken rule.

    Attributes:
        row: Position of the row in the request.
        column: Empty if the row as a whole is wrong.
        rule: What was expected.
        got: The value, shortened.
    """

    row: int
    column: str
    rule: str
    got: str = ""


class RowError(ValueError):
    """Rows that break the contract.

    Attributes:
        problems: The broken rules, at most `SHOWN_PROBLEMS`.
        note: Says so if there may be more; else empty.
    """

    def __init__(self, problems: list[Problem]) -> None:
        """Store the broken rules.

        Args:
            problems: At most `SHOWN_PROBLEMS`.
        """
        super().__init__(f"{len(problems)} broken rules")
        self.problems = problems
        shown_all = len(problems) < SHOWN_PROBLEMS
        self.note = "" if shown_all else f"the first {SHOWN_PROBLEMS} problems; there may be more"


class RowReader:
    """Decoder of JSON rows: an object, or an array of objects.

    Attributes:
        body_type: The type of a request's body, for the API's documentation.
        column_names: Names of the columns.
    """

    def __init__(
        self, columns: tuple[Column, ...], name: str, max_lengths: dict[str, int] | None = None
    ) -> None:
        """Make the decoders.

        Args:
            columns: The columns of a row.
            name: Title of a row in the API's documentation.
            max_lengths: Maximum number of characters by text column; these texts must not be empty.
        """
        lengths = max_lengths or {}
        self.column_names = [column.name for column in columns]
        self._columns = {column.name: column for column in columns}
        self._rules = {column.name: column.rule for column in columns}
        self._rules |= {column: f"a text of 1 to {length} characters" for column, length in lengths.items()}
        types: dict[str, Any] = {column.name: _value_type(column) for column in columns}
        types |= {column: _text_type(types[column], length) for column, length in lengths.items()}
        row: Any = _row_type(columns, types, name)
        limits = msgspec.Meta(min_length=1, max_length=MAX_ROWS)
        self.body_type: Any = row | Annotated[list[row], limits]
        self._decoder = _make_decoder(self.body_type)
        # Made once: creating a decoder takes longer than decoding a value.
        self._row, self._parts = _make_decoder(row), _make_decoder(dict[str, msgspec.Raw])
        self._values = {column: _make_decoder(value) for column, value in types.items()}

    def read(self, body: bytes) -> list[tuple[Any, ...]]:
        """Decode a request's body.

        Args:
            body: JSON.

        Returns:
            The values of each row, in the order of the columns; None if missing.

        Raises:
            RowError: There are too many rows, or rows break rules.
        """
        if len(body) > MAX_ROWS and body.count(b"{") > MAX_ROWS:  # texts may contain braces too
            _split_rows(body)
        try:
            rows = self._decoder.decode(body)
        except DECODE_ERRORS:
            raise RowError(self._problems(body)) from None
        return [*map(msgspec.structs.astuple, rows if isinstance(rows, list) else [rows])]

    def _problems(self, body: bytes) -> list[Problem]:
        """List broken rules row by row: the fast decoder stops at the first error."""
        rows = enumerate(_split_rows(body))
        problems = (problem for index, row in rows for problem in self._row_problems(index, row))
        return list(islice(problems, SHOWN_PROBLEMS)) or [Problem(0, "", ROWS_RULE)]

    def _row_problems(self, index: int, row: msgspec.Raw) -> list[Problem]:
        """List the broken rules of a row."""
        rule, got = "must be an object with the contract's columns", _shorten(row)
        try:
            self._row.decode(row)
        except DECODE_ERRORS as error:
            got = str(error)[:MAX_MESSAGE] if memoryview(row)[:1] == b"{" else got
        else:
            return []
        if bytes(row).count(b":") > MAX_NAMES:
            return [Problem(index, "", rule, got)]
        try:
            values = self._parts.decode(row)
        except DECODE_ERRORS:
            return [Problem(index, "", rule, got)]
        # Without a problem in a value, the row has a column twice.
        return list(islice(self._value_problems(index, values), SHOWN_PROBLEMS)) or [
            Problem(index, "", rule, got)
        ]

    def _value_problems(self, index: int, values: dict[str, msgspec.Raw]) -> Iterator[Problem]:
        """Yield the broken rules of the values of a row."""
        for name, column in self._columns.items():
            if name in values and not _is_valid(values[name], self._values[name]):
                yield Problem(index, name, f"must be {self._rules[name]}", _shorten(values[name]))
            if name not in values and not column.nullable:
                yield Problem(index, name, f"missing; must be {self._rules[name]}")
        for name in values:
            if name not in self._columns:
                yield Problem(index, name[:40], "not a column of the contract")


class RowCodec(RowReader):
    """Decoder of JSON rows into the model's input.

    A row may also carry the columns of the key and the group (`Contract.ids`), which the model does not see.
    """

    def __init__(self, contract: Contract) -> None:
        """Make the decoders and encoders.

        Args:
            contract: The contract.
        """
        ids = tuple(msgspec.structs.replace(column, nullable=True) for column in contract.ids)
        columns = (*contract.features, *ids)
        super().__init__(columns, "Row")
        self._group = self.column_names.index(contract.group) if contract.group else None
        self._encoders = [
            (_encoder(column), (math.nan,) * len(column.encoded_names)) for column in contract.features
        ]

    def decode(self, body: bytes) -> NDArray[np.float32]:
        """Decode a request's body.

        Args:
            body: JSON.

        Returns:
            Shape `(n_rows, n_features)`; NaN if missing.

        Raises:
            RowError: There are too many rows, or rows break the contract.
        """
        return self.encode(self.read(body))

    def encode(self, rows: list[tuple[Any, ...]]) -> NDArray[np.float32]:
        """Encode rows as numbers.

        Args:
            rows: As returned by `read`.

        Returns:
            Shape `(n_rows, n_features)`; NaN if missing.
        """
        return np.array([self._encode(row) for row in rows], np.float32)

    def groups(self, rows: list[tuple[Any, ...]]) -> list[str | float | None]:
        """Return the rows' values of `Contract.group`.

        Args:
            rows: As returned by `read`.

        Returns:
            One value per row, None if the row has none; empty without a group in the contract.
        """
        return [] if self._group is None else [row[self._group] for row in rows]

    def _encode(self, values: tuple[Any, ...]) -> list[float]:
        """Encode the values of a row as numbers; the ids at its end are left out."""
        return [
            number
            for (encode, missing), value in zip(self._encoders, values, strict=False)
            for number in (missing if value is None else encode(value))
        ]


@cache
def _splitter() -> msgspec.json.Decoder:
    """A decoder of arrays with at most `MAX_ROWS` values, which it does not decode: that bounds its cost."""
    rows: list[Any] = [(f"row{index}", msgspec.Raw, MISSING) for index in range(MAX_ROWS)]
    return msgspec.json.Decoder(
        msgspec.defstruct("Rows", rows, array_like=True, forbid_unknown_fields=True, gc=False)
    )


def _split_rows(body: bytes) -> list[msgspec.Raw]:
    """Split a body into rows without decoding them; too many rows, or no JSON, are a RowError."""
    try:
        if not body.lstrip(b" \t\r\n").startswith(b"["):
            return [msgspec.json.decode(body, type=msgspec.Raw)]
        return [row for row in msgspec.structs.astuple(_splitter().decode(body)) if row is not MISSING]
    except msgspec.ValidationError:
        raise RowError([Problem(0, "", ROWS_RULE, "more")]) from None
    except DECODE_ERRORS as error:
        rule = "must be JSON: an object, or an array of objects"
        raise RowError([Problem(0, "", rule, str(error)[:MAX_MESSAGE])]) from None


def time_schema(_: type) -> dict[str, str]:
    """Describe `Time` in JSON schema.

    Returns:
        The schema.
    """
    return {"type": "string", "format": "date-time"}


def _make_decoder(kind: Any) -> msgspec.json.Decoder:
    """A decoder of JSON that knows `Time`."""
    return msgspec.json.Decoder(kind, dec_hook=_decode_time)


def _decode_time(_: type, value: Any) -> Time:
    """A time in UTC, without an offset; raise an error that msgspec reports if it is none."""
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise ValueError("not a time")
    time = Time.fromisoformat(value)
    return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time


def _row_type(columns: tuple[Column, ...], types: dict[str, Any], name: str) -> type[msgspec.Struct]:
    """A msgspec type of a row: checked while parsed, documented as JSON schema."""
    fields: list[Any] = []
    for index, column in enumerate(columns):
        default = (None,) if column.nullable else ()
        fields.append((f"c{index}", types[column.name], *default))
    names = {f"c{index}": column.name for index, column in enumerate(columns)}
    return msgspec.defstruct(name, fields, kw_only=True, forbid_unknown_fields=True, rename=names)


def _value_type(column: Column) -> Any:
    """The type of a value, with its limits."""
    value: Any = Literal
    if column.kind == "category":
        value = str if column.unknown == "missing" else value[column.categories]
    elif column.kind == "time":
        value = Time
    elif column.kind == "boolean":
        value = bool | Annotated[float, msgspec.Meta(ge=0, le=1, multiple_of=1)]
    elif column.kind == "text":
        value = str
    else:
        lowest, highest = column.bounds
        # JSON has one kind of number: 40.0 is an integer, 40.5 is not.
        whole = 1 if column.kind == "integer" else None
        value = Annotated[float, msgspec.Meta(ge=lowest, le=highest, multiple_of=whole)]
    if column.length is not None:
        fewest = column.length if column.kind == "number" else 0
        value = Annotated[list[value], msgspec.Meta(min_length=fewest, max_length=column.length)]
    if column.nullable:
        value = value | None
    meta = msgspec.Meta(description=f"{column.description} Must be {column.rule}.".strip())
    return Annotated[value, meta]


def _text_type(text: Any, max_length: int) -> Any:
    """The type of a text that is not empty and has a maximum length."""
    return Annotated[text, msgspec.Meta(min_length=1, max_length=max_length)]


def _encoder(column: Column) -> Callable[[Any], Numbers]:
    """A function from a value to the numbers of `Column.encoded_names`; SQL: `tables.encode_column`."""
    if column.kind == "time":
        return lambda t: (t.hour + t.minute / 60, t.isoweekday(), t.month)
    if column.kind == "category" and column.length is None:
        codes = {category: (float(code),) for code, category in enumerate(column.categories)}
        return lambda category: codes.get(category, UNKNOWN)
    if column.kind == "category":
        return lambda items: tuple(float(category in items) for category in column.categories)
    return tuple if column.length else lambda value: (value,)


def _is_valid(value: msgspec.Raw, decoder: msgspec.json.Decoder) -> bool:
    """Whether a decoder accepts a value."""
    try:
        decoder.decode(value)
    except DECODE_ERRORS:
        return False
    return True


def _shorten(value: msgspec.Raw) -> str:
    """A value as text, cut for a message."""
    text = bytes(memoryview(value)[:MAX_VALUE_BYTES]).decode(errors="replace").lstrip('"')
    if len(memoryview(value)) <= MAX_VALUE_BYTES:
        with suppress(*DECODE_ERRORS):
            read = msgspec.json.decode(value)
            text = read if isinstance(read, str) and read else repr(read)
    return text if len(text) <= 40 else text[:39] + "…"
