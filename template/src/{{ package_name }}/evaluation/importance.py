"""Permutation importance (Breiman, 2001) of each column, of the bundle on the test split.

If two columns hold the same information, both may seem unimportant, because the model uses the other.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..contract import Column
from ..contract.dataset import Dataset
from ..declarations import Declarations
from ..model.bundle import Model

N_REPEATS = 5
MAX_ROWS = 10_000
MAX_COLUMNS = 100  # of a wide table, those that seem to matter most are measured in full
SCREENING_ROWS = 1_000


def permutation_importance(model: Model, test: Dataset, problem: Declarations) -> dict[str, float]:
    """Loss of the primary metric when the values of a column are shuffled between rows.

    Args:
        model: The bundle.
        test: Rows to measure on; at most `MAX_ROWS` are drawn.
        problem: Says the primary metric, and whether more is better.

    Returns:
        Mean loss of `N_REPEATS` shuffles by column, the largest first. The features that encode one column
        are shuffled together. If there are more than `MAX_COLUMNS` columns, each is shuffled once in
        `SCREENING_ROWS` rows, and only those that lose most are measured as above.
    """
    rows, columns = np.random.default_rng(0).permutation(len(test))[:MAX_ROWS], model.contract.features
    losses: dict[str, float] = {}
    if len(columns) > MAX_COLUMNS:
        losses = _measure(model, test, problem, columns, rows[:SCREENING_ROWS], 1)
        columns = sorted(columns, key=lambda column: -losses[column.name])[:MAX_COLUMNS]
    losses |= _measure(model, test, problem, columns, rows, N_REPEATS)
    return dict(sorted(losses.items(), key=lambda item: -item[1]))


def _measure(
    model: Model,
    test: Dataset,
    problem: Declarations,
    columns: Iterable[Column],
    rows: NDArray[np.intp],
    n_repeats: int,
) -> dict[str, float]:
    """Mean loss by column, over some shuffles of some rows."""
    random, kpi = np.random.default_rng(0), problem.primary_kpi
    metric = problem.make_metrics(model.contract)[kpi.metric]
    features, observations = test.features.to_numpy()[rows], test.observations.take(rows)
    positions = {name: index for index, name in enumerate(model.contract.feature_names)}

    def score() -> float:
        return kpi.sign * float(metric(observations, model.run(features), observations.unit_counts)[0])

    full_score, losses = score(), {}
    for column in columns:
        shuffled = [positions[name] for name in column.encoded_names]
        original, scores = features[:, shuffled], []  # indexing with a list copies
        for _ in range(n_repeats):
            features[:, shuffled] = random.permutation(original)  # in place: a copy of a wide table is slow
            scores.append(score())
        features[:, shuffled] = original
        losses[column.name] = full_score - float(np.mean(scores))
    return losses
