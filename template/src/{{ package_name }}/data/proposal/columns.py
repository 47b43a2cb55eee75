"""Columns: declare a column of the contract from its profile, with the reasons as comments."""

import math
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from ...contract import FORBIDDEN_CHARACTERS, LARGEST, RESERVED, Column
from ..groups import MIN_IDS, looks_like_id
from ..quality import EXACT_INTEGER
from .profile import MAX_VALUES, Profile

MIN_ROWS_PER_VALUE = 3  # of a category
FREQUENT_VALUES = 50  # categories of a column with more than `MAX_VALUES` values
MIN_FREQUENT_SHARE = 0.5  # of the rows that these must cover
RARE_ROWS, RARE_SHARE = 5, 0.001  # a value that is rarer is a sign that others will come
PROTECTED = ("sex", "gender", "race", "ethnicity", "religion", "nationality")


@dataclass
class Draft:
    """A proposed column, which later steps change.

    Attributes:
        profile: What the column of the source holds.
        column: Its declaration.
        sql: Its expression over the table `raw`.
        why: Comments.
    """

    profile: Profile
    column: Column
    sql: str
    why: list[str] = field(default_factory=list)

    def change(self, why: str = "", **fields: Any) -> None:
        """Change the declaration.

        Args:
            why: The reason; empty if it is plain.
            **fields: New values of fields of the column.
        """
        self.column = replace(self.column, **fields)
        self.why += [why] if why else []


def draft_column(profile: Profile) -> Draft:
    """Declare a column, as a feature if it can be one.

    Args:
        profile: What the column holds; its shape is not "nested".

    Returns:
        The declaration.
    """
    is_reserved = profile.name.lower() in RESERVED
    name = FORBIDDEN_CHARACTERS.sub("_", profile.name) + "_2" * is_reserved
    draft = Draft(profile, Column(name, "text"), profile.sql)
    if profile.missing_texts:
        texts = ", ".join(map(repr, profile.missing_texts))
        draft.why.append(f"{texts} count{'s' * (len(profile.missing_texts) == 1)} as missing, see PREPARE")
    if profile.missing:
        draft.change(nullable=True)
    _choose_kind(draft)
    _leave_out(draft)
    if draft.column.kind == "category" and any(word in profile.name.lower() for word in PROTECTED):
        draft.why.append("protected=True lets the gate compare its groups (fairness)")
    return draft


def _choose_kind(draft: Draft) -> None:
    """Set kind, limits and categories."""
    profile = draft.profile
    if profile.shape in ("boolean", "time"):
        draft.change(kind=profile.shape)
    elif profile.shape in ("integer", "number"):
        low, high = limits(profile.low, profile.high)
        draft.change(kind=profile.shape, min=low, max=high)
    elif profile.shape == "numbers":
        _declare_numbers(draft)
    elif profile.shape == "texts":
        _declare_categories(draft, "items")
    elif profile.shape == "text":
        _declare_categories(draft, "values")
    else:
        draft.why.append("no value in any row")


def _declare_numbers(draft: Draft) -> None:
    """Declare a list of numbers; only lists of one length can be features."""
    shortest, longest = draft.profile.lengths
    if shortest == longest > 0:
        draft.change(kind="number", length=longest)
    else:
        draft.why.append(f"lists of {shortest} to {longest} numbers; only lists of one length are features")


def _declare_categories(draft: Draft, values: str) -> None:
    """Declare texts, or lists of texts, that repeat as categories; others stay texts."""
    profile, counts = draft.profile, draft.profile.counts
    top = [*counts][: FREQUENT_VALUES if len(counts) > MAX_VALUES else MAX_VALUES]
    n_listed, n_all = sum(counts[text] for text in top), profile.filled * max(profile.lengths[1], 1)
    enough = n_listed >= MIN_ROWS_PER_VALUE * len(top) and n_listed >= MIN_FREQUENT_SHARE * n_all
    is_list = profile.shape == "texts"
    if not top or not (enough or is_list):
        draft.why.append("a text is never a feature")
        return
    draft.change(kind="category", categories=tuple(sorted(top)))
    if is_list:
        draft.change(f"of {profile.lengths[0]} to {profile.lengths[1]} items", length=profile.lengths[1])
    rare = max(RARE_ROWS, RARE_SHARE * profile.filled)
    if len(counts) > MAX_VALUES:
        why = f"the {len(top)} most frequent {values}; all others count as missing"
        draft.change(why, unknown="missing", nullable=not is_list or draft.column.nullable)
    elif min(counts.values()) < rare and len(counts) > 2:
        why = f"some {values} are rare, so new ones will come; they count as missing"
        draft.change(why, unknown="missing", nullable=not is_list or draft.column.nullable)


def _leave_out(draft: Draft) -> None:
    """Say which columns should not be features, and which are risky ones."""
    profile, column = draft.profile, draft.column
    if column.kind == "text":
        return
    if profile.distinct == 1 and not profile.missing:
        draft.change("the same value in all rows", feature=False)
    elif column.kind == "integer" and profile.distinct >= MIN_IDS and looks_like_id(profile.name):
        draft.change("looks like an id: a model would learn rows by heart", feature=False)
    elif column.kind == "integer" and max(abs(profile.low), abs(profile.high)) > EXACT_INTEGER:
        draft.why.append(f"the model reads float32, which rounds integers above {EXACT_INTEGER:,}")


def limits(low: float, high: float) -> tuple[float | None, float | None]:
    """Propose limits: wider than the values seen, because the next ones may be larger.

    Args:
        low: Smallest number seen.
        high: Largest number seen.

    Returns:
        Minimum and maximum: 0 if no number is negative, and twice the largest number, rounded up to 1, 2 or 5
        times a power of ten. None: unlimited.
    """
    largest = _round_up(2 * max(abs(low), abs(high)))
    lowest = 0 if low >= 0 else None if largest is None else -largest
    return lowest, largest


def _round_up(number: float) -> float | None:
    """The next 1, 2 or 5 times a power of ten; None for 0, and for numbers that are near JSON's limit."""
    if not 1e-9 < number < LARGEST["integer"] / 10:
        return None
    power = 10.0 ** math.floor(math.log10(number))
    rounded = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= number * (1 - 1e-9))
    return round(rounded) if rounded >= 1 else float(f"{rounded:.1g}")
