"""The pipeline through DVC, against its bare stages one after another."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import yaml

from .lab import Lab, cost, medians
from .table import Row, Target

ROUNDS = 3
MADE = (".params", "data", "models", "reports", "dvc.lock", ".dvc/cache", ".dvc/tmp")


def rows(lab: Lab) -> Iterator[Row]:
    """Time the pipeline from scratch both ways, then with nothing to do."""
    project = lab.journey.project
    package = project.name.replace("-", "_")
    with lab.steps.step(f"pipeline from scratch, {ROUNDS} times"):
        bare, through = medians(ROUNDS, lambda: stages(project), lambda: through_dvc(project))
    with lab.steps.step("pipeline with nothing to do"):
        (nothing,) = medians(ROUNDS, lambda: run(project, "dvc", "repro"))
    with lab.steps.step("gate"):
        (gate,) = medians(ROUNDS, lambda: run(project, "python", "-m", f"{package}.evaluation.gate"))
    yield Row("dvc repro", through, "s", "bare stages", bare, Target("≤", 1.5, "x"))
    yield Row("dvc repro, nothing to do", nothing, "s", target=Target("≤", 1, "s"))
    yield Row("gate, after a run that was judged before", gate, "s", "dvc repro", through)


def stages(project: Path) -> float:
    """Seconds of the stages from scratch, without DVC."""
    clean(project)
    described = yaml.safe_load((project / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return sum(run(project, *shlex.split(stage["cmd"])) for stage in described.values())


def through_dvc(project: Path) -> float:
    """Seconds of the stages from scratch, through DVC."""
    clean(project)
    return run(project, "dvc", "repro")


def run(project: Path, *command: str) -> float:
    """Seconds of a command in the project's environment."""
    path = f"PATH={project / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"
    return cost(["env", path, *command], project).seconds


def clean(project: Path) -> None:
    """Remove what the pipeline makes, and what DVC remembers of it."""
    for name in MADE:
        path = project / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
