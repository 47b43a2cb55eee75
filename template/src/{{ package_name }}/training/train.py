"""Train: cross-validate the estimator, then fit it on the whole training split."""

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.model_selection import BaseCrossValidator, KFold, StratifiedKFold, TimeSeriesSplit
from sklearn.utils._param_validation import InvalidParameterError
from tqdm import tqdm

from .. import params, problem
from ..contract import Contract
from ..contract.dataset import Dataset, load_dataset
from ..core.errors import ProjectError, cli
from ..core.files import write_json
from ..core.paths import ESTIMATOR, TRAIN, TRAINING_REPORT
from ..stats.metrics import Estimator, compute_metrics, predict_outputs


def folds(contract: Contract, settings: params.Train) -> BaseCrossValidator:
    """Rolling origin for rows in time order; else shuffled, with classes in equal shares."""
    if contract.time is not None:
        return TimeSeriesSplit(settings.n_splits)
    kind = StratifiedKFold if contract.task == "classification" else KFold
    return kind(settings.n_splits, shuffle=True, random_state=settings.seed)


def cross_validate(
    estimator: Estimator, train: Dataset, settings: params.Train, quiet: bool = False
) -> list[dict[str, float]]:
    """Measure the estimator on each fold, trained on the others (in time: on those before)."""
    measured, contract = [], train.contract
    splits = list(folds(contract, settings).split(train.features, train.target))
    for fit, held in tqdm(splits, desc="cross-validation", unit="fold", disable=quiet):
        fitted = clone(estimator).fit(train.features.iloc[fit], train.target[fit])
        answers = predict_outputs(fitted, train.features.iloc[held], contract)
        measured.append(compute_metrics(contract, train.target[held], answers))
    return measured


def check_labels(target: NDArray[np.int64 | np.float64], contract: Contract) -> None:
    """A label without a training row has no place in the model's outputs."""
    unseen = [label for code, label in enumerate(contract.labels) if code not in set(target)]
    if contract.task != "regression" and unseen:
        raise ProjectError(
            f"train: no training row has {contract.target} {', '.join(map(repr, unseen))}. "
            "Bring such rows, or drop the categories from the contract."
        )


def main() -> None:
    settings, contract = params.load().train, problem.CONTRACT
    train = load_dataset(TRAIN, contract)
    try:
        estimator: Estimator = problem.estimator(settings.seed, **settings.estimator)
    except TypeError as error:
        raise ProjectError(
            f"train.estimator in params.yaml does not fit problem.estimator: {error}"
        ) from None
    try:
        by_fold = cross_validate(estimator, train, settings)
        estimator.fit(train.features, train.target)
    except InvalidParameterError as error:
        raise ProjectError(f"train.estimator in params.yaml: {error}") from None
    check_labels(train.target, contract)
    mean = pd.DataFrame(by_fold).mean().to_dict()
    ESTIMATOR.parent.mkdir(exist_ok=True)
    joblib.dump(estimator, ESTIMATOR)
    write_json(TRAINING_REPORT, {"rows": len(train), "mean": mean, "folds": by_fold})
    print("train: " + ", ".join(f"{name} {value:.4f}" for name, value in mean.items()))


if __name__ == "__main__":
    cli(main)
