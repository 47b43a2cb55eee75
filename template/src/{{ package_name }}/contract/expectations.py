"""What `problem.py` declares about a model beside its contract: KPIs, costs, behavioural tests, card."""

from typing import Any, Literal

import msgspec

from ..core.errors import warn_once

# Names and values of earlier releases: problem.py is the user's, so they are read until 0.5.
RENAMED_CLASSES = {"About": "ModelCardInfo", "Behaviour": "BehaviouralTest"}
RENAMED_EFFECTS: dict[str, "Effect"] = {"raises": "increases", "lowers": "decreases", "leaves": "invariant"}

Effect = Literal["increases", "decreases", "invariant"]


class Kpi(msgspec.Struct, frozen=True):
    """A limit that a metric of the model must keep.

    Attributes:
        metric: A key of `reports/metrics.json`; a metric with a number in its name, such as
            "recall_in_top_1%" (all are in `stats/metrics.py`); or a metric of `METRICS` in problem.py.
        direction: Whether the threshold is a minimum or a maximum.
        threshold: In units of the metric.
        owner: Who decides on the threshold.
        meaning: One sentence for readers outside data science: what reaching the threshold is worth.
        primary: Whether models are compared by this metric. Exactly one KPI is primary.
    """

    metric: str
    direction: Literal["at least", "at most"]
    threshold: float
    owner: str
    meaning: str
    primary: bool = False

    @property
    def sign(self) -> int:
        """The direction as a factor.

        Returns:
            1 if a higher value is better, else -1.
        """
        return 1 if self.direction == "at least" else -1


class Cost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the decisions of a classification with two labels cost, for the metric `cost` (the mean per row).

    Each is an amount of money, or the name of a numeric column that holds it; a negative one is a benefit.

    Attributes:
        false_positive: Of predicting the second label for a row of the first one.
        false_negative: Of predicting the first label for a row of the second one.
        true_positive: Of predicting the second label rightly, such as the cost of an offer.
        true_negative: Of predicting the first label rightly.
    """

    false_positive: float | str = 0.0
    false_negative: float | str = 0.0
    true_positive: float | str = 0.0
    true_negative: float | str = 0.0

    @property
    def matrix(self) -> tuple[tuple[float | str, float | str], tuple[float | str, float | str]]:
        """The costs by target and predicted label.

        Returns:
            A pair for each target, with an amount or a column for each predicted label.
        """
        return (self.true_negative, self.false_positive), (self.false_negative, self.true_positive)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that hold an amount.

        Returns:
            Their names, each once.
        """
        amounts = [amount for amounts in self.matrix for amount in amounts]
        return tuple(dict.fromkeys(amount for amount in amounts if isinstance(amount, str)))


class BehaviouralTest(msgspec.Struct, frozen=True):
    """How the prediction must react when one feature changes in every test row.

    A directional or an invariance test (Ribeiro et al., 2020, "Beyond Accuracy: Behavioral Testing of NLP
    Models with CheckList").

    Attributes:
        column: A feature of kind number, integer, boolean or category; it may be a list.
        change: Is added to a number (1 makes a boolean true, -1 false), to each number of a list, or as one
            more category to a list of categories; replaces a single category. A row in which it changes
            nothing counts too: a value at its limit, a list that is full, missing, or has the category.
        effect: `increases`, `decreases` or `invariant`.
        meaning: One sentence for readers outside data science.
        label: The label whose probability is tested; None for a regression.
        tolerance: For `invariant`: mean absolute change of the prediction, as a share of its range (0 to 1).
    """

    column: str
    change: float | str
    effect: Effect
    meaning: str
    label: str | None = None
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        if self.effect in RENAMED_EFFECTS:
            effect = RENAMED_EFFECTS[self.effect]
            warn_once(f"problem.py: the effect {self.effect!r} of a behavioural test is now {effect!r}")
            msgspec.structs.force_setattr(self, "effect", effect)


class ModelCardInfo(msgspec.Struct, frozen=True):
    """What the cards state beyond the results of a run.

    Attributes:
        purpose: What the model is for.
        limits: Where it must not be used.
        data: Where the data comes from.
        data_licence: Licence of the data.
    """

    purpose: str
    limits: str
    data: str
    data_licence: str


def __getattr__(name: str) -> Any:
    """Return a class by its former name, with a warning."""
    if name not in RENAMED_CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warn_once(f"problem.py: {name} of contract.expectations is now {RENAMED_CLASSES[name]}")
    return globals()[RENAMED_CLASSES[name]]
