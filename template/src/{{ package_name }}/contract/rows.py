"""The contract over single rows: JSON in; out comes a float32 matrix, or every broken rule."""

import math
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from . import Column, Contract

MAX_ROWS = 10_000
SHOWN_PROBLEMS = 100

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
Numbers = tuple[float, ...]


class Problem(msgspec.Struct, omit_defaults=True):
    """One broken rule: where it is, what was expected and what came."""

    row: int
    column: str
    rule: str
    got: str = ""


class RowError(ValueError):
    """Rows that the contract forbids; `problems` names each (at most `SHOWN_PROBLEMS`)."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(f"{len(problems)} broken rules")
        self.problems = problems


class RowReader:
    """Read JSON rows (an object, or an array of objects) that keep the rules of columns."""

    def __init__(self, columns: tuple[Column, ...], name: str) -> None:
        """Rows of these columns, documented by a name."""
        self._columns = {column.name: column for column in columns}
        row: Any = row_type(columns, name)
        limits = msgspec.Meta(min_length=1, max_length=MAX_ROWS)
        self.body_type: Any = row | Annotated[list[row], limits]
        self._decoder = msgspec.json.Decoder(self.body_type)

    def read(self, body: bytes) -> list[tuple[Any, ...]]:
        """The values of each row, in the order of the columns; raise `RowError` with every broken rule."""
        try:
            rows = self._decoder.decode(body)
        except UNREADABLE as error:
            raise RowError(self._problems(body, str(error))) from None
        return [*map(msgspec.structs.astuple, rows if isinstance(rows, list) else [rows])]

    def _problems(self, body: bytes, first: str) -> list[Problem]:
        """Look again, slowly, for all that is wrong: the fast decoder stops at the first error."""
        try:
            rows = msgspec.json.decode(body)
        except UNREADABLE as error:
            return [Problem(0, "", "must be JSON: an object, or an array of objects", str(error))]
        rows = rows if isinstance(rows, list) else [rows]
        found = (problem for index, row in enumerate(rows) for problem in self._row_problems(index, row))
        too_many = Problem(0, "", f"must be from 1 to {MAX_ROWS} rows", first)
        return list(islice(found, SHOWN_PROBLEMS)) or [too_many]

    def _row_problems(self, index: int, row: Any) -> Iterator[Problem]:
        if not isinstance(row, dict):
            yield Problem(index, "", "must be an object with the contract's columns", shorten(row))
            return
        for name, column in self._columns.items():
            if name in row and not fits(row[name], column):
                yield Problem(index, name, f"must be {column.rule}", shorten(row[name]))
            if name not in row and not column.nullable:
                yield Problem(index, name, f"missing; must be {column.rule}")
        for name in row.keys() - self._columns.keys():
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


def row_type(columns: tuple[Column, ...], name: str) -> type[msgspec.Struct]:
    """Columns as a msgspec type: checked while parsed, documented as JSON schema."""
    fields: list[Any] = []
    for index, column in enumerate(columns):
        default = (None,) if column.nullable else ()
        fields.append((f"c{index}", annotation(column), *default))
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


def fits(value: Any, column: Column) -> bool:
    """Whether a value from JSON keeps the column's rule."""
    try:
        msgspec.convert(value, annotation(column))
    except msgspec.ValidationError:
        return False
    return True


def shorten(value: Any) -> str:
    """A value as it came, cut to be shown."""
    text = value if isinstance(value, str) and value else repr(value)
    return text if len(text) <= 40 else text[:39] + "…"
