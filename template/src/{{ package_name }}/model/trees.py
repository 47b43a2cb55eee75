"""HistGradientBoosting's trees, rewritten so that skl2onnx converts them exactly."""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, bool]  # upper end, and whether numbers up to it go left


def floor_float32(numbers: NDArray[np.float64]) -> NDArray[np.float32]:
    """Round down to float32.

    Args:
        numbers: Any shape.

    Returns:
        The largest float32 that is not above each number, in the same shape.
    """
    with np.errstate(over="ignore"):  # beyond float32, the nearest is infinite
        nearest = numbers.astype(np.float32)
    return np.where(nearest > numbers, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def floor_thresholds(predictor: Any) -> None:
    """Let a tree compare float32 features in float32 exactly as before.

    Its thresholds are float64 and lie between the values of training. The converter rounds them, half of them
    up: a feature between threshold and rounded threshold would then go the other way.

    Args:
        predictor: A `TreePredictor`, changed in place.
    """
    predictor.nodes["num_threshold"] = floor_float32(predictor.nodes["num_threshold"])


def unfold_categories(model: Any) -> None:
    """Replace splits by category, which skl2onnx does not convert, by comparisons with numbers.

    A set such as {0, 3} becomes "up to 0.5, or above 2.5 and up to 3.5". Categories that training lacked go
    where missing values go. Features get back the positions that they have outside of the model.

    Args:
        model: A fitted HistGradientBoosting estimator, changed in place.
    """
    is_category = getattr(model, "is_categorical_", None)  # not fitted inside of an estimator that clones it
    if is_category is None:
        return
    positions = np.concatenate([np.flatnonzero(is_category), np.flatnonzero(~is_category)])
    categories = model._preprocessor.named_transformers_["encoder"].categories_
    for predictor in (tree for trees in model._predictors for tree in trees):
        nodes = predictor.nodes.copy()
        for index in np.flatnonzero(nodes["is_categorical"] & ~nodes["is_leaf"].astype(bool)).tolist():
            feature, go_left = nodes[index]["feature_idx"], bool(nodes[index]["missing_go_to_left"])
            left = predictor.raw_left_cat_bitsets[nodes[index]["bitset_idx"]]
            sides = [_has(left, code) for code in range(len(categories[feature]))]
            nodes = _unfold(nodes, index, _intervals(categories[feature], sides, go_left), go_left)
        nodes["feature_idx"] = positions[nodes["feature_idx"]]
        predictor.nodes = nodes


def _has(bits: NDArray[np.uint32], code: int) -> bool:
    """Whether a bitset has a number."""
    return bool(bits[code // 32] >> np.uint32(code % 32) & 1)


def _intervals(categories: NDArray[Any], sides: list[bool], other: bool) -> list[Interval]:
    """Cut the numbers into intervals that go left or right by turns; what is no category goes to `other`."""
    intervals: list[Interval] = []
    for category, side in zip(categories.tolist(), sides, strict=True):
        if np.isnan(category):
            continue
        if not intervals or intervals[-1][0] < category - 0.5:
            intervals.append((category - 0.5, other))
        intervals.append((category + 0.5, side))
    intervals.append((np.inf, other))
    return [here for here, after in pairwise(intervals) if here[1] != after[1]] + intervals[-1:]


def _unfold(nodes: NDArray[Any], index: int, intervals: list[Interval], other: bool) -> NDArray[Any]:
    """Replace a node by a chain of comparisons, one for each interval but the last."""
    child = {True: nodes[index]["left"], False: nodes[index]["right"]}
    chain = np.repeat(nodes[index : index + 1], max(len(intervals) - 1, 1))
    chain["is_categorical"], chain["right"] = False, len(nodes) + np.arange(len(chain))
    for node, (end, side) in zip(chain, intervals, strict=False):
        node["num_threshold"], node["left"], node["missing_go_to_left"] = end, child[side], side == other
    chain[-1]["right"] = child[other]
    nodes[index] = chain[0]
    return np.concatenate([nodes, chain[1:]])
