"""Folds of the cross-validation: cut as the test split was, so that they promise as much."""

from collections.abc import Iterator
from datetime import timedelta

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold, TimeSeriesSplit

from .. import params
from ..contract.dataset import Dataset
from ..core.errors import ProjectError

Fold = tuple[NDArray[np.intp], NDArray[np.intp]]
"""Positions of the rows to fit on, and of those to test on."""


def split_folds(train: Dataset, settings: params.Train) -> list[Fold]:
    """Cut the training split into folds, as the test split was cut off.

    Args:
        train: The training split.
        settings: Number of folds and seed.

    Returns:
        Positions of the rows to fit on and to test on, for each fold. Rows with a time: folds that only look
        ahead, by the contract's horizon. Else shuffled folds with whole groups, stratified by label.

    Raises:
        ProjectError: There are too few rows, times or groups for so many folds.
    """
    contract = train.contract
    try:
        if train.times is not None:
            return list(_rolling_folds(train.times, contract.gap, settings.n_splits))
        by_task = {True: (StratifiedKFold, StratifiedGroupKFold), False: (KFold, GroupKFold)}
        kind = by_task[contract.task == "classification"][train.groups is not None]
        folds = kind(settings.n_splits, shuffle=True, random_state=settings.seed)
        return list(folds.split(train.features, train.target, train.groups))
    except ValueError as error:
        raise ProjectError(f"train.n_splits in params.yaml is {settings.n_splits}: {error}") from None


def _rolling_folds(times: pd.Series, gap: timedelta | float, n_splits: int) -> Iterator[Fold]:
    """Folds that look ahead; a moment with several rows is never cut."""
    moment_of_row, moments = pd.factorize(times, sort=True)
    for before, after in TimeSeriesSplit(n_splits).split(moments):
        labelled = before[moments[before] <= moments[after[0]] - gap]
        if not len(labelled):
            raise ValueError("the first fold has no row whose target is known when its test rows begin")
        fit_rows, test_rows = (np.flatnonzero(np.isin(moment_of_row, part)) for part in (labelled, after))
        yield fit_rows, test_rows
