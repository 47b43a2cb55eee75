"""Evaluate: judge the bundle (never the estimator) on the test split, against a dumb baseline."""

from collections.abc import Iterable

import msgspec
import numpy as np
from numpy.typing import NDArray

from .. import problem
from ..contract import Column, Contract
from ..contract.tables import quote, read_column, read_features, read_target
from ..core.errors import cli
from ..core.files import write_json
from ..core.paths import BUNDLE, EVALUATION_REPORT, METRICS, TEST, TRAIN
from ..model.bundle import Model
from ..stats.metrics import compute_metrics

MIN_SEGMENT_ROWS = 30

Metrics = dict[str, float]
Groups = dict[str, dict[str, NDArray]]  # column, its value, positions of its rows
Segments = dict[str, dict[str, Metrics]]  # column, its value, metrics


class Evaluation(msgspec.Struct):
    """Metrics of the bundle on the test split: whole, of the baseline, and by segment."""

    model_version: str
    rows: int
    metrics: Metrics
    baseline: Metrics
    segments: Segments


def baseline(contract: Contract, rows: int) -> NDArray:
    """Outputs of no model: the column `problem.BASELINE`, else training's median or shares."""
    if problem.BASELINE is not None:
        return read_column(TEST, f"{quote(problem.BASELINE)}::DOUBLE").to_numpy()[:, None]
    target = read_target(TRAIN, contract).to_numpy()
    if contract.task == "regression":
        return np.full((rows, 1), np.median(target))
    return np.tile(np.bincount(target, minlength=len(contract.labels)) / len(target), (rows, 1))


def groups(columns: Iterable[Column]) -> Groups:
    """Positions of the test rows with each value of each column."""
    found: Groups = {}
    for column in columns:
        values = read_column(TEST, f"{quote(column.name)}::VARCHAR").fillna("missing")
        found[column.name] = {str(value): rows for value, rows in values.groupby(values).indices.items()}
    return found


def by_segment(contract: Contract, target: NDArray, outputs: NDArray) -> Segments:
    """Metrics for each value of the columns that are segments."""
    return {
        column: {
            value: {"rows": len(rows), **compute_metrics(contract, target[rows], outputs[rows])}
            for value, rows in values.items()
            if len(rows) >= MIN_SEGMENT_ROWS
        }
        for column, values in groups(column for column in contract.kept if column.segment).items()
    }


def evaluate(model: Model) -> Evaluation:
    contract = model.contract
    features, target = read_features(TEST, contract), read_target(TEST, contract).to_numpy()
    outputs = model.run(features.to_numpy())
    return Evaluation(
        model_version=model.metadata.version,
        rows=len(target),
        metrics=compute_metrics(contract, target, outputs),
        baseline=compute_metrics(contract, target, baseline(contract, len(target))),
        segments=by_segment(contract, target, outputs),
    )


def main() -> None:
    found = evaluate(Model(BUNDLE))
    write_json(EVALUATION_REPORT, found)
    write_json(METRICS, found.metrics)
    metrics = [f"{n} {v:.4f} (baseline {found.baseline[n]:.4f})" for n, v in found.metrics.items()]
    print("evaluate: " + ", ".join(metrics))


if __name__ == "__main__":
    cli(main)
