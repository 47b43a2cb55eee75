"""Importance: what the model loses of the first KPI's metric when a column's values go to other rows.

Permutation importance (Breiman, 2001), of the bundle on the test split. Of columns that say the same, each
may look needless, for the model has the other.
"""

import numpy as np
from numpy.typing import NDArray

from .. import problem
from ..contract.dataset import load_dataset
from ..core.errors import cli
from ..core.files import write_json
from ..core.paths import BUNDLE, IMPORTANCE_REPORT, TEST
from ..model.bundle import Model
from ..stats.metrics import METRICS

ROUNDS = 5
MAX_ROWS = 10_000


def importance(model: Model, features: NDArray, target: NDArray) -> dict[str, float]:
    """Loss by each column, the largest first; a column's numbers are moved together."""
    random, kpi = np.random.default_rng(0), problem.KPIS[0]
    metric, once = METRICS[model.contract.task][kpi.metric], np.ones((1, len(target)))

    def quality(rows: NDArray) -> float:
        return kpi.sign * float(metric(target, model.run(rows), once)[0])

    whole, names, found = quality(features), model.contract.feature_names, {}
    for column in model.contract.features:
        places = [names.index(name) for name in column.encoded_names]
        losses = []
        for _ in range(ROUNDS):
            moved = features.copy()
            moved[:, places] = random.permutation(features[:, places])
            losses.append(whole - quality(moved))
        found[column.name] = float(np.mean(losses))
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def main() -> None:
    model = Model(BUNDLE)
    test = load_dataset(TEST, model.contract)
    sample = np.random.default_rng(0).permutation(len(test))[:MAX_ROWS]
    found = importance(model, test.features.to_numpy()[sample], test.target[sample])
    write_json(IMPORTANCE_REPORT, {"metric": problem.KPIS[0].metric, "loss": found})
    first = [f"{name} {loss:.3g}" for name, loss in list(found.items())[:5]]
    print(f"importance: without it, {problem.KPIS[0].metric} loses: {', '.join(first)}")


if __name__ == "__main__":
    cli(main)
