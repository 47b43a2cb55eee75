"""Target leakage: features that know the answer, alone or in a simple combination of two.

Each candidate is judged by a small decision tree, fitted on one half of a sample and scored on the
other: AUC (of the worst class) for classification and ranking, R² for regression. A real feature
helps; one that all but reaches 1 by itself was most likely written down after the fact.
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..contract import Contract

MAX_FEATURES_IN_PAIRS = 40
DEPTH = 5


def find_leaks(features: pd.DataFrame, target: NDArray, contract: Contract, limit: float) -> list[str]:
    """Name the features, and pairs of otherwise harmless ones, whose score reaches `limit`.

    Args:
        features: float32 numbers, one column for each of `contract.feature_names`.
        target: numbers, or positions in the target's categories; as long as `features`.
    """
    regression = contract.task == "regression"
    plain = [column.name for column in contract.features if column.encoded_names == (column.name,)]
    values = {name: np.nan_to_num(features[name].to_numpy(float), nan=-1e9) for name in plain}
    alone = {name: score(values[name][:, None], target, regression) for name in plain}
    harmless = sorted((name for name in plain if alone[name] < limit), key=alone.__getitem__)
    pairs = {
        f"{first} with {second}": score(combine(values[first], values[second]), target, regression)
        for first, second in combinations(harmless[-MAX_FEATURES_IN_PAIRS:], 2)
    }
    return [
        f"{name} all but determines {contract.target} (score {found:.3f})"
        for name, found in (alone | pairs).items()
        if found >= limit
    ]


def combine(first: NDArray, second: NDArray) -> NDArray:
    """Both columns, and what is easily computed from them: difference, sum, product, ratio."""
    ratio = np.divide(first, second, out=np.zeros_like(first), where=second != 0)
    return np.column_stack([first, second, first - second, first + second, first * second, ratio])


def score(columns: NDArray, target: NDArray, regression: bool) -> float:
    """AUC or R² of a small tree on `columns`, of shape (rows, n), over the half it has not seen."""
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    fit, held = slice(0, None, 2), slice(1, None, 2)
    settings = {"max_depth": DEPTH, "min_samples_leaf": 5, "random_state": 0}
    if regression:
        return float(
            DecisionTreeRegressor(**settings)
            .fit(columns[fit], target[fit])
            .score(columns[held], target[held])
        )
    tree = DecisionTreeClassifier(**settings).fit(columns[fit], target[fit])
    return min(class_scores(tree.predict_proba(columns[held]), tree.classes_, target[held]), default=0.0)


def class_scores(probabilities: NDArray, classes: NDArray, target: NDArray) -> Iterator[float]:
    """AUC of each class against the others."""
    from sklearn.metrics import roc_auc_score

    for index, label in enumerate(classes):
        truth = target == label
        if truth.any() and not truth.all():
            yield float(roc_auc_score(truth, probabilities[:, index]))
        if len(classes) == 2:
            return  # the other class has the same score
