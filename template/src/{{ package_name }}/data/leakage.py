"""Target leakage: features that reveal the target, alone or in a simple combination of two.

Each candidate is scored by a small decision tree, fitted on one half of a sample and scored on the other: AUC
(of the worst class) for classification and ranking, R² for regression. A feature that scores close to 1 by
itself was most likely recorded after the target was known. A time or a list is scored by all its numbers.
"""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ..contract.dataset import Dataset

AND = " and "
MAX_FEATURES_IN_PAIRS = 40
FIT_HALF, TEST_HALF = slice(0, None, 2), slice(1, None, 2)  # every second row
TREE = {"max_depth": 5, "min_samples_leaf": 5, "random_state": 0}
MAX_LABELS = 16  # half of the leaves of such a tree; with more labels, a tree has as many leaves as it needs


def score_features(dataset: Dataset, limit: float) -> dict[str, float]:
    """Score how well each feature, and each pair of features below the limit, predicts the target.

    Args:
        dataset: A sample of rows in random order.
        limit: Score from which a feature counts as a leak, and is not tried in pairs. Of the others, the best
            40 of those that are one number are.

    Returns:
        Feature (`a`) or pair (`a and b`) to its score, at most 1.
    """
    target, is_regression = dataset.target, dataset.contract.task == "regression"
    values = _column_values(dataset)
    scores = {name: _score(numbers, target, is_regression) for name, numbers in values.items()}
    single = (name for name in values if scores[name] < limit and values[name].shape[1] == 1)
    paired = sorted(single, key=scores.__getitem__)
    for first, second in combinations(paired[-MAX_FEATURES_IN_PAIRS:], 2):
        pair = _combine(values[first][:, 0], values[second][:, 0])
        scores[f"{first}{AND}{second}"] = _score(pair, target, is_regression)
    return scores


def score_classes(dataset: Dataset) -> dict[tuple[str, str], float]:
    """Score how well each feature tells one class from all others.

    Args:
        dataset: A sample of rows in random order.

    Returns:
        Feature and class to the AUC; empty unless there are three classes or more.
    """
    labels = dataset.contract.labels
    if dataset.contract.task != "classification" or len(labels) < 3:
        return {}
    return {
        (name, labels[label]): auc
        for name, numbers in _column_values(dataset).items()
        for label, auc in _class_aucs(numbers, dataset.target).items()
    }


def _column_values(dataset: Dataset) -> dict[str, NDArray[np.float64]]:
    """The numbers of each column, `(n_rows, n_numbers)`, with a number of their own for missing values."""
    return {
        column.name: np.nan_to_num(
            dataset.features[list(column.encoded_names)].to_numpy(np.float64), nan=-1e9
        )
        for column in dataset.contract.features
    }


def _combine(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Stack two features with their difference, sum, product and ratio, to shape (n_rows, 6)."""
    ratio = np.divide(first, second, out=np.zeros_like(first), where=second != 0)
    return np.column_stack([first, second, first - second, first + second, first * second, ratio])


def _score(columns: NDArray[np.float64], target: NDArray[np.generic], is_regression: bool) -> float:
    """Fit a tree on every second row of `columns` (n_rows, n_columns) and score it on the rest."""
    from sklearn.tree import DecisionTreeRegressor

    if is_regression:
        regressor = DecisionTreeRegressor(**TREE).fit(columns[FIT_HALF], target[FIT_HALF])
        return float(regressor.score(columns[TEST_HALF], target[TEST_HALF]))
    return min(_class_aucs(columns, target).values(), default=0.0)


def _class_aucs(columns: NDArray[np.float64], target: NDArray[np.generic]) -> dict[int, float]:
    """AUC of each class against the others, by its position; of two classes, both have the same."""
    from sklearn.metrics import roc_auc_score
    from sklearn.tree import DecisionTreeClassifier

    n_labels = len(np.unique(target[FIT_HALF]))
    depth = TREE["max_depth"] if n_labels <= MAX_LABELS else None
    tree = DecisionTreeClassifier(**TREE | {"max_depth": depth}).fit(columns[FIT_HALF], target[FIT_HALF])
    first = len(tree.classes_) == 2
    labels, scores = tree.classes_[first:], tree.predict_proba(columns[TEST_HALF]).T[first:]
    hits = {int(label): target[TEST_HALF] == label for label in labels}
    return {
        label: float(roc_auc_score(hits[label], score))
        for label, score in zip(hits, scores, strict=True)
        if hits[label].any() and not hits[label].all()
    }
