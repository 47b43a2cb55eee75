"""Tuning on a Ray or Dask cluster of two hosts loses no trial when one of them dies."""

from pathlib import Path

import hosts
import pytest
from helpers import PATIENCE
from project import Project
from test_tune import (
    SLOW,
    break_estimator,
    completed,
    finished_workers,
    in_progress,
    setup,
    store,
    trials,
    tuned,
    wait_for,
)

__all__ = ["store", "tuned"]  # fixtures

CLUSTERS = {"ray": hosts.ray, "dask": hosts.dask}


def lose_a_host(tuned: Project, libraries: Path, name: str) -> tuple[str, str, int]:
    """Tune on two hosts until one dies: their names, and how many trials had been told by then."""
    with CLUSTERS[name](tuned, libraries) as (first, second, address):
        setup(tuned, 10, f", backend: {name}, address: '{address}'")
        with first.start("make", "tune") as process:
            wait_for(lambda: in_progress(tuned, finished=4), process)
            second.die()
            died = len(finished_workers(tuned))
            output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, output
    return first.name, second.name, died


@pytest.mark.parametrize("name", CLUSTERS)
def test_lost_host_loses_no_trial(tuned: Project, libraries: Path, name: str) -> None:
    """Two hosts share the trials until one dies; then the other one runs the rest."""
    break_estimator(tuned, SLOW)
    first, second, died = lose_a_host(tuned, libraries, name)
    ran = [trial["worker"].split(":")[0] for trial in completed(trials(tuned), 10)]
    assert ran[:4].count(first) == ran[:4].count(second) == 2
    assert died < 10
    assert {*ran[died:]} == {first}
