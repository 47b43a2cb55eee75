"""Target: the task, the declaration of the target, and KPIs that ask to beat the baseline."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from ...contract import Task
from ...contract.expectations import Kpi
from ...contract.tables import Connection, fetch_one, literal
from ...core.errors import ProjectError
from .columns import Draft
from .profile import MAX_VALUES, Profile

MAX_NUMBERS = 10  # distinct whole numbers that are taken for classes
MIN_ROWS_PER_CLASS = 5  # on average, of numbers that are taken for classes
MAX_LEFT_OUT = 0.05  # share of the rows whose class is too rare
NEGATIVE = ("no", "n", "none", "neg", "negative", "nein", "non", "normal", "good", "benign", "absent", "0")
OWNER = "the project's owner"


class Target(NamedTuple):
    """What is predicted.

    Attributes:
        task: Classification or regression.
        counts: Number of rows by class, in the contract's order; empty for a regression.
        where: Conditions of PREPARE as SQL, each with the reason.
        notes: What the user should know.
    """

    task: Task
    counts: dict[str, int]
    where: dict[str, str]
    notes: list[str]


def declare_target(con: Connection, draft: Draft, task: Task | None, min_class_rows: int) -> Target:
    """Declare the target.

    Args:
        con: Connection that has the table `raw`.
        draft: The column, changed in place.
        task: The task that the user asks for; None: by the values.
        min_class_rows: `validate.min_class_rows`.

    Returns:
        Task and classes.

    Raises:
        ProjectError: The column cannot be a target, or has one value only.
    """
    profile = draft.profile
    if profile.distinct < 2:
        raise ProjectError(
            f"TARGET={profile.name}: all {profile.filled:,} rows with a value have "
            f"{next(iter(profile.counts))!r}, so there is nothing to predict. Choose another target, or a "
            "source with other values too."
        )
    draft.why.clear()
    draft.change(nullable=False, feature=None, unknown="reject")
    where = {}
    if profile.missing:
        where = {f"{draft.sql} IS NOT NULL": f"{profile.missing:,} rows lack the target"}
    if (task or _guess_task(profile)) == "classification":
        return _declare_classes(con, draft, where, min_class_rows)
    if profile.shape not in ("integer", "number"):
        content = f"{profile.name!r} holds {profile.shape}"
        raise ProjectError(f"TASK=regression needs a target of numbers; {content}.")
    return Target("regression", {}, where, [])


def _guess_task(profile: Profile) -> Task:
    """Texts, booleans and few whole numbers are classes; other numbers are a regression's."""
    if profile.shape in ("boolean", "text"):
        return "classification"
    if profile.shape not in ("integer", "number"):
        raise ProjectError(
            f"TARGET={profile.name} holds {profile.shape}. A target is a number, true or false, or a text "
            "that repeats: compute one in the source."
        )
    is_few = profile.distinct <= min(MAX_NUMBERS, profile.filled / MIN_ROWS_PER_CLASS)
    return "classification" if is_few and profile.is_whole else "regression"


def _declare_classes(con: Connection, draft: Draft, where: dict[str, str], min_rows: int) -> Target:
    """Declare the labels; rows of rare classes are left out if they are few."""
    profile = draft.profile
    if profile.shape == "number":  # 1.0 is the class "1"
        draft.sql = f"TRY_CAST(TRY_CAST({draft.sql} AS DOUBLE) AS BIGINT)"
    counts = _count_classes(con, draft.sql)
    if len({label.casefold() for label in counts}) < len(counts):
        draft.sql = f"lower({draft.sql})"
        draft.why.append("some labels differ by case only: PREPARE makes them equal")
        counts = _count_classes(con, draft.sql)
    rare = {label: n for label, n in counts.items() if n < min_rows}
    n_rare, n_all = sum(rare.values()), sum(counts.values())
    if rare and n_rare <= MAX_LEFT_OUT * n_all and len(counts) - len(rare) > 1:
        labels = [label for label in counts if label not in rare]
        condition = f"{draft.sql} IN ({', '.join(map(literal, labels))})"
        where[condition] = f"{n_rare:,} rows of {len(rare)} classes with fewer than {min_rows} rows"
        counts, rare = {label: counts[label] for label in labels}, {}
    if len(counts) > MAX_VALUES:
        raise ProjectError(
            f"TARGET={profile.name} has {len(counts):,} different values, too many for classes, which need "
            f"{min_rows} rows each (validate.min_class_rows). Choose another target, or group its values in "
            "the source."
        )
    return _settle_labels(draft, counts, where, rare, min_rows)


def _count_classes(con: Connection, sql: str) -> dict[str, int]:
    """Number of rows by class."""
    labels = f"SELECT ({sql})::VARCHAR AS label FROM raw"
    counts = f"SELECT label, count(*) FROM ({labels}) WHERE label IS NOT NULL GROUP BY label ORDER BY label"
    return dict(con.sql(counts).fetchall())


def _settle_labels(
    draft: Draft, counts: dict[str, int], where: dict[str, str], rare: dict[str, int], min_rows: int
) -> Target:
    """Order the labels, of two the positive one second, and declare them."""
    if draft.profile.shape == "boolean":
        n_true = sum(n for label, n in counts.items() if label.lower()[0] in "t1")
        counts = {"false": sum(counts.values()) - n_true, "true": n_true}
        draft.change(kind="boolean", categories=())
    else:
        numbers = draft.profile.shape in ("integer", "number")
        labels = sorted(counts, key=int if numbers else str)
        if len(labels) == 2 and not numbers:
            labels.sort(key=lambda label: (label.lower() not in NEGATIVE, -counts[label]))
        counts = {label: counts[label] for label in labels}
        draft.change(kind="category", categories=tuple(labels), min=None, max=None)
    shown = ", ".join(f"{label!r} {n:,}" for label, n in [*counts.items()][:10])
    draft.why.append(f"rows: {shown}{', …' * (len(counts) > 10)}")
    if len(counts) == 2:
        draft.why.append("the second label is the one that is looked for")
    notes = [
        f"target {label!r} has {n} rows: validate stops below {min_rows} (validate.min_class_rows). Add "
        "rows, or leave the class out in PREPARE and in the categories."
        for label, n in counts.items()
        if n < min_rows
    ]
    return Target("classification", counts, where, notes)


def propose_kpis(con: Connection, target: Target, sql: str) -> Iterator[tuple[Kpi, str]]:
    """Propose KPIs that ask to beat the baseline.

    Args:
        con: Connection that has the table `raw`.
        target: Task and classes.
        sql: The target's expression.

    Yields:
        A KPI, the primary one first, and where its threshold comes from.
    """
    if target.task == "regression":
        (deviation,) = fetch_one(con, f"SELECT stddev_pop(TRY_CAST({sql} AS DOUBLE)) FROM raw")
        meaning = "Predictions are closer to the value than the mean is."
        yield Kpi("rmse", "at most", _three_digits(deviation), OWNER, meaning, True), "the error of the mean"
        meaning = "Predictions explain a part of the differences between rows."
        yield Kpi("r2", "at least", 0, OWNER, meaning), "that of the mean"
        return
    n_all, is_binary = sum(target.counts.values()), len(target.counts) == 2
    entropy = -sum(n / n_all * math.log(n / n_all) for n in target.counts.values() if n)
    meaning = "Rows of a class rank above the others."
    ranks = Kpi("roc_auc", "at least", 0.5, OWNER, meaning, is_binary), "that of chance"
    meaning = "Probabilities tell more than the shares of the classes."
    loss_kpi = Kpi("log_loss", "at most", _three_digits(entropy), OWNER, meaning, not is_binary)
    loss = loss_kpi, "that of the class shares"
    yield from (ranks, loss) if is_binary else (loss, ranks)


def _three_digits(number: float) -> float:
    """Round to three significant digits."""
    return float(f"{number:.3g}")
