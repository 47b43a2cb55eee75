"""Outputs of an estimator, decisions and metrics: the same in training, gate and production.

A metric is computed for many bootstrap resamples at once: `counts`, of shape `(n_resamples, n_rows)`, holds
how often each resample draws each row, times the weight of the row. One row of ones gives the plain metric.
The values are those of scikit-learn (tests compare them), which computes one resample at a time. A metric is
NaN for a resample that does not determine it, such as the ROC AUC of one class.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..contract import TOP_K, Contract, Task
from ..contract.observations import Observations
from ..core.errors import ProjectError

if TYPE_CHECKING:
    import pandas as pd

IS_SEEN = 0.5  # a feature above is an item of the list: lists are encoded as 0 and 1, NaN is neither
Estimator = Any  # scikit-learn's estimators share no typed interface
Floats = NDArray[np.floating]
FloatArray = TypeVar("FloatArray", bound=NDArray[np.floating])
Integers = NDArray[np.integer]
Booleans = NDArray[np.bool_]
Metric = Callable[[Observations, Floats, Floats], Floats]  # observations, outputs, counts → (n_resamples,)
Metrics = Mapping[str, Metric]
CustomMetric = Callable[[Any, Floats, Floats], float]  # target, outputs, weights (n_rows,) → one number


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
    return mask_seen(outputs, features, contract)


def mask_seen(outputs: FloatArray, features: pd.DataFrame, contract: Contract) -> FloatArray:
    """Set the outputs of items that are not offered to 0; `model.onnx` does the same in a bundle.

    The other outputs stay as they are: an item's score does not depend on what else the user has seen, and
    scaling them to a sum of 1 would divide by 0 for a user who has seen all items.

    Args:
        outputs: Scores of a ranking, of shape `(n_rows, n_labels)`; changed in place.
        features: float32, of shape `(n_rows, n_features)`.
        contract: Says which features are items that the user has seen (`Column.seen`), if any are.

    Returns:
        The outputs.
    """
    for positions in contract.seen_slices:
        outputs[features.iloc[:, positions].to_numpy() > IS_SEEN] = 0
    return outputs


def predict_labels(outputs: Floats, threshold: float | None) -> NDArray[np.intp]:
    """Decide on the labels of a classification: every part of the package asks this function.

    Args:
        outputs: Probabilities, of shape `(n_rows, n_labels)`. Those of a bundle are float32; others are
            rounded to it, so that they give the same labels.
        threshold: `Contract.decision_threshold`.

    Returns:
        Positions of the labels, `(n_rows,)`: the second of two if its probability is at least the threshold.
        Without a threshold, the most probable; of equal ones the first.
    """
    with np.errstate(over="ignore"):  # infinite outputs are rejected where they are used
        probabilities = outputs.astype(np.float32, copy=False)
    if threshold is None:
        return probabilities.argmax(axis=1)
    return (probabilities[:, 1] >= np.float32(threshold)).astype(np.intp)


def make_metrics(
    contract: Contract, names: Iterable[str] = (), custom: Mapping[str, CustomMetric] | None = None
) -> dict[str, Metric]:
    """Make the metrics that are reported: those in `DEFAULT_METRICS`, and more by name.

    Args:
        contract: The contract, which names task and decision threshold.
        names: More metrics, such as those of the KPIs.
        custom: The project's own metrics (`METRICS` in problem.py), by name.

    Returns:
        Metrics by name.

    Raises:
        ProjectError: The task has no metric of that name.
    """
    every = dict.fromkeys([*DEFAULT_METRICS[contract.task], *(custom or {}), *names])
    return {name: find_metric(name, contract.task, contract.decision_threshold, custom) for name in every}


def find_metric(
    name: str, task: Task, threshold: float | None = None, custom: Mapping[str, CustomMetric] | None = None
) -> Metric:
    """Find a metric by its name.

    Args:
        name: Name of a metric, or of a family with a number in it, such as "recall_in_top_1%".
        task: Task of the contract.
        threshold: `Contract.decision_threshold`, for metrics of the predicted labels.
        custom: The project's own metrics, by name.

    Returns:
        The metric.

    Raises:
        ProjectError: The task has no metric of that name.
    """
    if custom and name in custom:
        return _for_each_resample(name, custom[name])
    if standard := _find_standard(name, task, threshold):
        return standard
    labels = LABEL_METRICS if task == "classification" else ()
    names = ", ".join([*METRICS[task], *labels, *FAMILIES[task], *(custom or {})])
    raise ProjectError(
        f"{name!r} is not a metric of {task}: {names}. N stands for a number, of percent between 0 and 100. "
        "Metrics of your own belong in METRICS of problem.py."
    )


def is_standard(name: str, task: Task) -> bool:
    """Check whether a name belongs to a metric of the package.

    Args:
        name: Name of a metric, or of a family with a number in it.
        task: Task of the contract.

    Returns:
        False for metrics of other tasks and for the project's own ones.
    """
    return _find_standard(name, task, None) is not None


def _find_standard(name: str, task: Task, threshold: float | None) -> Metric | None:
    """Find a metric of the package by its name."""
    if task == "classification" and name in LABEL_METRICS:
        return _of_labels(LABEL_METRICS[name], threshold)
    for family, make in FAMILIES[task].items():
        pattern = re.escape(family).replace("N", r"(\d+(?:\.\d+)?)" if "%" in family else r"(\d+)")
        if match := re.fullmatch(pattern, name):
            number = float(match[1])
            return make(number) if 0 < number < 100 or ("%" not in family and number > 0) else None
    return METRICS[task].get(name)


def compute_metrics(metrics: Metrics, observations: Observations, outputs: Floats) -> dict[str, float]:
    """Compute metrics of the sample itself.

    Args:
        metrics: Metrics by name, as returned by `make_metrics`.
        observations: What the outputs are compared with.
        outputs: Shape `(n_rows, n_labels)` or, for a regression, `(n_rows, 1)`.

    Returns:
        Value by name of the metric. A metric that is undefined for these rows is left out.
    """
    counts = observations.unit_counts
    values = {name: float(metric(observations, outputs, counts)[0]) for name, metric in metrics.items()}
    return {name: value for name, value in values.items() if np.isfinite(value)}


def _divide(numerator: Floats, denominator: Floats, otherwise: float = np.nan) -> Floats:
    """Divide arrays of one shape, element by element; `otherwise` where the denominator is 0."""
    result = np.full(denominator.shape, otherwise, np.float64)
    return np.divide(numerator, denominator, out=result, where=denominator != 0)


def resampled_mean(values: Floats, counts: Floats) -> Floats:
    """Mean of each resample.

    Args:
        values: Shape `(n_rows,)`.
        counts: Shape `(n_resamples, n_rows)`: how often each row is drawn.

    Returns:
        Shape `(n_resamples,)`; NaN where a resample draws none of the rows.
    """
    return _divide(counts @ values, counts.sum(axis=1))


TargetMetric = Callable[[Any, Floats, Floats], Floats]  # target, outputs, counts → (n_resamples,)
LabelMetric = Callable[[Observations, Integers, int, Floats], Floats]
"""From observations, predicted labels `(n_rows,)`, number of labels and counts to `(n_resamples,)`."""


def _of_target(metric: TargetMetric) -> Metric:
    """Metric that depends on the target alone."""
    return lambda observations, outputs, counts: metric(observations.target, outputs, counts)


def _of_labels(metric: LabelMetric, threshold: float | None) -> Metric:
    """Metric that depends on the predicted labels, not on the probabilities."""

    def of_outputs(observations: Observations, outputs: Floats, counts: Floats) -> Floats:
        return metric(observations, predict_labels(outputs, threshold), outputs.shape[1], counts)

    return of_outputs


def _for_each_resample(name: str, function: CustomMetric) -> Metric:
    """Metric of the project's own: its function takes one resample at a time, as weights of the rows."""

    def metric(observations: Observations, outputs: Floats, counts: Floats) -> Floats:
        try:
            values = [float(function(observations.target, outputs, weights)) for weights in counts]
        except Exception as error:
            raise ProjectError(
                f"problem.METRICS: {name} failed: {type(error).__name__}: {error}. It gets target (n_rows,), "
                "outputs (n_rows, n_labels) and weights (n_rows,), and must return a number, or NaN."
            ) from error
        return np.array(values)

    return metric


def _mean_of(row_values: Callable[[Any, Floats], NDArray[Any]]) -> Metric:
    """Metric that is the mean of a value of each row."""
    return _of_target(lambda t, outputs, counts: resampled_mean(row_values(t, outputs).astype(float), counts))


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


def _if_negatives(values: Floats, negatives: Floats) -> Floats:
    """The values, `(n_resamples,)`; NaN without a negative, where they are the same for every model."""
    return np.where(negatives.sum(axis=1) > 0, values, np.nan)


def _binary_roc_auc(is_positive: Booleans, scores: Floats, counts: Floats) -> Floats:
    """Share of pairs of a positive and a negative that are ordered; equal scores count half."""
    positives, negatives = _count_by_score(is_positive, scores, counts)
    below = negatives.sum(axis=1, keepdims=True) - negatives.cumsum(axis=1) + negatives / 2
    return _divide((positives * below).sum(axis=1), positives.sum(axis=1) * negatives.sum(axis=1))


def _binary_average_precision(is_positive: Booleans, scores: Floats, counts: Floats) -> Floats:
    """Mean of the precision at each positive."""
    positives, negatives = _count_by_score(is_positive, scores, counts)
    true_positives = positives.cumsum(axis=1)
    precision = _divide(true_positives, true_positives + negatives.cumsum(axis=1), otherwise=0.0)
    value = _divide((precision * positives).sum(axis=1), positives.sum(axis=1))
    return _if_negatives(value, negatives)


def _recall_in_top(percent: float) -> Metric:
    """Share of the positives among so many percent of the rows, those with the highest scores.

    Of rows with equal scores, of which only some fit in, the share that fits in counts.
    """

    def recall(is_positive: Booleans, scores: Floats, counts: Floats) -> Floats:
        positives, negatives = _count_by_score(is_positive, scores, counts)
        rows = positives + negatives
        left = percent / 100 * rows.sum(axis=1, keepdims=True) - (rows.cumsum(axis=1) - rows)
        share = _divide(left, rows, otherwise=0.0).clip(0, 1)
        return _if_negatives(_divide((positives * share).sum(axis=1), positives.sum(axis=1)), negatives)

    return _macro_average(recall)


def _recall_at_specificity(percent: float) -> Metric:
    """Highest recall of a threshold that leaves so many percent of the negatives alone."""

    def recall(is_positive: Booleans, scores: Floats, counts: Floats) -> Floats:
        positives, negatives = _count_by_score(is_positive, scores, counts)
        allowed = (100 - percent) / 100 * negatives.sum(axis=1, keepdims=True)
        allowed *= 1 + 1e-9  # 10% of 90 rows are 9, despite rounding
        is_allowed = negatives.cumsum(axis=1) <= allowed
        return _if_negatives(_divide((positives * is_allowed).sum(axis=1), positives.sum(axis=1)), negatives)

    return _macro_average(recall)


def _macro_average(binary_metric: TargetMetric) -> Metric:
    """Mean of a binary metric over the labels; of two labels, the second is the positive class."""

    def metric(target: Integers, outputs: Floats, counts: Floats) -> Floats:
        labels = [1] if outputs.shape[1] == 2 else np.unique(target)
        values = [binary_metric(target == label, outputs[:, label], counts) for label in labels]
        return np.mean(values, axis=0)

    return _of_target(metric)


class _LabelCounts(NamedTuple):
    """Rows by label, `(n_resamples, n_labels)` each: predicted rightly, predicted, and observed."""

    right: Floats
    predicted: Floats
    observed: Floats

    @property
    def recall(self) -> Floats:
        """Recall of each label; NaN for a label without a row."""
        return _divide(self.right, self.observed)

    @property
    def precision(self) -> Floats:
        """Precision of each label: 0 if it is never predicted, NaN if it has no row either."""
        never_predicted = np.where(self.observed > 0, 0.0, np.nan)
        return np.where(self.predicted > 0, _divide(self.right, self.predicted), never_predicted)

    @property
    def f1(self) -> Floats:
        """Harmonic mean of precision and recall of each label."""
        return _divide(2 * self.right, self.predicted + self.observed)


def _count_labels(target: Integers, predicted: Integers, n_labels: int, counts: Floats) -> _LabelCounts:
    """Count the rows by label, in one product of matrices."""
    labels = np.arange(n_labels)
    is_observed, is_predicted = target[:, None] == labels, predicted[:, None] == labels
    indicators = np.hstack([is_observed & is_predicted, is_predicted, is_observed]).astype(float)
    return _LabelCounts(*np.split(counts @ indicators, 3, axis=1))


def _mean_of_defined(values: Floats) -> Floats:
    """Mean of each row over the values that are not NaN; NaN if all are."""
    return _divide(np.nansum(values, axis=1), np.isfinite(values).sum(axis=1))


def _of_label_counts(by_label: Callable[[_LabelCounts], Floats]) -> LabelMetric:
    """Metric of the second of two labels; of more labels, the mean over those that occur."""

    def metric(observations: Observations, predicted: Integers, n_labels: int, counts: Floats) -> Floats:
        values = by_label(_count_labels(observations.target, predicted, n_labels, counts))
        return values[:, 1] if n_labels == 2 else _mean_of_defined(values)

    return metric


def _accuracy(observations: Observations, predicted: Integers, n_labels: int, counts: Floats) -> Floats:
    return resampled_mean((predicted == observations.target).astype(float), counts)


def _balanced_accuracy(
    observations: Observations, predicted: Integers, n_labels: int, counts: Floats
) -> Floats:
    """Mean of the recall over all labels that occur."""
    return _mean_of_defined(_count_labels(observations.target, predicted, n_labels, counts).recall)


def _mcc(observations: Observations, predicted: Integers, n_labels: int, counts: Floats) -> Floats:
    """Matthews correlation coefficient, of several labels as Gorodkin, 2004; 0 if one label is predicted."""
    rows = _count_labels(observations.target, predicted, n_labels, counts)
    total = counts.sum(axis=1)
    covariance = rows.right.sum(axis=1) * total - (rows.predicted * rows.observed).sum(axis=1)
    variances = [total**2 - (part**2).sum(axis=1) for part in (rows.predicted, rows.observed)]
    n_predicted, n_observed = ((part > 0).sum(axis=1) for part in (rows.predicted, rows.observed))
    value = _divide(covariance, np.sqrt(np.maximum(variances[0] * variances[1], 0)))
    return np.where(n_observed < 2, np.nan, np.where(n_predicted < 2, 0.0, value))


def _cost(observations: Observations, predicted: Integers, n_labels: int, counts: Floats) -> Floats:
    """Mean cost per row; NaN if the costs are not known."""
    target, costs = observations.target, observations.costs
    if costs is None:
        return np.full(len(counts), np.nan)
    return resampled_mean(costs[np.arange(len(target)), target, predicted], counts)


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
    errors = resampled_mean(absolute_errors(target, outputs), counts)
    return _divide(errors, resampled_mean(np.abs(target), counts))


def _mape(target: Floats, outputs: Floats, counts: Floats) -> Floats:
    """Mean of the absolute errors, each divided by its target; NaN if a target is 0."""
    is_zero = target == 0
    errors = absolute_errors(target, outputs) / np.where(is_zero, 1, np.abs(target))
    return np.where(counts @ is_zero > 0, np.nan, resampled_mean(errors, counts))


def _r2(target: Floats, outputs: Floats, counts: Floats) -> Floats:
    """Share of the target's variance that is explained."""
    centred = target - target.mean()
    variance = resampled_mean(centred**2, counts) - resampled_mean(centred, counts) ** 2
    return 1 - _divide(resampled_mean(absolute_errors(target, outputs) ** 2, counts), variance)


def _pinball(percent: float) -> Metric:
    """Mean loss of a predicted quantile (Koenker and Bassett, 1978)."""

    def losses(target: Floats, outputs: Floats) -> Floats:
        errors = target - outputs[:, 0].astype(float)
        return np.maximum(percent / 100 * errors, (percent / 100 - 1) * errors)

    return _mean_of(losses)


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


def _hit_rate(k: float) -> Metric:
    """Share of the rows whose target is among the first k items."""
    return _mean_of(lambda target, outputs: target_ranks(target, outputs) <= k)


def _ndcg(k: float) -> Metric:
    """Discounted gain: what a target is worth falls with its rank (Järvelin and Kekäläinen, 2002)."""

    def gains(target: Integers, outputs: Floats) -> Floats:
        ranks = target_ranks(target, outputs)
        return (ranks <= k) / np.log2(ranks + 1)

    return _mean_of(gains)


def best_items(outputs: Floats, k: int) -> Integers:
    """Find the items that a ranking shows.

    Args:
        outputs: Scores, of shape `(n_rows, n_labels)`.
        k: Number of items.

    Returns:
        Positions of the k best items, best first, of equal ones the first label: `(n_rows, k)`, or
        `(n_rows, n_labels)` if there are fewer labels.
    """
    return np.argsort(-outputs, axis=1, kind="stable")[:, :k]


def _coverage(k: float) -> Metric:
    """Share of all items that are among the first k of at least one row (Ge et al., 2010, "Beyond Accuracy").

    Items with a score of 0, such as those that the user has seen, do not count. A resample has fewer distinct
    rows than the sample, so it covers less: the interval lies a little too low, never too high.
    """

    def coverage(target: Integers, outputs: Floats, counts: Floats) -> Floats:
        items = best_items(outputs, int(k))
        is_offered = np.take_along_axis(outputs, items, axis=1) > 0
        covered = np.zeros((len(counts), outputs.shape[1]), bool)
        for resample, is_drawn in zip(covered, counts > 0, strict=True):
            resample[items[is_drawn][is_offered[is_drawn]]] = True
        return np.where(counts.any(axis=1), covered.mean(axis=1), np.nan)

    return _of_target(coverage)


METRICS: dict[Task, dict[str, Metric]] = {
    "classification": {
        "log_loss": _mean_of(_log_losses),
        "brier": _mean_of(_brier_losses),
        "roc_auc": _macro_average(_binary_roc_auc),
        "pr_auc": _macro_average(_binary_average_precision),
    },
    "regression": {
        "mae": _mean_of(absolute_errors),
        "rmse": _of_target(_rmse),
        "mae_share": _of_target(_mae_share),
        "mape": _of_target(_mape),
        "r2": _of_target(_r2),
    },
    "ranking": {"mrr": _mean_of(lambda target, outputs: 1 / target_ranks(target, outputs))},
}
"""Metrics of the outputs, by task and name."""

LABEL_METRICS: dict[str, LabelMetric] = {
    "accuracy": _accuracy,
    "precision": _of_label_counts(lambda rows: rows.precision),
    "recall": _of_label_counts(lambda rows: rows.recall),
    "f1": _of_label_counts(lambda rows: rows.f1),
    "mcc": _mcc,
    "balanced_accuracy": _balanced_accuracy,
    "cost": _cost,
}
"""Metrics of a classification's predicted labels, by name."""

FAMILIES: dict[Task, dict[str, Callable[[float], Metric]]] = {
    "classification": {
        "recall_in_top_N%": _recall_in_top,
        "recall_at_N%_specificity": _recall_at_specificity,
    },
    "regression": {"pinball_at_N%": _pinball},
    "ranking": {"hit_rate_at_N": _hit_rate, "ndcg_at_N": _ndcg, "coverage_at_N": _coverage},
}
"""Metrics with a number in their name, by task and name, in which N stands for the number."""

DEFAULT_METRICS: dict[Task, tuple[str, ...]] = {
    "classification": (
        *("log_loss", "brier", "accuracy", "roc_auc", "pr_auc"),
        *("precision", "recall", "f1", "mcc", "balanced_accuracy"),
    ),
    "regression": ("mae", "rmse", "mae_share", "mape", "r2"),
    "ranking": (f"hit_rate_at_{TOP_K}", "mrr"),
}
"""Metrics that are reported without being asked for, by task."""
