"""Outputs of an estimator, and the metrics of each task: the same in training, evaluation and gate.

A metric is computed for many bootstrap resamples at once: `counts`, of shape `(n_resamples, n_rows)`, holds
how often each resample draws each row. One row of ones gives the plain metric. The values are those of
scikit-learn (a test compares them), which computes one resample at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..contract import TOP_K, Contract, Task
from ..core.errors import ProjectError

if TYPE_CHECKING:
    import pandas as pd

Estimator = Any  # scikit-learn's estimators share no typed interface
Floats = NDArray[np.floating]
Integers = NDArray[np.integer]
Booleans = NDArray[np.bool_]
Metric = Callable[[Any, Floats, Floats], Floats]  # target, outputs, counts → (n_resamples,)


def predict_outputs(estimator: Estimator, features: pd.DataFrame, contract: Contract) -> NDArray[np.float64]:
    """Predict with an estimator, in the shape of a bundle's outputs.

    Args:
        estimator: A fitted estimator.
        features: float32, of shape `(n_rows, n_features)`.
        contract: The contract, which names task and labels.

    Returns:
        Of shape `(n_rows, n_labels)`: probabilities (classification) or scores (ranking). For a regression,
        `(n_rows, 1)`: values in the unit of the target.

    Raises:
        ProjectError: The task needs probabilities and the estimator has no `predict_proba`.
    """
    if contract.task == "regression":
        return np.asarray(estimator.predict(features), np.float64).reshape(-1, 1)
    if not hasattr(estimator, "predict_proba"):
        raise ProjectError(
            f"problem.estimator: {type(estimator).__name__} has no predict_proba, and {contract.task} needs "
            "probabilities. Wrap it in CalibratedClassifierCV, or use another estimator."
        )
    outputs = np.zeros((len(features), len(contract.labels)))
    outputs[:, estimator.classes_] = estimator.predict_proba(features)  # a fold may lack rare labels
    return outputs


def predict_labels(outputs: Floats, threshold: float | None) -> NDArray[np.intp]:
    """Decide on a label for each row.

    Args:
        outputs: Probabilities, of shape `(n_rows, n_labels)`.
        threshold: `Contract.decision_threshold`; None: the most probable label.

    Returns:
        Positions of the labels, of shape `(n_rows,)`.
    """
    if threshold is None:
        return outputs.argmax(axis=1)
    return (outputs[:, 1] >= np.float32(threshold)).astype(np.intp)


def compute_metrics(contract: Contract, target: Integers | Floats, outputs: Floats) -> dict[str, float]:
    """Compute every metric of the contract's task.

    Args:
        contract: The contract, which names the task.
        target: Shape `(n_rows,)`: numbers, or positions in the target's categories.
        outputs: Shape `(n_rows, n_labels)` or, for a regression, `(n_rows, 1)`.

    Returns:
        Value by name of the metric. A metric that is undefined for these rows, such as the ROC AUC of one
        class, is left out.
    """
    unit_counts, metrics = np.ones((1, len(target))), METRICS[contract.task]
    values = {name: metric(target, outputs, unit_counts)[0] for name, metric in metrics.items()}
    return {name: float(value) for name, value in values.items() if np.isfinite(value)}


def resampled_mean(values: Floats, counts: Floats) -> Floats:
    """Mean of each resample.

    Args:
        values: Shape `(n_rows,)`.
        counts: Shape `(n_resamples, n_rows)`: how often each row is drawn.

    Returns:
        Shape `(n_resamples,)`; NaN where a resample draws none of the rows.
    """
    with np.errstate(invalid="ignore"):
        return counts @ values / counts.sum(axis=1)


def _mean_of(row_values: Callable[[Any, Floats], NDArray[Any]]) -> Metric:
    """Metric that is the mean of a value of each row."""
    return lambda target, outputs, counts: resampled_mean(row_values(target, outputs).astype(float), counts)


def _log_losses(target: Integers, outputs: Floats) -> Floats:
    """Log loss of each row, of shape `(n_rows,)`."""
    return -np.log(outputs[np.arange(len(target)), target].astype(float).clip(1e-15, 1))


def _brier_losses(target: Integers, outputs: Floats) -> Floats:
    """Brier loss of each row, of shape `(n_rows,)`."""
    return np.sum((outputs - np.eye(outputs.shape[1])[target]) ** 2, axis=1) / 2


def _count_by_score(is_positive: Booleans, scores: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """Positives and negatives at each distinct score, from the highest: both `(n_resamples, n_scores)`."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    drawn = counts[:, order]
    positives = np.add.reduceat(drawn * is_positive[order], starts, axis=1)
    return positives, np.add.reduceat(drawn, starts, axis=1) - positives


def _binary_roc_auc(is_positive: Booleans, scores: Floats, counts: Floats) -> Floats:
    """Share of pairs of a positive and a negative that are ordered; equal scores count half."""
    positives, negatives = _count_by_score(is_positive, scores, counts)
    below = negatives.sum(axis=1, keepdims=True) - negatives.cumsum(axis=1) + negatives / 2
    return (positives * below).sum(axis=1) / (positives.sum(axis=1) * negatives.sum(axis=1))


def _binary_average_precision(is_positive: Booleans, scores: Floats, counts: Floats) -> Floats:
    """Mean of the precision at each positive."""
    positives, negatives = _count_by_score(is_positive, scores, counts)
    true_positives = positives.cumsum(axis=1)
    precision = true_positives / np.maximum(true_positives + negatives.cumsum(axis=1), 1)
    return (precision * positives).sum(axis=1) / positives.sum(axis=1)


def _macro_average(binary_metric: Metric) -> Metric:
    """Mean of a binary metric over the labels; of two labels, the second is the positive class."""

    def metric(target: Integers, outputs: Floats, counts: Floats) -> Floats:
        labels = [1] if outputs.shape[1] == 2 else np.unique(target)
        with np.errstate(invalid="ignore"):
            values = [binary_metric(target == label, outputs[:, label], counts) for label in labels]
        return np.mean(values, axis=0)

    return metric


def absolute_errors(target: Integers | Floats, outputs: Floats) -> Floats:
    """Absolute error of each row of a regression.

    Args:
        target: Shape `(n_rows,)`.
        outputs: Shape `(n_rows, 1)`.

    Returns:
        Shape `(n_rows,)`, in the unit of the target.
    """
    return np.abs(outputs[:, 0].astype(float) - target)


def _rmse(target: Floats, outputs: Floats, counts: Floats) -> Floats:
    return np.sqrt(resampled_mean(absolute_errors(target, outputs) ** 2, counts))


def _mae_share(target: Floats, outputs: Floats, counts: Floats) -> Floats:
    """Mean absolute error, divided by the mean absolute target (WAPE)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = resampled_mean(absolute_errors(target, outputs), counts)
        return errors / resampled_mean(np.abs(target), counts)


def _r2(target: Floats, outputs: Floats, counts: Floats) -> Floats:
    """Share of the target's variance that is explained."""
    centred = target - target.mean()
    variance = resampled_mean(centred**2, counts) - resampled_mean(centred, counts) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1 - resampled_mean(absolute_errors(target, outputs) ** 2, counts) / variance


def target_ranks(target: Integers | Floats, outputs: Floats) -> Integers:
    """Rank of the target among the items of a ranking.

    Args:
        target: Shape `(n_rows,)`: positions of the items.
        outputs: Scores, of shape `(n_rows, n_labels)`.

    Returns:
        Shape `(n_rows,)`, from 1. Items with an equal score rank before the target.
    """
    target_scores = outputs[np.arange(len(target)), target.astype(np.intp)]
    return np.sum(outputs >= target_scores[:, None], axis=1)


METRICS: dict[Task, dict[str, Metric]] = {
    "classification": {
        "log_loss": _mean_of(_log_losses),
        "brier": _mean_of(_brier_losses),
        "accuracy": _mean_of(lambda target, outputs: outputs.argmax(axis=1) == target),
        "roc_auc": _macro_average(_binary_roc_auc),
        "pr_auc": _macro_average(_binary_average_precision),
    },
    "regression": {"mae": _mean_of(absolute_errors), "rmse": _rmse, "mae_share": _mae_share, "r2": _r2},
    "ranking": {
        f"hit_rate_at_{TOP_K}": _mean_of(lambda target, outputs: target_ranks(target, outputs) <= TOP_K),
        "mrr": _mean_of(lambda target, outputs: 1 / target_ranks(target, outputs)),
    },
}
"""Metrics by task and name: the names that `Kpi.metric` may have."""
