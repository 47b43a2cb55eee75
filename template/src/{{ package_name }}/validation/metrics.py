"""Outputs of an estimator, and the metrics of its kind: the same in training and on the bundle."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn import metrics

from ..contract import Contract

Estimator = Any  # scikit-learn's estimators share no typed interface


def outputs(estimator: Estimator, features: pd.DataFrame, contract: Contract) -> NDArray:
    """What the bundle will answer: (rows, labels) probabilities or scores, or (rows, 1) values."""
    if contract.task == "regression":
        return np.asarray(estimator.predict(features)).reshape(-1, 1)
    found = np.zeros((len(features), len(contract.labels)))
    found[:, estimator.classes_] = estimator.predict_proba(features)  # a fold may lack rare labels
    return found


def measure(contract: Contract, target: NDArray, outputs: NDArray) -> dict[str, float]:
    """Measure outputs against the truth.

    Args:
        target: shape (rows,), numbers or positions in the target's categories.
        outputs: shape (rows, labels), probabilities or scores; or (rows, 1), predicted numbers.
    """
    if contract.task == "regression":
        return regression(target, outputs[:, 0])
    if contract.task == "ranking":
        return ranking(target, outputs)
    return classification(target, outputs)


def classification(target: NDArray, outputs: NDArray) -> dict[str, float]:
    """AUC needs two classes in `target`; where there is one (a small segment), it is left out."""
    classes = range(outputs.shape[1])
    truth = np.eye(outputs.shape[1])[target]
    found = {
        "log_loss": metrics.log_loss(target, outputs.clip(0, 1), labels=list(classes)),
        "brier": float(np.mean(np.sum((outputs - truth) ** 2, axis=1)) / 2),
        "accuracy": metrics.accuracy_score(target, outputs.argmax(axis=1)),
    }
    seen = [index for index in classes if 0 < truth[:, index].sum() < len(target)]
    if seen:
        judged = [1] if outputs.shape[1] == 2 else seen
        found["roc_auc"] = np.mean([metrics.roc_auc_score(truth[:, i], outputs[:, i]) for i in judged])
        found["pr_auc"] = np.mean(
            [metrics.average_precision_score(truth[:, i], outputs[:, i]) for i in judged]
        )
    return {name: float(value) for name, value in found.items()}


def regression(target: NDArray, predicted: NDArray) -> dict[str, float]:
    """Mean absolute error and its share of the mean, root mean squared error, R²."""
    error = float(metrics.mean_absolute_error(target, predicted))
    found = {"mae": error, "rmse": float(metrics.root_mean_squared_error(target, predicted))}
    if np.mean(np.abs(target)) > 0:
        found["mae_share"] = error / float(np.mean(np.abs(target)))
    if len(target) > 1 and np.ptp(target) > 0:
        found["r2"] = float(metrics.r2_score(target, predicted))
    return found


def ranking(target: NDArray, outputs: NDArray, top: int = 10) -> dict[str, float]:
    """Hit rate and mean reciprocal rank of the true item; equal scores count against the model."""
    rank = np.sum(outputs >= outputs[np.arange(len(target)), target][:, None], axis=1)
    return {f"hit_rate_at_{top}": float(np.mean(rank <= top)), "mrr": float(np.mean(1 / rank))}
