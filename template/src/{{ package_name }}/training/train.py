"""Train: cross-validate the estimator, then fit it on the whole training split."""

import joblib
import pandas as pd
from sklearn.base import clone
from sklearn.model_selection import BaseCrossValidator, KFold, StratifiedKFold, TimeSeriesSplit
from tqdm import tqdm

from .. import declarations, params
from ..contract import Contract
from ..contract.dataset import Dataset, load_dataset
from ..core.errors import ProjectError, cli
from ..core.files import write_json
from ..core.paths import ESTIMATOR, TRAIN, TRAINING_REPORT
from ..stats.metrics import Estimator, compute_metrics, predict_outputs


def make_cross_validator(contract: Contract, settings: params.Train) -> BaseCrossValidator:
    """Choose how the training split is cut into folds.

    Args:
        contract: Says whether the rows have a time, and the task.
        settings: Number of folds and seed.

    Returns:
        For rows with a time, folds that only look ahead; else shuffled folds, stratified by label.
    """
    if contract.time is not None:
        return TimeSeriesSplit(settings.n_splits)
    kind = StratifiedKFold if contract.task == "classification" else KFold
    return kind(settings.n_splits, shuffle=True, random_state=settings.seed)


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
    folds = list(make_cross_validator(contract, settings).split(train.features, train.target))
    for fit_rows, test_rows in tqdm(folds, desc="cross-validation", unit="fold", disable=quiet):
        fitted = clone(estimator).fit(train.features.iloc[fit_rows], train.target[fit_rows])
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
    estimator = declarations.make_estimator(problem.estimator, settings)
    try:
        by_fold = cross_validate(estimator, train, settings)
        estimator.fit(train.features, train.target)
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
