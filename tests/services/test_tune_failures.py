"""Tuning loses no trial when its process, a worker or a host of a Ray or Dask cluster dies."""

import os
import signal
import subprocess
from contextlib import suppress
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


def test_tune_resumes_after_a_kill(tuned: Project) -> None:
    """With kill -9 in the middle: no trial is lost, none is made twice."""
    setup(tuned, 8)
    break_estimator(tuned, SLOW)
    command = (tuned.python, "-m", f"{tuned.package}.training.tune")
    with subprocess.Popen(
        command,
        cwd=tuned.folder,
        env=tuned.environment(),
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        wait_for(lambda: in_progress(tuned, finished=3), process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        os.killpg(process.pid, signal.SIGKILL)
    cut = trials(tuned)
    running = [trial for trial in cut if trial["state"] == "RUNNING"]
    assert running
    assert len(cut) < 8
    (log,) = (tuned.folder / ".tuning").glob("*.log")
    with suppress(FileExistsError):
        log.with_name(f"{log.name}.lock").symlink_to(log)  # as if it had been killed while it wrote
    tuned.stages("training.tune")
    results = completed(trials(tuned), 8)
    assert [trial for trial in cut if trial["state"] == "COMPLETE"] == results[: len(cut) - len(running)]


def test_tune_loses_no_trial_with_a_worker(tuned: Project) -> None:
    """Its batch is sent again; three times in a row is once too often."""
    break_estimator(tuned, "os.path.exists('died') or (open('died', 'w').close(), os.kill(os.getpid(), 9))")
    output = tuned.stages("training.tune")
    assert output.count("loky failed (1 of 3 times)") == 1
    completed(trials(tuned), 4)
    tuned.replace("os.path.exists('died') or ", "")
    assert "tune: loky failed, for the reason above" in tuned.refusal("training.tune")
