"""The contract: the columns of a row, their rules and their roles.

`problem.py` declares it once. Data validation (`tables.py`) and the API (`rows.py`) enforce it, the bundle
contains it, and monitoring compares with it.
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
    """A column: its type, its limits and its roles.

    Attributes:
        name: Unique, also when case is ignored.
        kind: A `text` is never a feature.
        min: Smallest number allowed.
        max: Largest number allowed.
        categories: All values of a category.
        length: Makes the column a list: of exactly this many numbers (an image, a signal), or of up to this
            many categories (a basket).
        nullable: Whether values may be missing.
        feature: Whether the model sees it.
        known_at_prediction: False for values that are learned later; they are no features.
        segment: Metrics are reported for each of its values.
        protected: The gate compares its groups (fairness).
        personal: True: dropped at validation. None: texts are scanned for personal data. False: harmless.
        description: For the API's documentation and the data card.
    """

    name: str
    kind: Kind
    min: float | None = None
    max: float | None = None
    categories: tuple[str, ...] = ()
    length: int | None = None
    nullable: bool = False
    feature: bool = True
    known_at_prediction: bool = True
    segment: bool = False
    protected: bool = False
    personal: bool | None = None
    description: str = ""

    def __post_init__(self) -> None:
        limited = (self.min, self.max) != (None, None)
        can_be_list = self.kind in ("number", "category")
        broken = {
            f"the kind must be one of {', '.join(get_args(Kind))}": self.kind not in get_args(Kind),
            "the name is empty": not self.name,
            "the name is reserved by the package or DuckDB": self.name.lower() in RESERVED,
            "min must not exceed max": self.kind in LARGEST and self.bounds[0] > self.bounds[1],
            "kind 'category' needs categories": self.kind == "category" and not self.categories,
            "categories are for kind 'category'": self.kind != "category" and self.categories,
            "a category is listed twice": len(set(self.categories)) != len(self.categories),
            "min and max are for numbers and integers": limited and self.kind not in LARGEST,
            "length is for numbers and categories": self.length and not can_be_list,
            "length must be at least 1": self.length is not None and self.length < 1,
        }
        for rule, is_broken in broken.items():
            if is_broken:
                raise ProjectError(f"contract: column {self.name!r}: {rule}")

    @property
    def rule(self) -> str:
        """What a value must be.

        Returns:
            Text for reports, and for the API's errors and documentation.
        """
        if self.kind == "category":
            many = "one of" if self.length is None else f"a list of up to {self.length} of"
            shown = ", ".join(map(repr, self.categories[:10]))
            more = f", … ({len(self.categories)} categories)" if len(self.categories) > 10 else ""
            return f"{many} {shown}{more}"
        number = "a number" if self.length is None else f"a list of {self.length} numbers"
        nouns = {
            "number": f"{number}{self._limits}",
            "integer": f"an integer{self._limits}",
            "time": "a time such as 2026-01-31T14:30:00, without an offset",
            "text": "a text",
        }
        return nouns[self.kind]

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest number allowed.

        Returns:
            Whole numbers for kind `integer`; without a limit, the largest numbers that float32 and JSON hold.
        """
        largest = LARGEST[self.kind]
        lowest = -largest if self.min is None else self.min
        highest = largest if self.max is None else self.max
        if self.kind == "integer":
            return math.ceil(lowest), math.floor(highest)
        return lowest, highest

    @property
    def _limits(self) -> str:
        """The limits in words."""
        if self.min is not None and self.max is not None:
            return f" from {self.min:.15g} to {self.max:.15g}"
        if self.min is not None:
            return f" of at least {self.min:.15g}"
        return f" of at most {self.max:.15g}" if self.max is not None else ""

    @property
    def encoded_names(self) -> tuple[str, ...]:
        """Names of the numbers that the column becomes in the model's input.

        Returns:
            One name, or several for a time or a list.
        """
        if self.kind == "time":
            return tuple(f"{self.name}.{part}" for part in CALENDAR)
        if self.length is None:
            return (self.name,)
        if self.kind == "category":
            return tuple(f"{self.name}={category}" for category in self.categories)
        return tuple(f"{self.name}.{index}" for index in range(self.length))


class Contract(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, dict=True):
    """The columns of a row and their roles.

    The model's input is one row of float32 numbers, column after column: a number as it is, a category as
    its position in `categories`, a list of categories as a 0/1 number for each, a time as hour (with
    fraction), weekday (Monday is 1) and month. Missing values are NaN. Whatever is learned from data, such
    as scaling, belongs in the estimator.

    Attributes:
        task: classification, regression or ranking.
        key: The column that identifies a row.
        target: The column to predict.
        columns: All columns.
        time: The column that orders the rows: the newest are the test split.
        key_is_feature: False: the key only identifies rows. A key that is also the time stays a feature.
    """

    task: Task
    key: str
    target: str
    columns: tuple[Column, ...]
    time: str | None = None
    key_is_feature: bool = True

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        if duplicates := sorted({name for name in names if names.count(name) > 1}):
            raise ProjectError(f"contract: declared twice: {', '.join(duplicates)}")
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
        """Reject a column that cannot have a role."""
        column = next((column for column in self.columns if column.name == name), None)
        if column is None:
            raise ProjectError(f"contract: the {role} {name!r} is not among the columns")
        if column.kind not in kinds or column.personal or column.nullable or column.length:
            raise ProjectError(
                f"contract: the {role} {name!r} of {self.task} must be of kind {' or '.join(kinds)}, "
                "and neither personal, nor nullable, nor a list"
            )

    def _check_names(self) -> None:
        """Reject names that differ by case only: SQL ignores case."""
        columns = tuple(column.name for column in self.columns)
        for role, names in {"columns": columns, "inputs": self.feature_names, "labels": self.labels}.items():
            groups: dict[str, list[str]] = {}
            for name in names:
                groups.setdefault(name.casefold(), []).append(name)
            if alike := [" and ".join(map(repr, group)) for group in groups.values() if len(group) > 1]:
                raise ProjectError(
                    f"contract: {role} that differ by case only, which SQL ignores: {'; '.join(alike[:5])}. "
                    "Rename all but one, in problem.PREPARE."
                )

    def column(self, name: str) -> Column:
        """Return a column by its name.

        Args:
            name: Name of a column of the contract.

        Returns:
            The column.
        """
        return next(column for column in self.columns if column.name == name)

    @cached_property
    def features(self) -> tuple[Column, ...]:
        """The columns of the model's input and of a row of the API.

        Returns:
            Columns in the contract's order.
        """
        excluded = {self.target}
        if not self.key_is_feature and self.key != self.time:
            excluded.add(self.key)
        candidates = [column for column in self.kept if column.feature and column.known_at_prediction]
        return tuple(column for column in candidates if column.kind != "text" and column.name not in excluded)

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the model's input.

        Returns:
            A name for each of the `n_features` numbers, in order.
        """
        return tuple(name for column in self.features for name in column.encoded_names)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Names of the model's outputs.

        Returns:
            The target's categories; for a regression, the target's name.
        """
        return self.column(self.target).categories or (self.target,)

    @property
    def kept(self) -> tuple[Column, ...]:
        """The columns of validated data.

        Returns:
            All but the personal columns.
        """
        return tuple(column for column in self.columns if not column.personal)
