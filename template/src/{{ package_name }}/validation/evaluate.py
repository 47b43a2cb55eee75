"""Evaluate: judge the bundle (never the estimator) on the test split, against a dumb baseline."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from .. import problem
from ..contract import Contract
from ..contract.tables import quote, read_column, read_features, read_target
from ..serving.model import Model
from ..stage import BUNDLE, EVALUATION_REPORT, METRICS, TEST, TRAIN, table, write_json
from .metrics import measure

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


def baseline(contract: Contract, rows: int) -> NDArray:
    """Outputs of no model: the column `problem.BASELINE`, else training's median or shares."""
    if problem.BASELINE is not None:
        return read_column(TEST, f"{quote(problem.BASELINE)}::DOUBLE").to_numpy()[:, None]
    target = read_target(TRAIN, contract).to_numpy()
    if contract.task == "regression":
        return np.full((rows, 1), np.median(target))
    return np.tile(np.bincount(target, minlength=len(contract.labels)) / len(target), (rows, 1))


def by_segment(contract: Contract, target: NDArray, outputs: NDArray) -> Segments:
    """Metrics for each value of the columns that are segments."""
    found: Segments = {}
    for column in (column for column in contract.kept if column.segment):
        values = read_column(TEST, f"{quote(column.name)}::VARCHAR").fillna("missing")
        groups = values.groupby(values).indices.items()
        found[column.name] = {
            str(value): {"rows": len(rows), **measure(contract, target[rows], outputs[rows])}
            for value, rows in groups
            if len(rows) >= MIN_SEGMENT_ROWS
        }
    return found


def evaluate(model: Model) -> Evaluation:
    contract = model.contract
    features, target = read_features(TEST, contract), read_target(TEST, contract).to_numpy()
    outputs = model.run(features.to_numpy())
    return Evaluation(
        model_version=model.metadata.version,
        rows=len(target),
        metrics=measure(contract, target, outputs),
        baseline=measure(contract, target, baseline(contract, len(target))),
        segments=by_segment(contract, target, outputs),
    )


def report(found: Evaluation) -> str:
    """The evaluation as Markdown."""
    whole = [
        {"metric": name, "model": value, "baseline": found.baseline[name]}
        for name, value in found.metrics.items()
    ]
    title = f"# Evaluation\n\nModel {found.model_version} on {found.rows:,} test rows."
    parts = [title, table(whole)]
    for column, values in found.segments.items():
        segments = [{column: value, **metrics} for value, metrics in values.items()]
        parts += [f"## By {column}", table(segments)]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    found = evaluate(Model(BUNDLE))
    EVALUATION_REPORT.mkdir(parents=True, exist_ok=True)
    write_json(EVALUATION_REPORT / "evaluation.json", found)
    write_json(METRICS, found.metrics)
    (EVALUATION_REPORT / "evaluation.md").write_text(report(found), encoding="utf-8")
    metrics = [f"{n} {v:.4f} (baseline {found.baseline[n]:.4f})" for n, v in found.metrics.items()]
    print("evaluate: " + ", ".join(metrics))


if __name__ == "__main__":
    main()
