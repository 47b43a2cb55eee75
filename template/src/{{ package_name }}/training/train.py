"""Train: cross-validate the estimator, then fit it on the whole training split."""

from collections.abc import Iterator

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold, TimeSeriesSplit
from tqdm import tqdm

from .. import declarations, params
from ..contract.dataset import Dataset, load_dataset
from ..core.errors import ProjectError, cli
from ..core.files import write_json
from ..core.paths import ESTIMATOR, TRAIN, TRAINING_REPORT
from ..stats.metrics import Estimator, compute_metrics, predict_outputs

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
        if contract.time is not None:
            return list(_rolling_folds(train, settings.n_splits))
        by_task = {True: (StratifiedKFold, StratifiedGroupKFold), False: (KFold, GroupKFold)}
        kind = by_task[contract.task == "classification"][train.groups is not None]
        folds = kind(settings.n_splits, shuffle=True, random_state=settings.seed)
        return list(folds.split(train.features, train.target, train.groups))
    except ValueError as error:
        raise ProjectError(f"train.n_splits in params.yaml is {settings.n_splits}: {error}") from None


def _rolling_folds(train: Dataset, n_splits: int) -> Iterator[Fold]:
    """Folds that look ahead; a moment with several rows is never cut."""
    moment_of_row, moments = pd.factorize(train.times, sort=True)
    for before, after in TimeSeriesSplit(n_splits).split(moments):
        known = before[moments[before] <= moments[after[0]] - train.contract.gap]
        if not len(known):
            raise ValueError("the first fold has no row whose target is known when its test rows begin")
        fit_rows, test_rows = (np.flatnonzero(np.isin(moment_of_row, part)) for part in (known, after))
        yield fit_rows, test_rows


def _fit(estimator: Estimator, train: Dataset, rows: NDArray[np.intp], place: str) -> Estimator:
    """Fit a copy of an estimator on some rows; an error that an empty column explains names the column."""
    features = train.features.iloc[rows]
    try:
        return clone(estimator).fit(features, train.target[rows])
    except Exception as error:
        if isinstance(error, TypeError) or not (empty := features.columns[features.isna().all()].tolist()):
            raise
        raise ProjectError(
            f"train: {type(estimator).__name__} cannot be fitted on {place}, where {', '.join(empty)} has no "
            f"value: {error}. Leave the column out (feature=False), leave out the rows without it in "
            "problem.PREPARE, or set a smaller train.n_splits."
        ) from None


def cross_validate(
    estimator: Estimator, train: Dataset, settings: params.Train, quiet: bool = False
) -> list[dict[str, float]]:
    """Measure an estimator on each fold, fitted on the other folds (with a time: on earlier rows).

    Args:
        estimator: Not fitted; it is cloned for each fold.
        train: The training split.
        settings: Number of folds and seed.
        quiet: Show no progress bar.

    Returns:
        The metrics of each fold.
    """
    metrics, contract = [], train.contract
    folds = split_folds(train, settings)
    for index, (fit_rows, test_rows) in enumerate(
        tqdm(folds, "cross-validation", unit="fold", disable=quiet)
    ):
        fitted = _fit(estimator, train, fit_rows, f"fold {index + 1}")
        outputs = predict_outputs(fitted, train.features.iloc[test_rows], contract)
        metrics.append(compute_metrics(contract, train.target[test_rows], outputs))
    return metrics


def check_labels(train: Dataset) -> None:
    """Check that each label has a training row: else the model has no output for it.

    Args:
        train: The training split.

    Raises:
        ProjectError: A label has none.
    """
    contract, positions = train.contract, set(train.target)
    unseen = [label for position, label in enumerate(contract.labels) if position not in positions]
    if contract.task != "regression" and unseen:
        raise ProjectError(
            f"train: no training row has {contract.target} {', '.join(map(repr, unseen))}. "
            "Add such rows, or drop the categories from the contract."
        )


def main() -> None:
    """Write the fitted estimator and the metrics of its cross-validation."""
    settings, problem = params.load().train, declarations.load()
    train = load_dataset(TRAIN, problem.contract)
    try:
        estimator: Estimator = problem.estimator(settings.seed, **settings.estimator)
    except TypeError as error:
        raise ProjectError(
            f"train.estimator in params.yaml does not fit problem.estimator: {error}"
        ) from None
    try:
        by_fold = cross_validate(estimator, train, settings)
        fitted = _fit(estimator, train, np.arange(len(train)), "the training split")
    except ValueError as error:
        if not isinstance(error, TypeError):  # scikit-learn's InvalidParameterError is both
            raise
        raise ProjectError(f"train.estimator in params.yaml: {error}") from None
    check_labels(train)
    mean = pd.DataFrame(by_fold).mean().to_dict()
    ESTIMATOR.parent.mkdir(exist_ok=True)
    joblib.dump(fitted, ESTIMATOR)
    write_json(TRAINING_REPORT, {"rows": len(train), "mean": mean, "folds": by_fold})
    print("train: " + ", ".join(f"{name} {value:.4f}" for name, value in mean.items()))


if __name__ == "__main__":
    cli(main)
