"""What predictions are compared with: target, weight and costs of each row."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .expectations import Cost


class Observations(NamedTuple):
    """What metrics compare outputs with.

    Attributes:
        target: Positions of the labels, or the values of a regression, `(n_rows,)`.
        weights: How much each row counts, `(n_rows,)`; None: all rows alike.
        costs: Cost of each row by target and predicted label, `(n_rows, 2, 2)`; None: not known.
    """

    target: NDArray[Any]
    weights: NDArray[np.float64] | None = None
    costs: NDArray[np.float64] | None = None

    def take(self, rows: NDArray[np.intp] | slice) -> "Observations":
        """Select rows.

        Args:
            rows: Their positions.

        Returns:
            The observations of these rows.
        """
        return Observations(
            self.target[rows],
            None if self.weights is None else self.weights[rows],
            None if self.costs is None else self.costs[rows],
        )

    @property
    def unit_counts(self) -> NDArray[np.float64]:
        """The sample itself, in the form of a bootstrap resample.

        Returns:
            The weights, or ones, of shape `(1, n_rows)`.
        """
        return (np.ones(len(self.target)) if self.weights is None else self.weights)[None, :]


def compute_costs(
    cost: Cost, columns: Mapping[str, NDArray[np.floating]], n_rows: int
) -> NDArray[np.float64]:
    """Compute the cost matrix of each row (Elkan, 2001, "The Foundations of Cost-Sensitive Learning").

    Args:
        cost: The cost of each outcome: an amount, or a column that holds it.
        columns: Values of the columns that `cost` names, `(n_rows,)` each.
        n_rows: Number of rows.

    Returns:
        Costs by target and predicted label, `(n_rows, 2, 2)`.
    """
    costs = np.empty((n_rows, 2, 2))
    for target, amounts in enumerate(cost.matrix):
        for label, amount in enumerate(amounts):
            costs[:, target, label] = columns[amount] if isinstance(amount, str) else amount
    return costs
