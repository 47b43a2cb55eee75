"""Train: cross-validate the estimator, then fit it on the whole training split."""

import inspect
from collections.abc import Iterator

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from tqdm import tqdm

from .. import declarations, params
from ..contract.dataset import Dataset
from ..core.errors import ProjectError, cli
from ..core.files import write_json
from ..core.paths import ESTIMATOR, TRAIN, TRAINING_REPORT
from ..stats.metrics import Estimator, Floats, Metrics, compute_metrics, predict_outputs
from .folds import split_folds


def _weight_parameter(estimator: Estimator) -> str:
    """Name of the sample weights among the arguments of `fit`: those of a pipeline's last step."""
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        return f"{name}__{_weight_parameter(last)}"
    parameters = inspect.signature(estimator.fit).parameters.values()
    if not any(p.name == "sample_weight" or p.kind == p.VAR_KEYWORD for p in parameters):
        raise ProjectError(
            f"problem.SAMPLE_WEIGHT: fit of {type(estimator).__name__} takes no sample_weight. Choose an "
            "estimator that does, or set SAMPLE_WEIGHT = None."
        )
    return "sample_weight"


def fit(estimator: Estimator, train: Dataset, rows: NDArray[np.intp] | slice = slice(None)) -> Estimator:
    """Fit an estimator, with the sample weights if the project declares any.

    Args:
        estimator: Not fitted. The last step of a pipeline gets the weights, the other steps do not.
        train: The training split.
        rows: Positions of the rows to fit on; all by default.

    Returns:
        The estimator, fitted.

    Raises:
        ProjectError: The rows have weights, and the estimator takes none; or it fails, and a column is empty.
    """
    features, target, options = train.features.iloc[rows], train.target[rows], {}
    if train.weights is not None:
        options = {_weight_parameter(estimator): train.weights[rows]}
    try:
        return estimator.fit(features, target, **options)
    except Exception as error:
        # A wrong setting of the estimator (a TypeError too) has nothing to do with the rows.
        if isinstance(error, TypeError) or not (empty := features.columns[features.isna().all()].tolist()):
            raise
        raise ProjectError(
            f"train: {type(estimator).__name__} cannot be fitted on {len(features):,} training rows in which "
            f"{', '.join(empty)} has no value: {error}. Leave out the column (feature=False), or the rows "
            "without it (problem.PREPARE), or set a smaller train.n_splits."
        ) from None


def predict_folds(
    estimator: Estimator, train: Dataset, settings: params.Train, quiet: bool = False
) -> Iterator[tuple[NDArray[np.intp], Floats]]:
    """Predict each fold with an estimator that is fitted on the other folds (with a time: on earlier rows).

    Args:
        estimator: Not fitted; it is cloned for each fold.
        train: The training split.
        settings: Number of folds and seed.
        quiet: Show no progress bar.

    Yields:
        Positions of a fold's rows, and their outputs, `(n_fold_rows, n_labels)`.
    """
    folds = split_folds(train, settings)
    for fit_rows, test_rows in tqdm(folds, desc="cross-validation", unit="fold", disable=quiet):
        fitted = fit(clone(estimator), train, fit_rows)
        yield test_rows, predict_outputs(fitted, train.features.iloc[test_rows], train.contract)


def cross_validate(
    estimator: Estimator, train: Dataset, settings: params.Train, metrics: Metrics, quiet: bool = False
) -> list[dict[str, float]]:
    """Measure an estimator on each fold.

    Args:
        estimator: Not fitted; it is cloned for each fold.
        train: The training split.
        settings: Number of folds and seed.
        metrics: Metrics by name.
        quiet: Show no progress bar.

    Returns:
        The metrics of each fold.
    """
    return [
        compute_metrics(metrics, train.observations.take(rows), outputs)
        for rows, outputs in predict_folds(estimator, train, settings, quiet)
    ]


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
    estimator = declarations.make_estimator(problem.estimator, settings)
    train = problem.read_split(TRAIN)
    try:
        by_fold = cross_validate(estimator, train, settings, problem.make_metrics(train.contract))
        fit(estimator, train)
    except ValueError as error:
        if not isinstance(error, TypeError):  # scikit-learn's InvalidParameterError is both
            raise
        raise ProjectError(f"train.estimator in params.yaml: {error}") from None
    check_labels(train)
    mean = pd.DataFrame(by_fold).mean().to_dict()
    ESTIMATOR.parent.mkdir(exist_ok=True)
    joblib.dump(estimator, ESTIMATOR)
    write_json(TRAINING_REPORT, {"rows": len(train), "mean": mean, "folds": by_fold})
    print("train: " + ", ".join(f"{name} {value:.4f}" for name, value in mean.items()))


if __name__ == "__main__":
    cli(main)
