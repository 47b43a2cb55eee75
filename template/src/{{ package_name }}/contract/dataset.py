"""A table of the project in memory, as models and metrics need it."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from . import Column, Contract
from .expectations import Cost
from .observations import Observations, compute_costs
from .tables import quote, read_column, read_features, read_target

Groups = dict[str, dict[str, NDArray[np.intp]]]
"""For each column and each of its values, the positions of the rows with that value."""

MISSING = "missing"
"""Name of the group of rows without a value."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows of one split: features and target in memory, all other columns read when first needed.

    Attributes:
        path: The Parquet file.
        contract: The contract that the rows follow.
        features: One float32 column for each of `Contract.feature_names`, shape `(n_rows, n_features)`.
        target: Positions in `Contract.labels` (int64), or the values of a regression (float64), shape
            `(n_rows,)`.
        baseline: Predictions of the baseline column, shape `(n_rows,)`; None if the project declares none.
        weights: Sample weights, shape `(n_rows,)`; None if the project declares none.
        costs: Cost of each row by target and predicted label, shape `(n_rows, 2, 2)`; None likewise.
    """

    path: Path
    contract: Contract
    features: pd.DataFrame
    target: NDArray[np.int64] | NDArray[np.float64]
    baseline: NDArray[np.float64] | None = None
    weights: NDArray[np.float64] | None = None
    costs: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.target)

    @property
    def observations(self) -> Observations:
        """What metrics compare predictions with.

        Returns:
            Target, weights and costs.
        """
        return Observations(self.target, self.weights, self.costs)

    @cached_property
    def key(self) -> pd.Series:
        """Key of each row.

        Returns:
            The keys as text, `(n_rows,)`; the values of several columns are joined by commas.
        """
        return read_column(self.path, f"concat_ws(', ', {', '.join(map(quote, self.contract.keys))})")

    @cached_property
    def groups(self) -> NDArray[np.intp] | None:
        """Group of each row.

        Returns:
            Numbers from 0, `(n_rows,)`; None if the contract has no group.
        """
        if self.contract.group is None:
            return None
        return pd.factorize(read_column(self.path, quote(self.contract.group)))[0]

    @cached_property
    def times(self) -> pd.Series | None:
        """Time of each row.

        Returns:
            The values of the contract's time, `(n_rows,)`; None if the contract has no time.
        """
        if self.contract.time is None:
            return None
        return read_column(self.path, quote(self.contract.time))

    @cached_property
    def segments(self) -> Groups:
        """Rows of each segment.

        Returns:
            Positions of the rows, by column and value.
        """
        return self._groups(column for column in self.contract.kept if column.segment)

    @cached_property
    def protected(self) -> Groups:
        """Rows of each protected group.

        Returns:
            Positions of the rows, by column and value.
        """
        return self._groups(column for column in self.contract.kept if column.protected)

    def _groups(self, columns: Iterable[Column]) -> Groups:
        """Positions of the rows with each value of each column."""
        groups: Groups = {}
        for column in columns:
            values = read_column(self.path, f"{quote(column.name)}::VARCHAR").fillna(MISSING)
            groups[column.name] = {str(value): rows for value, rows in values.groupby(values).indices.items()}
        return groups


def load_dataset(
    path: Path,
    contract: Contract,
    baseline: str | None = None,
    sample_weight: str | None = None,
    cost: Cost | None = None,
) -> Dataset:
    """Read a split.

    Args:
        path: A Parquet file with the columns of `contract.kept`, in the contract's types.
        contract: Says which columns are features, target, key, segments and protected attributes.
        baseline: Name of the column that holds the baseline's predictions, if the project declares one.
        sample_weight: Name of the column that holds the sample weights, likewise.
        cost: What decisions cost, likewise.

    Returns:
        The rows in the order of the file.
    """

    def read(name: str) -> NDArray[np.float64]:
        return read_column(path, f"{quote(name)}::DOUBLE").to_numpy()

    features, target = read_features(path, contract), read_target(path, contract).to_numpy()
    return Dataset(
        path,
        contract,
        features,
        target,
        baseline=read(baseline) if baseline else None,
        weights=read(sample_weight) if sample_weight else None,
        costs=compute_costs(cost, {n: read(n) for n in cost.columns}, len(target)) if cost else None,
    )
