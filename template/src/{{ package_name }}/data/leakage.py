"""Target leakage: features that reveal the target, alone or in a simple combination of two.

Each candidate is scored by a small decision tree, fitted on one half of a sample and scored on the other: AUC
(of the worst class) for classification and ranking, R² for regression. A feature that scores close to 1 by
itself was most likely recorded after the target was known.
"""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ..contract.dataset import Dataset

MAX_FEATURES_IN_PAIRS = 40
TREE = {"max_depth": 5, "min_samples_leaf": 5, "random_state": 0}


def score_features(dataset: Dataset, limit: float) -> dict[str, float]:
    """Score how well each feature, and each pair of features below the limit, predicts the target.

    Args:
        dataset: A sample of rows in random order. Features that are encoded as several numbers are left out.
        limit: Score from which a feature counts as a leak, and is not tried in pairs. Of the others, the best
            40 are.

    Returns:
        Feature (`a`) or pair (`a and b`) to its score, at most 1.
    """
    target, is_regression = dataset.target, dataset.contract.task == "regression"
    names = [column.name for column in dataset.contract.features if column.encoded_names == (column.name,)]
    values = {name: np.nan_to_num(dataset.features[name].to_numpy(np.float64), nan=-1e9) for name in names}
    scores = {name: _score(values[name][:, None], target, is_regression) for name in names}
    paired = sorted((name for name in names if scores[name] < limit), key=scores.__getitem__)
    for first, second in combinations(paired[-MAX_FEATURES_IN_PAIRS:], 2):
        pair = _combine(values[first], values[second])
        scores[f"{first} and {second}"] = _score(pair, target, is_regression)
    return scores


def _combine(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Stack two features with their difference, sum, product and ratio, to shape (n_rows, 6)."""
    ratio = np.divide(first, second, out=np.zeros_like(first), where=second != 0)
    return np.column_stack([first, second, first - second, first + second, first * second, ratio])


def _score(columns: NDArray[np.float64], target: NDArray[np.generic], is_regression: bool) -> float:
    """Fit a tree on every second row of `columns` (n_rows, n_columns) and score it on the rest."""
    from sklearn.metrics import roc_auc_score
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    train, test = slice(0, None, 2), slice(1, None, 2)
    if is_regression:
        regressor = DecisionTreeRegressor(**TREE).fit(columns[train], target[train])
        return float(regressor.score(columns[test], target[test]))
    tree = DecisionTreeClassifier(**TREE).fit(columns[train], target[train])
    first = len(tree.classes_) == 2  # both of two classes have the same AUC
    is_class = (target[test] == label for label in tree.classes_[first:])
    pairs = zip(is_class, tree.predict_proba(columns[test]).T[first:], strict=True)
    aucs = (float(roc_auc_score(hits, scores)) for hits, scores in pairs if hits.any() and not hits.all())
    return min(aucs, default=0.0)
