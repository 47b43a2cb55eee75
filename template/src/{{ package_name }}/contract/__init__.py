"""The contract: the columns of a row, their rules and their roles.

`problem.py` declares it once. Data validation (`tables.py`) and the API (`rows.py`) enforce it, the bundle
contains it, and monitoring compares with it.
"""

import math
import re
from datetime import timedelta
from functools import cached_property
from typing import Literal, get_args

import msgspec

from ..core.errors import ProjectError

Kind = Literal["number", "integer", "boolean", "category", "time", "text"]
Task = Literal["classification", "regression", "ranking"]

LARGEST = {"number": 3.4e38, "integer": 2**53}  # beyond, float32 is infinite and JSON inexact
TOP_K = 10  # items of a ranking that are predicted, and among which the target should be
CALENDAR = ("hour", "weekday", "month")
LONG_LIST = 64  # numbers; a longer list is monitored by its summary: for privacy, and for size
SUMMARY = ("mean", "deviation", "lowest", "highest")
BOOLEANS = ("false", "true")  # as labels, in the order of 0 and 1
TIME = r"\d{4}-\d\d-\d\d([T ]([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d+)?)?(Z|[+-]\d\d(:?\d\d)?)?)?"
FORBIDDEN_CHARACTERS = re.compile(r'["\\\x00-\x1f]')  # msgspec cannot have them in the name of a field
DURATION = re.compile(r"(\d+) ?(min|h|d|w)")
DURATION_UNITS = {"min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
FEEDBACK_COLUMNS = ("id", "row", "received_at", "told_at")
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
        unknown: What happens to a category that is not listed: the row is rejected, or the value is missing.
        feature: Whether the model sees it. None: yes, but for the key and the group, which only say which
            rows are the same or belong together.
        known_at_prediction: False for values that are learned later; they are no features.
        segment: Metrics are reported for each of its values.
        protected: The gate compares its groups (fairness).
        seen: Of a ranking: a list of items that are not offered (again). Their outputs are 0.
        personal: True: dropped at validation. None: texts are scanned for personal data. False: harmless.
        accepted: Findings of the data report that are no fault here: name of the check (such as "target
            leakage") to the reason.
        description: For the API's documentation and the data card.
    """

    name: str
    kind: Kind
    min: float | None = None
    max: float | None = None
    categories: tuple[str, ...] = ()
    length: int | None = None
    nullable: bool = False
    unknown: Literal["reject", "missing"] = "reject"
    feature: bool | None = None
    known_at_prediction: bool = True
    segment: bool = False
    protected: bool = False
    seen: bool = False
    personal: bool | None = None
    accepted: dict[str, str] = {}
    description: str = ""

    def __post_init__(self) -> None:
        limited = (self.min, self.max) != (None, None)
        can_be_list = self.kind in ("number", "category")
        is_category_list = self.kind == "category" and self.length is not None
        can_be_unknown = self.kind == "category" and (self.nullable or is_category_list)
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
            "unknown='missing' is for a nullable category": self.unknown == "missing" and not can_be_unknown,
            "length must be at least 1": self.length is not None and self.length < 1,
            "seen is for a list of categories (set length)": self.seen and not is_category_list,
        }
        for rule, is_broken in broken.items():
            if is_broken:
                raise ProjectError(f"contract: column {self.name!r}: {rule}")

    def __hash__(self) -> int:
        return hash(self.name)  # `accepted` has no hash

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
            suffix = " (others count as missing)" if self.unknown == "missing" else ""
            return f"{many} {shown}{more}{suffix}"
        number = "a number" if self.length is None else f"a list of {self.length} numbers"
        nouns = {
            "number": f"{number}{self._limits}",
            "integer": f"an integer{self._limits}",
            "boolean": "true or false",
            "time": "a time such as 2026-01-31T14:30:00, in UTC or with an offset",
            "text": "a text",
        }
        return nouns[self.kind]

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest number allowed.

        Returns:
            0 and 1 for a boolean; whole numbers for kind `integer`; without a limit, the largest numbers that
            float32 and JSON hold.
        """
        if self.kind == "boolean":
            return 0, 1
        largest = LARGEST[self.kind]
        lowest = -largest if self.min is None else self.min
        highest = largest if self.max is None else self.max
        if self.kind == "integer":
            return math.ceil(lowest), math.floor(highest)
        return lowest, highest

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the values that are encoded as 0, 1, 2 and so on.

        Returns:
            The categories, or false and true of a boolean; empty for other kinds.
        """
        return BOOLEANS if self.kind == "boolean" else self.categories

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

    @property
    def is_number_list(self) -> bool:
        """Whether a value is a list of numbers.

        Returns:
            True for an image or a signal.
        """
        return self.kind == "number" and self.length is not None

    @property
    def is_summarized(self) -> bool:
        """Whether events and the drift reference hold a summary of the column.

        Returns:
            True for a list of more than `LONG_LIST` numbers.
        """
        return self.is_number_list and (self.length or 0) > LONG_LIST

    @property
    def monitored_names(self) -> tuple[str, ...]:
        """Names of the numbers that events hold of the column.

        Returns:
            Those of the model's input, or of the summary.
        """
        return tuple(f"{self.name}.{name}" for name in SUMMARY) if self.is_summarized else self.encoded_names


class Contract(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, dict=True):
    """The columns of a row and their roles.

    The model's input is one row of float32 numbers, column after column: a number as it is, a boolean as 0 or
    1, a category as its position in `categories`, a list of categories as a 0/1 number for each, a time as
    hour (with fraction), weekday (Monday is 1) and month. Missing values are NaN. Whatever is learned from
    data, such as scaling, belongs in the estimator.

    Attributes:
        task: classification, regression or ranking.
        key: The column, or the columns together, that identify a row.
        target: The column to predict.
        columns: All columns.
        time: The column that orders the rows: the newest are the test split.
        horizon: How long after a row's time its target is known: a duration such as "30min", "12h" or "7d";
            a number if `time` is one. Training ends so long before the test rows begin.
        group: The column that says which rows belong together: of one customer, patient or machine. Without a
            `time`, a group is in one split as a whole. Groups, not rows, are resampled for intervals.
        decision_threshold: Of two labels, the second one is predicted from this probability on.
        key_is_feature: Deprecated: use `Column.feature` of the key. None: False in problem.py, and True in
            bundles of releases before 0.4.
    """

    task: Task
    key: str | tuple[str, ...]
    target: str
    columns: tuple[Column, ...]
    time: str | None = None
    key_is_feature: bool | None = None
    horizon: str | float | None = None
    group: str | None = None
    decision_threshold: float | None = None

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        if duplicates := sorted({name for name in names if names.count(name) > 1}):
            raise ProjectError(f"contract: declared twice: {', '.join(duplicates)}")
        numbers = ("number", "integer")
        targets = numbers if self.task == "regression" else ("category",)
        targets = ("category", "boolean") if self.task == "classification" else targets
        if not self.keys or len(set(self.keys)) < len(self.keys):
            raise ProjectError("contract: the key is one column or a tuple of different columns")
        for name in self.keys:
            self._check_role("key", name, ("text", "integer", "time", "category"))
        self._check_role("target", self.target, targets)
        if self.time is not None:
            self._check_role("time", self.time, ("time", *numbers))
        if self.group is not None:
            self._check_role("group", self.group, ("text", "integer", "category"))
        if self.target in {*self.keys, self.time, self.group}:
            raise ProjectError(f"contract: the target {self.target!r} is also key, time or group")
        if self.target.casefold() in FEEDBACK_COLUMNS:
            raise ProjectError(
                f"contract: the target cannot be called {self.target!r}: feedback has columns "
                f"{', '.join(FEEDBACK_COLUMNS)} of its own. Rename it, in problem.PREPARE."
            )
        if not self.features:
            raise ProjectError(
                "contract: no column is a feature. Key, group, target and texts are none, nor columns that "
                "are personal or not known at prediction."
            )
        self._check_horizon()
        self._check_threshold()
        self._check_seen()
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

    def _check_horizon(self) -> None:
        """Reject a horizon that is none of the time's unit."""
        if self.horizon is None:
            return
        if self.time is None:
            raise ProjectError("contract: a horizon needs a time")
        if self.column(self.time).kind == "time":
            valid = isinstance(self.horizon, str) and DURATION.fullmatch(self.horizon)
            must = 'a duration such as "30min", "12h", "7d" or "2w"'
        else:
            valid = isinstance(self.horizon, int | float) and 0 <= self.horizon < math.inf
            must = f"a number that is not negative, in the unit of {self.time!r}"
        if not valid:
            raise ProjectError(f"contract: the horizon must be {must}; it is {self.horizon!r}")

    def _check_threshold(self) -> None:
        """Reject a threshold that is no probability, or not of two labels."""
        threshold = self.decision_threshold
        if threshold is None:
            return
        if self.task != "classification" or len(self.labels) != 2:
            raise ProjectError("contract: decision_threshold is for a classification with two labels")
        if not 0 < threshold < 1:
            raise ProjectError(f"contract: decision_threshold must be between 0 and 1; it is {threshold}")

    def _check_seen(self) -> None:
        """Reject seen items that the graph of a model cannot mask."""
        for column in self.columns:
            if column.seen and self.task != "ranking":
                raise ProjectError(f"contract: column {column.name!r}: seen is for a ranking")
            if column.seen and column.categories != self.labels:
                raise ProjectError(
                    f"contract: column {column.name!r}: seen needs the categories of the target "
                    f"{self.target!r}, in the same order"
                )
            if column.seen and column not in self.features:
                raise ProjectError(
                    f"contract: column {column.name!r}: the model leaves seen items out, so the column must "
                    "be a feature: not personal, known at prediction, and without feature=False"
                )

    def _check_names(self) -> None:
        """Reject names that a field of the API cannot have, and those that differ by case only, as in SQL."""
        for name in (*(column.name for column in (*self.features, *self.ids)), self.target):
            if FORBIDDEN_CHARACTERS.search(name):
                raise ProjectError(
                    f"contract: column {name!r}: the name has a quotation mark, a backslash or a control "
                    "character, which a field of the API cannot have. Rename it, in problem.PREPARE."
                )
        columns = tuple(column.name for column in self.columns)
        numbers = {"inputs": self.feature_names, "monitored numbers": self.monitored_names}
        for role, names in {"columns": columns, **numbers, "labels": self.labels}.items():
            groups: dict[str, list[str]] = {}
            for name in names:
                groups.setdefault(name.casefold(), []).append(name)
            if alike := [" and ".join(map(repr, group)) for group in groups.values() if len(group) > 1]:
                raise ProjectError(
                    f"contract: {role} that differ by case only, which SQL ignores: {'; '.join(alike[:5])}. "
                    "Rename all but one, in problem.PREPARE."
                )

    def roles(self, column: Column) -> str:
        """Name the roles of a column.

        Args:
            column: A column of the contract.

        Returns:
            Such as "feature, segment", for reports.
        """
        roles = {
            "key": column.name in self.keys,
            "target": column.name == self.target,
            "time": column.name == self.time,
            "group": column.name == self.group,
            "feature": column in self.features,
            "segment": column.segment,
            "protected": column.protected,
            "seen": column.seen,
            "not known at prediction": not column.known_at_prediction,
            "personal, dropped": bool(column.personal),
        }
        return ", ".join(role for role, applies in roles.items() if applies)

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns that identify a row.

        Returns:
            One name or several.
        """
        return (self.key,) if isinstance(self.key, str) else self.key

    @property
    def gap(self) -> timedelta | float:
        """The horizon as a difference of times.

        Returns:
            A timedelta if the time is of kind `time`, else a number; 0 without a horizon.
        """
        if self.time is None or self.column(self.time).kind != "time":
            return float(self.horizon or 0)
        match = DURATION.fullmatch(str(self.horizon))
        return timedelta(**{DURATION_UNITS[match[2]]: int(match[1])}) if match else timedelta()

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
        candidates = [column for column in self.kept if column.known_at_prediction and column.kind != "text"]
        return tuple(column for column in candidates if self._is_feature(column))

    def _is_feature(self, column: Column) -> bool:
        """Whether the model sees a column, by its roles: key and group only if they are declared to be."""
        if column.name == self.target or column.feature is False:
            return False
        if column.name == self.time or column.feature:
            return True
        if column.name == self.key:  # a key of several columns was not possible before
            return self.key_is_feature is not False
        return column.name not in (*self.keys, self.group)

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the model's input.

        Returns:
            A name for each of the `n_features` numbers, in order.
        """
        return tuple(name for column in self.features for name in column.encoded_names)

    @cached_property
    def seen_slices(self) -> tuple[slice, ...]:
        """Where the model's input has the items that are not offered.

        Returns:
            Positions among the features, in the order of `labels`: a slice for each column with `seen`.
        """
        starts = (self.feature_names.index(c.encoded_names[0]) for c in self.features if c.seen)
        return tuple(slice(start, start + len(self.labels)) for start in starts)

    @cached_property
    def monitored_names(self) -> tuple[str, ...]:
        """Names of the numbers that events hold of the model's input.

        Returns:
            `feature_names`, but for long lists a summary.
        """
        return tuple(name for column in self.features for name in column.monitored_names)

    @cached_property
    def ids(self) -> tuple[Column, ...]:
        """The columns of the key and the group that are no features: a row of the API may carry them.

        Returns:
            Columns in the contract's order.
        """
        names = {*self.keys, self.group}
        return tuple(c for c in self.columns if c.name in names and c not in self.features)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Names of the model's outputs.

        Returns:
            The target's categories; for a regression, the target's name.
        """
        return self.column(self.target).labels or (self.target,)

    @property
    def kept(self) -> tuple[Column, ...]:
        """The columns of validated data.

        Returns:
            All but the personal columns.
        """
        return tuple(column for column in self.columns if not column.personal)
