"""Threshold: compare decision thresholds of a classification with two labels, and choose one.

    python -m <package>.training.threshold [--rule cost]

The training split is predicted by cross-validation, so no row is predicted by a model that was fitted on it,
and the test split stays unseen. Nothing is changed: the result is the line to write into the contract.
"""

import argparse
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import declarations, params
from ..contract import Contract
from ..contract.observations import Observations
from ..core.errors import ProjectError, cli
from ..core.files import table
from ..core.paths import TRAIN
from ..stats.metrics import Floats, find_metric, predict_labels
from .train import predict_folds

PLOT = Path("reports/threshold.png")
SHOWN_RECALLS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
LIMITS = {"recall": ">=", "precision": ">=", "selected": "<="}
MAX_DIGITS = 9  # tell any two float32 numbers apart


class Rule(NamedTuple):
    """How a threshold is chosen: by the best value of a metric, or by a limit of one.

    Attributes:
        metric: "f1" (highest), "cost" (lowest), "recall", "precision" or "selected".
        limit: Minimum of recall or precision; of the other one, the highest value is chosen. Maximum of the
            selected share (a budget of reviews or alerts), at the highest recall.
    """

    metric: str
    limit: float = 0.0

    def __str__(self) -> str:
        return f"{self.metric} {LIMITS[self.metric]} {self.limit:g}" if self.limit else self.metric


class Curve(NamedTuple):
    """What each threshold leads to, from the highest one; arrays of shape `(n_thresholds,)`.

    Attributes:
        thresholds: Each is between a probability and the next lower one, with few digits.
        selected: Share of the rows that get the second label.
        precision: Of the second label.
        recall: Of the second label.
        f1: Harmonic mean of precision and recall.
        cost: Mean cost per row; None if the costs are not known.
    """

    thresholds: Floats
    selected: Floats
    precision: Floats
    recall: Floats
    f1: Floats
    cost: Floats | None


def parse_rule(text: str) -> Rule:
    """Read a rule.

    Args:
        text: "f1", "cost", "recall>=0.9", "precision>=0.8" or "selected<=0.01", with any number above 0 and
            up to 1.

    Returns:
        The rule.

    Raises:
        ProjectError: The text is none of these.
    """
    if text in ("f1", "cost"):
        return Rule(text)
    match = re.fullmatch(r"(\w+) ?(>=|<=) ?(\d*\.?\d+)", text)
    if match and LIMITS.get(match[1]) == match[2] and 0 < float(match[3]) <= 1:
        return Rule(match[1], float(match[3]))
    raise ProjectError(
        f"threshold: the rule must be f1, cost, recall>=0.9, precision>=0.8 or selected<=0.01 (or any other "
        f"number up to 1); it is {text!r}"
    )


def compute_curve(observations: Observations, outputs: Floats) -> Curve:
    """Compute what each threshold leads to.

    Args:
        observations: Target, weights and costs of the rows.
        outputs: Probabilities of two labels, `(n_rows, 2)`.

    Returns:
        A point for each distinct probability of the second label that is above 0.

    Raises:
        ProjectError: The rows do not have both labels.
    """
    target, weights = observations.target, observations.unit_counts[0]
    negated, position = np.unique(-outputs[:, 1].astype(np.float32), return_inverse=True)

    def accumulate(values: Floats) -> Floats:
        """Weighted sum over the rows that get the second label, for a threshold at each score."""
        return np.cumsum(np.bincount(position, weights * values), dtype=float)

    true_positives, selected = accumulate((target == 1).astype(float)), accumulate(np.ones(len(target)))
    n_positives, total = true_positives[-1], selected[-1]
    if not 0 < n_positives < total:
        raise ProjectError("threshold: the rows of the folds must have both labels")
    cost = None
    if observations.costs is not None:
        by_label = observations.costs[np.arange(len(target)), target]
        cost = (weights @ by_label[:, 0] + accumulate(by_label[:, 1] - by_label[:, 0])) / total
    usable = slice(np.count_nonzero(negated < 0))  # a threshold must be above 0
    return Curve(
        thresholds=_place_thresholds(-negated[usable]),
        selected=(selected / total)[usable],
        precision=(true_positives / np.maximum(selected, np.finfo(float).tiny))[usable],
        recall=(true_positives / n_positives)[usable],
        f1=(2 * true_positives / (selected + n_positives))[usable],
        cost=None if cost is None else cost[usable],
    )


def _place_thresholds(scores: NDArray[np.float32]) -> Floats:
    """A threshold for each score, above the next lower one, with as few digits as possible."""
    lower = np.append(scores[1:], np.float32(0))
    highest = np.minimum(scores, np.nextafter(np.float32(1), np.float32(0))).astype(float)
    thresholds = highest
    for digits in range(MAX_DIGITS, 0, -1):
        rounded = np.floor(highest * 10**digits) / 10**digits
        thresholds = np.where(rounded.astype(np.float32) > lower, rounded, thresholds)
    return thresholds


def choose(curve: Curve, rule: Rule) -> int:
    """Choose a threshold.

    Args:
        curve: What each threshold leads to.
        rule: How to choose.

    Returns:
        Position of the threshold in the curve; of equally good ones, the highest.

    Raises:
        ProjectError: No threshold keeps the rule's limit, or the costs are not known.
    """
    if rule.metric == "f1":
        return int(np.argmax(curve.f1))
    if rule.metric == "cost":
        if curve.cost is None:
            raise ProjectError("threshold: the rule cost needs COST in problem.py: COST = Cost(5, 'amount')")
        return int(np.argmin(curve.cost))
    if rule.metric == "selected":
        if (lowest := curve.selected[0]) > rule.limit:
            raise ProjectError(f"threshold: none selects {rule.limit:g} or less; the least is {lowest:.3g}")
        return int(np.argmax(np.where(curve.selected <= rule.limit, curve.recall, -1)))
    bound, goal = curve.recall, curve.precision
    if rule.metric == "precision":
        bound, goal = goal, bound
    if (highest := np.max(bound)) < rule.limit:
        raise ProjectError(
            f"threshold: none reaches {rule.metric} {rule.limit:g}; the highest is {highest:.3f}"
        )
    return int(np.argmax(np.where(bound >= rule.limit, goal, -1)))


def _format(threshold: str, values: dict[str, float]) -> dict[str, str]:
    """A row of the table."""
    texts = {name: f"{value:.4g}" if name == "cost" else f"{value:.1%}" for name, value in values.items()}
    return {"threshold": threshold, **texts}


def _current_decisions(observations: Observations, outputs: Floats, contract: Contract) -> dict[str, str]:
    """The row of the decisions by the contract as it is."""
    threshold, counts = contract.decision_threshold, observations.unit_counts
    names = ["precision", "recall", "f1"] + (["cost"] if observations.costs is not None else [])
    metrics = {name: find_metric(name, contract.task, threshold) for name in names}
    selected = float(np.average(predict_labels(outputs, threshold), weights=counts[0]))
    values = {name: float(metric(observations, outputs, counts)[0]) for name, metric in metrics.items()}
    return _format(f"current: {threshold or 0.5:.9g}", {"selected": selected, **values})


def make_table(curve: Curve, chosen: int, current: dict[str, str]) -> str:
    """Make a table of about a dozen thresholds.

    Args:
        curve: What each threshold leads to.
        chosen: Position of the chosen threshold.
        current: The row of the decisions by the contract as it is.

    Returns:
        A Markdown table: thresholds with increasing recall, and the chosen one.
    """
    shown = {int(np.argmax(curve.recall >= recall)) for recall in SHOWN_RECALLS if curve.recall[-1] >= recall}
    rows = [current]
    for index in sorted({*shown, chosen}):
        mark = "chosen: " if index == chosen else ""
        values = {
            name: float(part[index])
            for name, part in curve._asdict().items()
            if part is not None and name != "thresholds"
        }
        rows.append(_format(f"{mark}{curve.thresholds[index]:.9g}", values))
    return table(rows)


def draw(curve: Curve, chosen: int, label: str, path: Path) -> None:
    """Draw precision, recall, F1 and, if it is known, the cost over the threshold.

    Args:
        curve: What each threshold leads to.
        chosen: Position of the chosen threshold.
        label: The second label, for the title.
        path: The PNG file to write.
    """
    from matplotlib.figure import Figure

    title = f"Label {label}".replace("$", r"\$")  # else matplotlib reads a formula
    panels = {title: {name: getattr(curve, name) for name in ("precision", "recall", "f1")}}
    if curve.cost is not None:
        panels["Mean cost per row"] = {"cost": curve.cost}
    figure = Figure(figsize=(8.3, 4.1), layout="constrained")
    threshold = curve.thresholds[chosen]
    for index, (title, lines) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(1, len(panels), index)
        axes.spines[["top", "right"]].set_visible(False)
        for name, values in lines.items():
            axes.plot(curve.thresholds, values, label=name)
        axes.axvline(threshold, color="grey", linestyle=":", label=f"chosen: {threshold:.3g}")
        axes.set(title=title, xlabel="decision threshold")
        if threshold < 0.05:  # rare labels have low probabilities
            axes.set_xscale("log")
        axes.legend(fontsize="small")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def main() -> None:
    """Print a table of thresholds and the chosen one, and draw them."""
    parser = argparse.ArgumentParser(description="Compare decision thresholds and choose one.")
    rules = "f1, cost, recall>=0.9, precision>=0.8, selected<=0.01; default: cost if COST is set, else f1"
    parser.add_argument("--rule", help=rules)
    text = parser.parse_args().rule
    settings, problem = params.load().train, declarations.load()
    declarations.check_expectations(problem)
    contract = problem.contract
    if contract.task != "classification" or len(contract.labels) != 2:
        raise ProjectError("threshold: only a classification with two labels has a decision threshold")
    rule = parse_rule(text or ("cost" if problem.cost else "f1"))
    train = problem.read_split(TRAIN)
    estimator = declarations.make_estimator(problem.estimator, settings)
    folds = list(predict_folds(estimator, train, settings))
    rows, outputs = map(np.concatenate, zip(*folds, strict=True))
    observations = train.observations.take(rows)
    curve = compute_curve(observations, outputs)
    chosen = choose(curve, rule)
    draw(curve, chosen, contract.labels[1], PLOT)
    print(make_table(curve, chosen, _current_decisions(observations, outputs, contract)))
    print(f"threshold: chosen by {rule}, over {len(rows):,} rows of {settings.n_splits} folds; see {PLOT}")
    print(f"For CONTRACT in problem.py: decision_threshold={curve.thresholds[chosen]:.9g}")


if __name__ == "__main__":
    cli(main)
