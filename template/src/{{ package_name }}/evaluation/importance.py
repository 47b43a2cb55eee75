"""Permutation importance (Breiman, 2001) of each column, of the bundle on the test split.

If two columns hold the same information, both may seem unimportant, because the model uses the other.
"""

from collections.abc import Sequence

import numpy as np

from ..contract.dataset import Dataset
from ..contract.expectations import Kpi
from ..model.bundle import Model
from ..stats.metrics import METRICS

N_REPEATS = 5
MAX_ROWS = 10_000


def permutation_importance(model: Model, test: Dataset, kpi: Kpi) -> dict[str, float]:
    """Loss of a KPI's metric when the values of a column are shuffled between rows.

    Args:
        model: The bundle.
        test: Rows to measure on; at most `MAX_ROWS` are drawn.
        kpi: Says the metric, and whether more is better.

    Returns:
        Mean loss of `N_REPEATS` shuffles by column, the largest first. The features that encode one column
        are shuffled together.
    """
    random, metric = np.random.default_rng(0), METRICS[model.contract.task][kpi.metric]
    rows = np.random.default_rng(0).permutation(len(test))[:MAX_ROWS]
    features, target, unit_counts = test.features.to_numpy()[rows], test.target[rows], np.ones((1, len(rows)))

    def score(positions: Sequence[int]) -> float:
        shuffled = features.copy()
        shuffled[:, positions] = random.permutation(features[:, positions])
        return kpi.sign * float(metric(target, model.run(shuffled), unit_counts)[0])

    full_score, names = score([]), model.contract.feature_names
    losses = {}
    for column in model.contract.features:
        positions = [names.index(name) for name in column.encoded_names]
        losses[column.name] = full_score - float(np.mean([score(positions) for _ in range(N_REPEATS)]))
    return dict(sorted(losses.items(), key=lambda item: -item[1]))
