"""The monitor over many events, against half as many."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .data import LINEAR, interpreter
from .demo import answers, python
from .lab import Cost, Lab, cost
from .table import Row, Target

COUNTS = (500_000, 1_000_000)
# Rows of the training split as prediction events, in files as a busy server writes them.
MANY_EVENTS = """
import sys, time
from pathlib import Path
import numpy as np
from {package}.contract.tables import read_features
from {package}.serving.events import EventWriter, Request
from {package}.model.bundle import Model
from {package}.core.paths import BUNDLE, TRAIN

target, count = sys.argv[1], int(sys.argv[2])
model = Model(BUNDLE)
features = read_features(TRAIN, model.contract).to_numpy()
features = np.random.default_rng(0).choice(features, count)
outputs, writer, began = model.run(features), EventWriter(model, target), time.time() - count / 1000
for start in range(0, count, 20_000):
    requests = []
    for index in range(start, start + 20_000):
        received, row = began + index / 1000, slice(index, index + 1)
        matrices = {{"features": features[row], "outputs": outputs[row]}}
        request = Request(received, id=f"r{{index}}", role="champion", seconds=1e-4, status=200, **matrices)
        requests.append(request)
    writer.write(requests)
"""


def rows(lab: Lab) -> Iterator[Row]:
    """Time and memory, and how time grows."""
    half, whole = (monitored(lab, count) for count in COUNTS)
    name = f"monitor: {COUNTS[1]:,} events"
    yield Row(name, whole.seconds, "s", target=Target("≤", 30, "s"))
    yield Row(f"{name}, peak memory", whole.peak_gib, "GiB", target=Target("≤", 2, "GiB"))
    linear = Target("≤", LINEAR * COUNTS[1] / COUNTS[0], "x")
    yield Row(f"{name}, growth of time", whole.seconds, "s", f"{COUNTS[0]:,} events", half.seconds, linear)


def monitored(lab: Lab, count: int) -> Cost:
    """Write so many events, and let the monitor look at them."""
    project, events = lab.journey.project, lab.folder / f"events-{count}"
    package = answers(project)["package_name"]
    with lab.steps.step(f"{count:,} events: write"):
        python(project, "-c", MANY_EVENTS.format(package=package), str(events), str(count))
    with lab.steps.step(f"{count:,} events: monitor"):
        command: list[str | Path] = [interpreter(lab), "-m", f"{package}.monitoring.monitor"]
        return cost([*command, "--events", events, "--since", "1d"], project)
