"""Train: cross-validate the estimator, then fit it on the whole training split."""

import joblib
import pandas as pd
from sklearn.base import clone
from sklearn.model_selection import BaseCrossValidator, KFold, StratifiedKFold, TimeSeriesSplit
from sklearn.utils._param_validation import InvalidParameterError
from tqdm import tqdm

from .. import params, problem
from ..contract import Contract
from ..contract.tables import read_features, read_target
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
    estimator: Estimator,
    features: pd.DataFrame,
    target: pd.Series,
    contract: Contract,
    settings: params.Train,
    quiet: bool = False,
) -> list[dict[str, float]]:
    """Measure the estimator on each fold, trained on the others (in time: on those before)."""
    measured = []
    splits = list(folds(contract, settings).split(features, target))
    for fit, held in tqdm(splits, desc="cross-validation", unit="fold", disable=quiet):
        fitted = clone(estimator).fit(features.iloc[fit], target.iloc[fit])
        answers = predict_outputs(fitted, features.iloc[held], contract)
        measured.append(compute_metrics(contract, target.iloc[held].to_numpy(), answers))
    return measured


def check_labels(target: pd.Series, contract: Contract) -> None:
    """A label without a training row has no place in the model's outputs."""
    unseen = [label for code, label in enumerate(contract.labels) if code not in set(target)]
    if contract.task != "regression" and unseen:
        raise ProjectError(
            f"train: no training row has {contract.target} {', '.join(map(repr, unseen))}. "
            "Bring such rows, or drop the categories from the contract."
        )


def main() -> None:
    settings, contract = params.load().train, problem.CONTRACT
    features, target = read_features(TRAIN, contract), read_target(TRAIN, contract)
    try:
        estimator: Estimator = problem.estimator(settings.seed, **settings.estimator)
    except TypeError as error:
        raise ProjectError(
            f"train.estimator in params.yaml does not fit problem.estimator: {error}"
        ) from None
    try:
        by_fold = cross_validate(estimator, features, target, contract, settings)
        estimator.fit(features, target)
    except InvalidParameterError as error:
        raise ProjectError(f"train.estimator in params.yaml: {error}") from None
    check_labels(target, contract)
    mean = pd.DataFrame(by_fold).mean().to_dict()
    ESTIMATOR.parent.mkdir(exist_ok=True)
    joblib.dump(estimator, ESTIMATOR)
    write_json(TRAINING_REPORT, {"rows": len(features), "mean": mean, "folds": by_fold})
    print("train: " + ", ".join(f"{name} {value:.4f}" for name, value in mean.items()))


if __name__ == "__main__":
    cli(main)
