"""What is expected of a model, declared in `problem.py`."""

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
