"""What is expected of a model, declared in `problem.py` and judged by the gate."""

from typing import Literal

import msgspec


class Kpi(msgspec.Struct, frozen=True):
    """A figure that the model must reach, and whom it concerns.

    `metric` is one of those in `reports/metrics.json`. The first KPI is the one that models are
    compared by. `meaning` says in one sentence what reaching it is worth, for readers of any trade.
    """

    metric: str
    direction: Literal["at least", "at most"]
    threshold: float
    owner: str
    meaning: str

    @property
    def sign(self) -> int:
        """1 if more is better, else -1."""
        return 1 if self.direction == "at least" else -1


class Behaviour(msgspec.Struct, frozen=True):
    """What a change of one field, in every test row, must do to the answers.

    `change` is added to a number, or set in place of a category. `label` names the answer whose
    probability is meant; a regression has none.
    """

    column: str
    change: float | str
    effect: Literal["raises", "lowers", "leaves"]
    meaning: str
    label: str | None = None
    tolerance: float = 0.02  # for "leaves": mean absolute change of the answer, as a share of its range


class About(msgspec.Struct, frozen=True):
    """What the cards say and no run can know."""

    purpose: str
    limits: str
    data: str
    data_licence: str
