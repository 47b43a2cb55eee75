"""The contract: what one row of the problem is.

Declared once, in `problem.py`. Enforced over tables at ingestion (`tables.py`) and over rows at the
API (`rows.py`), kept in the bundle, and the reference for all that looks at data later.
"""

import math
from functools import cached_property
from typing import Literal, get_args

import msgspec

from ..core.errors import ProjectError

Kind = Literal["number", "integer", "category", "time", "text"]
Task = Literal["classification", "regression", "ranking"]

LARGEST = {"number": 3.4e38, "integer": 2**53}  # beyond, float32 is infinite and JSON inexact
TOP_K = 10  # items of a ranking that are predicted, and among which the target should be
CALENDAR = ("hour", "weekday", "month")
RESERVED = ("__reasons", "__features", "__scores", "rowid")


class Column(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One column: its type, its limits and its roles.

    A `number` or `category` with a `length` holds a list: exactly that many numbers (an image, a
    signal), or up to that many categories (a basket). `text` is carried along but never a feature.
    """

    name: str
    kind: Kind
    min: float | None = None
    max: float | None = None
    categories: tuple[str, ...] = ()
    length: int | None = None
    nullable: bool = False
    feature: bool = True
    known_at_prediction: bool = True  # False: only learned after the fact, so never a feature
    segment: bool = False  # metrics are reported for each of its values
    protected: bool = False  # models must treat its groups alike
    personal: bool | None = None  # True: dropped at validation; None: text is scanned; False: harmless
    description: str = ""

    def __post_init__(self) -> None:
        limited = (self.min, self.max) != (None, None)
        can_be_list = self.kind in ("number", "category")
        broken = {
            f"the kind is one of {', '.join(get_args(Kind))}": self.kind not in get_args(Kind),
            "a column has a name": not self.name,
            "the name is one that the package or DuckDB uses itself": self.name.lower() in RESERVED,
            "min is at most max": self.kind in LARGEST and self.bounds[0] > self.bounds[1],
            "kind 'category' needs categories": self.kind == "category" and not self.categories,
            "categories are for kind 'category'": self.kind != "category" and self.categories,
            "a category is listed twice": len(set(self.categories)) != len(self.categories),
            "min and max are for numbers and integers": limited and self.kind not in LARGEST,
            "length is for numbers and categories": self.length and not can_be_list,
            "length is at least 1": self.length is not None and self.length < 1,
        }
        for rule, is_broken in broken.items():
            if is_broken:
                raise ProjectError(f"contract: column {self.name!r}: {rule}")

    @property
    def rule(self) -> str:
        """What a value must be, in words: in reports, in the API's errors and its documentation."""
        if self.kind == "category":
            many = "one of" if self.length is None else f"a list of up to {self.length} of"
            shown = ", ".join(map(repr, self.categories[:10]))
            more = f", … ({len(self.categories)} categories)" if len(self.categories) > 10 else ""
            return f"{many} {shown}{more}"
        if self.length is not None:
            return f"a list of {self.length} numbers{self._limits}"
        nouns = {
            "number": f"a number{self._limits}",
            "integer": f"an integer{self._limits}",
            "time": "a time such as 2026-01-31T14:30:00, without an offset",
            "text": "a text",
        }
        return nouns[self.kind]

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest number allowed: whole numbers for kind `integer`."""
        largest = LARGEST[self.kind]
        lowest = -largest if self.min is None else self.min
        highest = largest if self.max is None else self.max
        if self.kind == "integer":
            return math.ceil(lowest), math.floor(highest)
        return lowest, highest

    @property
    def _limits(self) -> str:
        if self.min is not None and self.max is not None:
            return f" from {self.min:.15g} to {self.max:.15g}"
        if self.min is not None:
            return f" of at least {self.min:.15g}"
        return f" of at most {self.max:.15g}" if self.max is not None else ""

    @property
    def encoded_names(self) -> tuple[str, ...]:
        """Names of the float32 numbers that this column becomes in a model's input."""
        if self.kind == "time":
            return tuple(f"{self.name}.{part}" for part in CALENDAR)
        if self.length is None:
            return (self.name,)
        if self.kind == "category":
            return tuple(f"{self.name}={category}" for category in self.categories)
        return tuple(f"{self.name}.{index}" for index in range(self.length))


class Contract(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, dict=True):
    """The columns, and which of them identify, order and answer a row.

    A model sees the features as one row of float32 numbers, column after column: a number as
    itself, a category as its position in `categories`, a list of categories as one 0/1 number for
    each, a time as hour (with its fraction), weekday (Monday is 1) and month. Missing is NaN. All
    that is *learned* from data happens after that, inside the model.
    """

    task: Task
    key: str
    target: str
    columns: tuple[Column, ...]
    time: str | None = None  # orders the rows: the newest are the test split, validation looks ahead
    key_is_feature: bool = True  # False: the key only identifies rows; a key that is the time stays a feature

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ProjectError(f"contract: declared twice: {', '.join(twice)}")
        numbers = ("number", "integer")
        targets = numbers if self.task == "regression" else ("category",)
        self._check_role("key", self.key, ("text", "integer", "time", "category"))
        self._check_role("target", self.target, targets)
        if self.time is not None:
            self._check_role("time", self.time, ("time", *numbers))
        if not self.features:
            raise ProjectError("contract: no column is a feature")
        self._check_names()

    def _check_role(self, role: str, name: str, kinds: tuple[Kind, ...]) -> None:
        """Refuse a column that cannot be what it is said to be."""
        column = next((column for column in self.columns if column.name == name), None)
        if column is None:
            raise ProjectError(f"contract: the {role} {name!r} is not among the columns")
        if column.kind not in kinds or column.personal or column.nullable or column.length:
            raise ProjectError(
                f"contract: the {role} {name!r} of {self.task} is to be of kind {' or '.join(kinds)}, "
                "and neither personal, nor nullable, nor a list"
            )

    def _check_names(self) -> None:
        """Refuse names that DuckDB takes for one another: it compares them without regard to case."""
        columns = tuple(column.name for column in self.columns)
        for what, names in {"columns": columns, "inputs": self.feature_names, "labels": self.labels}.items():
            groups: dict[str, list[str]] = {}
            for name in names:
                groups.setdefault(name.casefold(), []).append(name)
            if alike := [" and ".join(map(repr, group)) for group in groups.values() if len(group) > 1]:
                raise ProjectError(
                    f"contract: {what} that are one name to SQL, which ignores case: {'; '.join(alike[:5])}. "
                    "Rename all but one, in problem.PREPARE."
                )

    def column(self, name: str) -> Column:
        """The column of that name."""
        return next(column for column in self.columns if column.name == name)

    @cached_property
    def features(self) -> tuple[Column, ...]:
        """The columns that a model sees and an API row consists of."""
        without = {self.target}
        if not self.key_is_feature and self.key != self.time:
            without.add(self.key)
        return tuple(
            column
            for column in self.columns
            if column.feature
            and column.known_at_prediction
            and column.kind != "text"
            and not column.personal
            and column.name not in without
        )

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the float32 numbers of a model's input, in order."""
        return tuple(name for column in self.features for name in column.encoded_names)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Names of a model's outputs: the target's categories, or the one value of a regression."""
        return self.column(self.target).categories or (self.target,)

    @property
    def kept(self) -> tuple[Column, ...]:
        """The columns that leave validation: all but the personal ones."""
        return tuple(column for column in self.columns if not column.personal)
