"""Plots of the gate's report: curves, calibration, and the comparison by segment."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..contract import TOP_K
from ..contract.tables import quote, read_column
from ..stats.inference import assign_calibration_bins
from ..stats.metrics import target_ranks
from .checks import Check, Evidence, Predictions, Status, label_predictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_NAME = 40  # characters of a name that are shown
MAX_ITEMS = 50  # of a ranking, from the first
NEWEST_ROWS = 336  # of a forecast: a week of half-hours
STYLES: dict[Status, tuple[str, str]] = {"pass": ("C0", "o"), "warn": ("C1", "s"), "fail": ("C3", "X")}


def draw(evidence: Evidence, checks: list[Check], path: Path) -> None:
    """Draw up to four panels, two side by side, legible at a width of 830 pixels.

    Args:
        evidence: Predictions and observed values.
        checks: Results of the checks, for the comparison.
        path: The PNG file to write.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"text.parse_math": False}):  # names may hold a $
        panels = _panels(evidence, checks)
        n_lines = -(-len(panels) // 2)
        figure = Figure(figsize=(8.3, 4.1 * n_lines), layout="constrained")
        figure.suptitle(f"Model {evidence.version} on {len(evidence.test):,} test rows")
        for index, panel in enumerate(panels, 1):
            axes = figure.add_subplot(n_lines, 2, index)
            axes.spines[["top", "right"]].set_visible(False)
            panel(axes)
        figure.savefig(path, dpi=100, metadata={"Software": None})


def _panels(evidence: Evidence, checks: list[Check]) -> list[Callable[["Axes"], None]]:
    """The panels that the task has content for."""
    from sklearn.metrics import PrecisionRecallDisplay, RocCurveDisplay

    predictions, panels = label_predictions(evidence), []
    if evidence.production and len(predictions) == 1:
        previous = label_predictions(replace(evidence, outputs=evidence.production.outputs))
        predictions += [(evidence.production.tag, observed, old) for _, observed, old in previous]
    if evidence.contract.task == "classification":
        panels.append(lambda axes: _curves(axes, RocCurveDisplay, "ROC curve", predictions))
        panels.append(lambda axes: _curves(axes, PrecisionRecallDisplay, "Precision and recall", predictions))
    if evidence.contract.task == "regression":
        panels.append(lambda axes: _forecast(axes, evidence))
    if evidence.contract.task == "ranking":
        panels.append(lambda axes: _hit_rates(axes, evidence))
    if predictions:
        panels.append(lambda axes: _calibration(axes, predictions))
    if compared := [check for check in checks if check.check in ("production", "segment") and check.estimate]:
        panels.append(lambda axes: _comparison(axes, compared, evidence))
    return panels


def _curves(axes: "Axes", display: Any, title: str, predictions: list[Predictions]) -> None:
    """ROC or precision-recall curves."""
    for index, (name, observed, predicted) in enumerate(predictions):
        chance = index == len(predictions) - 1
        display.from_predictions(observed, predicted, name=name[:MAX_NAME], ax=axes, plot_chance_level=chance)
    axes.set(title=title, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set(xlabel=axes.get_xlabel().split(" (")[0], ylabel=axes.get_ylabel().split(" (")[0])
    axes.legend(fontsize="small")


def _forecast(axes: "Axes", evidence: Evidence) -> None:
    """The newest rows over time, or predictions against observed values where rows have no time."""
    observed, predicted, time = evidence.test.target, evidence.outputs[:, 0], evidence.contract.time
    if time is None:
        axes.scatter(predicted, observed, s=4)
        axes.axline((float(observed.mean()), float(observed.mean())), slope=1, color="grey", linestyle=":")
        axes.set(title="Predictions", xlabel="predicted", ylabel="observed", aspect="equal")
        return
    times = read_column(evidence.test.path, quote(time))[-NEWEST_ROWS:]
    series = {"observed": observed, "predicted": predicted, "baseline": evidence.baseline[:, 0]}
    for (name, values), style in zip(series.items(), ("-", "--", ":"), strict=True):
        axes.plot(times, values[-NEWEST_ROWS:], style, label=name, linewidth=1)
    axes.set(title="Newest test rows", ylabel=evidence.contract.target)
    axes.tick_params("x", rotation=30)
    axes.legend(fontsize="small")


def _hit_rates(axes: "Axes", evidence: Evidence) -> None:
    """Share of the rows whose target is among the first items, by the number of items."""
    outputs = {"model": evidence.outputs, "baseline": evidence.baseline}
    if evidence.production:
        outputs[evidence.production.tag] = evidence.production.outputs
    numbers = np.arange(1, min(MAX_ITEMS, len(evidence.contract.labels)) + 1)
    for (name, scores), style in zip(outputs.items(), ("-", ":", "--"), strict=False):
        ranks = target_ranks(evidence.test.target, scores)
        axes.plot(numbers, [(ranks <= number).mean() for number in numbers], style, label=name[:MAX_NAME])
    axes.axvline(TOP_K, color="grey", linewidth=0.5)
    axes.set(title="Hit rate", xlabel="number of items", ylabel="share of rows", ylim=(0, None))
    axes.legend(fontsize="small")


def _calibration(axes: "Axes", predictions: list[Predictions]) -> None:
    """Observed mean against predicted mean in bins of equal size, in the unit of the target."""
    for name, observed, predicted in predictions:
        bins = assign_calibration_bins(predicted)
        means = [(predicted[bins == b].mean(), observed[bins == b].mean()) for b in np.unique(bins)]
        axes.plot(*zip(*means, strict=True), marker="o", label=name[:MAX_NAME])
    low, high = min(*axes.get_xlim(), *axes.get_ylim()), max(*axes.get_xlim(), *axes.get_ylim())
    axes.plot([low, high], [low, high], color="grey", linestyle=":", label="perfect calibration")
    axes.set(title="Calibration", xlabel="predicted (mean of a bin)", ylabel="observed", aspect="equal")
    axes.legend(fontsize="small")


def _comparison(axes: "Axes", checks: list[Check], evidence: Evidence) -> None:
    """Improvement with its interval, on the whole and by segment."""
    segments = evidence.segments
    for place, check in enumerate(reversed(checks)):
        if check.estimate:
            colour, marker = STYLES[check.status]
            axes.hlines(place, check.estimate.low, check.estimate.high, color=colour)
            axes.plot(check.estimate.value, place, marker, color=colour)
        label = "" if check.status == "pass" else f"{check.status}: "
        label += check.subject[:MAX_NAME]
        if check.subject in segments:
            label += f" (n = {len(segments[check.subject]):,})"
        axes.annotate(label, (0.02, place + 0.2), xycoords=("axes fraction", "data"), fontsize="small")
    axes.axvline(0, color="grey", linestyle=":")
    axes.set(title=f"Improvement over {evidence.reference}", xlabel=evidence.problem.primary_kpi.metric)
    axes.set(yticks=[], ylim=(-0.5, len(checks) - 0.2))
