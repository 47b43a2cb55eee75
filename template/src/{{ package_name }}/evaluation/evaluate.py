"""Evaluate the bundle (not the estimator) on the test split: metrics, baseline, segments, importance."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from .. import declarations
from ..contract.dataset import Dataset
from ..contract.tables import read_target
from ..core.errors import cli
from ..core.files import write_json
from ..core.paths import BUNDLE, EVALUATION_REPORT, IMPORTANCE_REPORT, METRICS, TEST, TRAIN
from ..declarations import Declarations
from ..model.bundle import Model
from ..stats.metrics import Floats, compute_metrics, mask_seen, predict_labels, resampled_mean
from .importance import permutation_importance

MIN_SEGMENT_ROWS = 30

Metrics = dict[str, float]


class Evaluation(msgspec.Struct):
    """Content of reports/evaluation.json: metrics of the bundle, of the baseline and of each segment."""

    model_version: str
    rows: int
    metrics: Metrics
    baseline: Metrics
    segments: dict[str, dict[str, Metrics]]  # by column and value


def predict_baseline(test: Dataset) -> NDArray[np.floating]:
    """Predict without a model: the baseline column, else the training split's median or label shares.

    Args:
        test: The rows to predict.

    Returns:
        Outputs of shape `(n_rows, n_labels)`. Items that are not offered (`Column.seen`) have 0, as in those
        of a model.
    """
    if test.baseline is not None:
        return test.baseline[:, None]
    target = read_target(TRAIN, test.contract).to_numpy()
    if test.contract.task == "regression":
        return np.full((len(test), 1), np.median(target))
    shares = np.bincount(target, minlength=len(test.contract.labels)) / len(target)
    return mask_seen(np.tile(shares, (len(test), 1)), test.features, test.contract)


def evaluate(model: Model, test: Dataset, problem: Declarations) -> Evaluation:
    """Compute all metrics of the bundle.

    Args:
        model: The bundle.
        test: The test split.
        problem: Declares KPIs, own metrics and costs.

    Returns:
        The report. Segments with fewer than `MIN_SEGMENT_ROWS` rows are left out; of two labels, the others
        have `prevalence` and `selection_rate`, too, which are defined where all rows have one label.
    """
    metrics, outputs = problem.make_metrics(model.contract), model.run(test.features.to_numpy())

    def compute(outputs: Floats, rows: NDArray[np.intp] | slice = slice(None)) -> Metrics:
        return compute_metrics(metrics, test.observations.take(rows), outputs[rows])

    return Evaluation(
        model_version=model.metadata.version,
        rows=len(test),
        metrics=compute(outputs),
        baseline=compute(predict_baseline(test)),
        segments={
            column: {
                value: {"rows": len(rows), **_rates(test, outputs, rows), **compute(outputs, rows)}
                for value, rows in groups.items()
                if len(rows) >= MIN_SEGMENT_ROWS
            }
            for column, groups in test.segments.items()
        },
    )


def _rates(test: Dataset, outputs: Floats, rows: NDArray[np.intp]) -> Metrics:
    """Share of the rows that have the second of two labels, and share that is predicted to have it."""
    if test.contract.task != "classification" or len(test.contract.labels) != 2:
        return {}
    observations = test.observations.take(rows)
    predicted = predict_labels(outputs[rows], test.contract.decision_threshold)
    return {
        "prevalence": float(resampled_mean(observations.target, observations.unit_counts)[0]),
        "selection_rate": float(resampled_mean(predicted.astype(float), observations.unit_counts)[0]),
    }


def _summary(report: Evaluation) -> str:
    """All metrics on one line, with those of the baseline that are defined."""
    texts = {
        name: f" (baseline {report.baseline[name]:.4f})" if name in report.baseline else ""
        for name in report.metrics
    }
    return ", ".join(f"{name} {report.metrics[name]:.4f}{text}" for name, text in texts.items())


def main() -> None:
    """Write reports/evaluation.json, reports/importance.json and reports/metrics.json."""
    problem, model = declarations.load(), Model(BUNDLE)
    test = problem.read_split(TEST, model.contract)
    report, metric = evaluate(model, test, problem), problem.primary_kpi.metric
    losses = permutation_importance(model, test, problem)
    write_json(EVALUATION_REPORT, report)
    write_json(METRICS, report.metrics)
    write_json(IMPORTANCE_REPORT, {"metric": metric, "loss": losses})
    largest = [f"{name} {loss:.3g}" for name, loss in list(losses.items())[:5]]
    print(f"evaluate: {_summary(report)}")
    print(f"evaluate: loss of {metric} if a column is shuffled: {', '.join(largest)}")


if __name__ == "__main__":
    cli(main)
