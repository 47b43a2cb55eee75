"""Permutation importance (Breiman, 2001) of each column, of the bundle on the test split.

If two columns hold the same information, both may seem unimportant, because the model uses the other.
"""

from collections.abc import Sequence

import numpy as np

from ..contract.dataset import Dataset
from ..declarations import Declarations
from ..model.bundle import Model

N_REPEATS = 5
MAX_ROWS = 10_000


def permutation_importance(model: Model, test: Dataset, problem: Declarations) -> dict[str, float]:
    """Loss of the primary metric when the values of a column are shuffled between rows.

    Args:
        model: The bundle.
        test: Rows to measure on; at most `MAX_ROWS` are drawn.
        problem: Says the primary metric, and whether more is better.

    Returns:
        Mean loss of `N_REPEATS` shuffles by column, the largest first. The features that encode one column
        are shuffled together.
    """
    random, kpi = np.random.default_rng(0), problem.primary_kpi
    metric = problem.make_metrics(model.contract)[kpi.metric]
    rows = np.random.default_rng(0).permutation(len(test))[:MAX_ROWS]
    features, observations = test.features.to_numpy()[rows], test.observations.take(rows)

    def score(positions: Sequence[int]) -> float:
        shuffled = features.copy()
        shuffled[:, positions] = random.permutation(features[:, positions])
        return kpi.sign * float(metric(observations, model.run(shuffled), observations.unit_counts)[0])

    full_score, names = score([]), model.contract.feature_names
    losses = {}
    for column in model.contract.features:
        positions = [names.index(name) for name in column.encoded_names]
        losses[column.name] = full_score - float(np.mean([score(positions) for _ in range(N_REPEATS)]))
    return dict(sorted(losses.items(), key=lambda item: -item[1]))
