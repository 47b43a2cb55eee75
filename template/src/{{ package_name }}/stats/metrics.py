"""Outputs of an estimator, and the metrics of its kind: the same in training, evaluation and gate.

A metric is computed for many resamples of the same rows at once: `counts` of shape (resamples, rows)
says how often each row is drawn. One row of ones gives the plain metric; scikit-learn gives the same
numbers (a test holds them together), one resample at a time.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..contract import Contract, Task
from ..core.errors import ProjectError

TOP = 10

Estimator = Any  # scikit-learn's estimators share no typed interface
Metric = Callable[[NDArray, NDArray, NDArray], NDArray]  # target, outputs, counts → (resamples,)


def outputs(estimator: Estimator, features: pd.DataFrame, contract: Contract) -> NDArray:
    """What the bundle will answer: (rows, labels) probabilities or scores, or (rows, 1) values.

    Raises:
        ProjectError: an estimator for labels has no `predict_proba`.
    """
    if contract.task == "regression":
        return np.asarray(estimator.predict(features)).reshape(-1, 1)
    if not hasattr(estimator, "predict_proba"):
        raise ProjectError(
            f"problem.estimator: {type(estimator).__name__} has no predict_proba, and {contract.task} needs "
            "probabilities. Wrap it in CalibratedClassifierCV, or take another estimator."
        )
    found = np.zeros((len(features), len(contract.labels)))
    found[:, estimator.classes_] = estimator.predict_proba(features)  # a fold may lack rare labels
    return found


def measure(contract: Contract, target: NDArray, outputs: NDArray) -> dict[str, float]:
    """Measure outputs against the truth; what these rows leave undefined (an AUC of one class) is left out.

    Args:
        target: shape (rows,), numbers or positions in the target's categories.
        outputs: shape (rows, labels), probabilities or scores; or (rows, 1), predicted numbers.
    """
    once = np.ones((1, len(target)))
    found = {name: float(metric(target, outputs, once)[0]) for name, metric in METRICS[contract.task].items()}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def mean(values: NDArray, counts: NDArray) -> NDArray:
    """Mean over the rows that are drawn; NaN where none is."""
    with np.errstate(invalid="ignore"):
        return counts @ values / counts.sum(axis=1)


def log_loss(target: NDArray, outputs: NDArray, counts: NDArray) -> NDArray:
    given = outputs[np.arange(len(target)), target].astype(float)
    return mean(-np.log(given.clip(1e-15, 1)), counts)


def brier(target: NDArray, outputs: NDArray, counts: NDArray) -> NDArray:
    truth = np.eye(outputs.shape[1])[target]
    return mean(np.sum((outputs - truth) ** 2, axis=1) / 2, counts)


def accuracy(target: NDArray, outputs: NDArray, counts: NDArray) -> NDArray:
    return mean((outputs.argmax(axis=1) == target).astype(float), counts)


def by_score(truth: NDArray, scores: NDArray, counts: NDArray) -> tuple[NDArray, NDArray]:
    """Positives and negatives at each distinct score, from the highest: both (resamples, scores)."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    drawn = counts[:, order]
    positives = np.add.reduceat(drawn * truth[order], starts, axis=1)
    return positives, np.add.reduceat(drawn, starts, axis=1) - positives


def area_under_roc(truth: NDArray, scores: NDArray, counts: NDArray) -> NDArray:
    """Share of pairs of a positive and a negative that are in order; equal scores count half."""
    positives, negatives = by_score(truth, scores, counts)
    below = negatives.sum(axis=1, keepdims=True) - negatives.cumsum(axis=1) + negatives / 2
    return (positives * below).sum(axis=1) / (positives.sum(axis=1) * negatives.sum(axis=1))


def average_precision(truth: NDArray, scores: NDArray, counts: NDArray) -> NDArray:
    """Precision at each positive, averaged."""
    positives, negatives = by_score(truth, scores, counts)
    found = positives.cumsum(axis=1)
    precision = found / np.maximum(found + negatives.cumsum(axis=1), 1)
    return (precision * positives).sum(axis=1) / positives.sum(axis=1)


def over_labels(curve: Metric) -> Metric:
    """The mean of a two-class metric over the labels; of two labels, the second is the positive."""

    def metric(target: NDArray, outputs: NDArray, counts: NDArray) -> NDArray:
        labels = [1] if outputs.shape[1] == 2 else np.unique(target)
        with np.errstate(invalid="ignore"):
            return np.mean([curve(target == label, outputs[:, label], counts) for label in labels], axis=0)

    return metric


def errors(target: NDArray, outputs: NDArray) -> NDArray:
    return np.abs(outputs[:, 0].astype(float) - target)


def mae(target: NDArray, outputs: NDArray, counts: NDArray) -> NDArray:
    return mean(errors(target, outputs), counts)


def rmse(target: NDArray, outputs: NDArray, counts: NDArray) -> NDArray:
    return np.sqrt(mean(errors(target, outputs) ** 2, counts))


def mae_share(target: NDArray, outputs: NDArray, counts: NDArray) -> NDArray:
    """Mean absolute error as a share of the mean absolute truth."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return mae(target, outputs, counts) / mean(np.abs(target), counts)


def r2(target: NDArray, outputs: NDArray, counts: NDArray) -> NDArray:
    """Share of the truth's variance that is explained."""
    centred = target - target.mean()
    variance = mean(centred**2, counts) - mean(centred, counts) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1 - mean(errors(target, outputs) ** 2, counts) / variance


def ranks(target: NDArray, outputs: NDArray) -> NDArray:
    """Rank of the true item, from 1; equal scores count against the model."""
    return np.sum(outputs >= outputs[np.arange(len(target)), target][:, None], axis=1)


def hit_rate(target: NDArray, outputs: NDArray, counts: NDArray) -> NDArray:
    return mean((ranks(target, outputs) <= TOP).astype(float), counts)


def reciprocal_rank(target: NDArray, outputs: NDArray, counts: NDArray) -> NDArray:
    return mean(1 / ranks(target, outputs), counts)


METRICS: dict[Task, dict[str, Metric]] = {
    "classification": {
        "log_loss": log_loss,
        "brier": brier,
        "accuracy": accuracy,
        "roc_auc": over_labels(area_under_roc),
        "pr_auc": over_labels(average_precision),
    },
    "regression": {"mae": mae, "rmse": rmse, "mae_share": mae_share, "r2": r2},
    "ranking": {f"hit_rate_at_{TOP}": hit_rate, "mrr": reciprocal_rank},
}
