"""Pictures of what the gate looked at: how good the model is, where, and against what."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..stats.inference import assign_calibration_bins
from ..stats.metrics import _count_by_score
from .checks import Check, Evidence, predictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 336  # newest rows of a forecast: a week of half-hours
Panel = Callable[["Axes"], None]


def draw(evidence: Evidence, checks: list[Check], path: Path) -> None:
    """Draw the panels that the evidence has content for, side by side."""
    from matplotlib.figure import Figure

    panels = [*quality(evidence), *calibration(evidence)]
    compared = [check for check in checks if check.rule in ("production", "segment") and check.found]
    if compared:
        panels.append(lambda axes: intervals(axes, compared))
    figure = Figure(figsize=(5 * len(panels), 4.2), layout="constrained")
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        axes.spines[["top", "right"]].set_visible(False)
        panel(axes)
    figure.savefig(path, dpi=80, metadata={"Software": None})


def quality(evidence: Evidence) -> list[Panel]:
    """ROC and precision-recall of a classification; forecast against truth of a regression."""
    if evidence.contract.task == "classification":
        return [lambda axes: roc(axes, evidence), lambda axes: precision_recall(axes, evidence)]
    return [lambda axes: forecast(axes, evidence)] if evidence.contract.task == "regression" else []


def above(truth: NDArray, predicted: NDArray) -> tuple[NDArray, NDArray]:
    """How many positives and negatives lie at or above each distinct score, from the highest."""
    positives, negatives = _count_by_score(truth, predicted, np.ones((1, len(truth))))
    return positives[0].cumsum(), negatives[0].cumsum()


def roc(axes: "Axes", evidence: Evidence) -> None:
    for name, truth, predicted in predictions(evidence):
        positives, negatives = above(truth, predicted)
        axes.plot(negatives / negatives[-1], positives / positives[-1], label=name)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    axes.set(title="ROC", xlabel="false positives", ylabel="true positives")
    axes.legend()


def precision_recall(axes: "Axes", evidence: Evidence) -> None:
    for name, truth, predicted in predictions(evidence):
        positives, negatives = above(truth, predicted)
        axes.plot(positives / positives[-1], positives / (positives + negatives), label=name)
    axes.set(title="Precision and recall", xlabel="recall", ylabel="precision", ylim=(0, 1.05))
    axes.legend()


def forecast(axes: "Axes", evidence: Evidence) -> None:
    """The newest rows over time, or every row where there is no time."""
    truth, predicted = evidence.target, evidence.outputs[:, 0]
    if evidence.contract.time is None:
        axes.scatter(predicted, truth, s=4)
        axes.axline((float(truth.mean()), float(truth.mean())), slope=1, color="grey", linestyle=":")
        axes.set(title="Truth by prediction", xlabel="predicted", ylabel="true")
        return
    axes.plot(truth[-SHOWN:], label="true")
    axes.plot(predicted[-SHOWN:], label="predicted")
    axes.set(title="Newest test rows", xlabel="row", ylabel=evidence.contract.target)
    axes.legend()


def calibration(evidence: Evidence) -> list[Panel]:
    """What happened against what was predicted, in tenths of the predictions."""

    def panel(axes: "Axes") -> None:
        for name, truth, predicted in predictions(evidence):
            bins = assign_calibration_bins(predicted)
            means = [(predicted[bins == b].mean(), truth[bins == b].mean()) for b in np.unique(bins)]
            axes.plot(*zip(*means, strict=True), marker="o", label=name)
        middle = float(np.mean([truth.mean() for _, truth, _ in predictions(evidence)]))
        axes.axline((middle, middle), slope=1, color="grey", linestyle=":")
        axes.set(title="Calibration", xlabel="predicted", ylabel="happened")
        axes.legend()

    return [panel] if predictions(evidence) else []


def intervals(axes: "Axes", checks: list[Check]) -> None:
    """How much better the model is, on the whole and by segment; left of the line is worse."""
    for place, check in enumerate(reversed(checks)):
        if check.found:
            colour = "C0" if check.verdict == "promote" else "C3"
            axes.hlines(place, check.found.low, check.found.high, color=colour)
            axes.plot(check.found.value, place, "o", color=colour)
    axes.set_yticks(range(len(checks)), [check.subject for check in reversed(checks)])
    axes.axvline(0, color="grey", linestyle=":")
    axes.set(title="Better than before (red: objection)", ylim=(-0.5, len(checks) - 0.5))
