"""Train: cross-validate the estimator, then fit it on the whole training split."""

from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.model_selection import BaseCrossValidator, KFold, StratifiedKFold, TimeSeriesSplit
from tqdm import tqdm

from .. import params, problem
from ..contract import Contract
from ..stage import ESTIMATOR, TRAIN, TRAINING_REPORT, ProjectError, run_stage, write_json
from ..tables import read_features, read_target
from ..validation.metrics import measure

Estimator = Any  # scikit-learn's estimators share no typed interface


def folds(contract: Contract, settings: params.Train) -> BaseCrossValidator:
    """Rolling origin for rows in time order; else shuffled, with classes in equal shares."""
    if contract.time is not None:
        return TimeSeriesSplit(settings.folds)
    kind = StratifiedKFold if contract.task == "classification" else KFold
    return kind(settings.folds, shuffle=True, random_state=settings.seed)


def outputs(estimator: Estimator, features: pd.DataFrame, contract: Contract) -> np.ndarray:
    """What the bundle will answer: (rows, labels) probabilities or scores, or (rows, 1) values."""
    if contract.task == "regression":
        return np.asarray(estimator.predict(features)).reshape(-1, 1)
    return estimator.predict_proba(features)


def cross_validate(
    estimator: Estimator,
    features: pd.DataFrame,
    target: pd.Series,
    contract: Contract,
    settings: params.Train,
) -> list[dict[str, float]]:
    """Measure the estimator on each fold, trained on the others (in time: on those before)."""
    measured = []
    splits = list(folds(contract, settings).split(features, target))
    for fit, held in tqdm(splits, desc="cross-validation", unit="fold"):
        fitted = clone(estimator).fit(features.iloc[fit], target.iloc[fit])
        answers = outputs(fitted, features.iloc[held], contract)
        measured.append(measure(contract, target.iloc[held].to_numpy(), answers))
    return measured


def main() -> None:
    settings, contract = params.load().train, problem.CONTRACT
    features, target = read_features(TRAIN, contract), read_target(TRAIN, contract)
    try:
        estimator: Estimator = problem.estimator(settings.seed, **settings.estimator)
    except TypeError as error:
        raise ProjectError(
            f"train.estimator in params.yaml does not fit problem.estimator: {error}"
        ) from None
    by_fold = cross_validate(estimator, features, target, contract, settings)
    mean = pd.DataFrame(by_fold).mean().to_dict()
    estimator.fit(features, target)
    ESTIMATOR.parent.mkdir(exist_ok=True)
    joblib.dump(estimator, ESTIMATOR)
    write_json(TRAINING_REPORT, {"rows": len(features), "mean": mean, "folds": by_fold})
    print("train: " + ", ".join(f"{name} {value:.4f}" for name, value in mean.items()))


if __name__ == "__main__":
    run_stage(main)
