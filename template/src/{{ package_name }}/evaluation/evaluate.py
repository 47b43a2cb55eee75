"""Evaluate: judge the bundle (never the estimator) on the test split, against a dumb baseline."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from .. import problem
from ..contract.dataset import Dataset, load_dataset
from ..contract.tables import read_target
from ..core.errors import cli
from ..core.files import write_json
from ..core.paths import BUNDLE, EVALUATION_REPORT, METRICS, TEST, TRAIN
from ..model.bundle import Model
from ..stats.metrics import compute_metrics

MIN_SEGMENT_ROWS = 30

Metrics = dict[str, float]
Segments = dict[str, dict[str, Metrics]]  # column, its value, metrics


class Evaluation(msgspec.Struct):
    """Metrics of the bundle on the test split: whole, of the baseline, and by segment."""

    model_version: str
    rows: int
    metrics: Metrics
    baseline: Metrics
    segments: Segments


def baseline(test: Dataset) -> NDArray:
    """Outputs of no model: the column `problem.BASELINE`, else training's median or shares."""
    if test.baseline is not None:
        return test.baseline[:, None]
    contract, rows = test.contract, len(test)
    target = read_target(TRAIN, contract).to_numpy()
    if contract.task == "regression":
        return np.full((rows, 1), np.median(target))
    return np.tile(np.bincount(target, minlength=len(contract.labels)) / len(target), (rows, 1))


def by_segment(test: Dataset, outputs: NDArray) -> Segments:
    """Metrics for each value of the columns that are segments."""
    return {
        column: {
            value: {"rows": len(rows), **compute_metrics(test.contract, test.target[rows], outputs[rows])}
            for value, rows in values.items()
            if len(rows) >= MIN_SEGMENT_ROWS
        }
        for column, values in test.segments.items()
    }


def evaluate(model: Model) -> Evaluation:
    contract, test = model.contract, load_dataset(TEST, model.contract, problem.BASELINE)
    outputs = model.run(test.features.to_numpy())
    return Evaluation(
        model_version=model.metadata.version,
        rows=len(test),
        metrics=compute_metrics(contract, test.target, outputs),
        baseline=compute_metrics(contract, test.target, baseline(test)),
        segments=by_segment(test, outputs),
    )


def main() -> None:
    found = evaluate(Model(BUNDLE))
    write_json(EVALUATION_REPORT, found)
    write_json(METRICS, found.metrics)
    metrics = [f"{n} {v:.4f} (baseline {found.baseline[n]:.4f})" for n, v in found.metrics.items()]
    print("evaluate: " + ", ".join(metrics))


if __name__ == "__main__":
    cli(main)
