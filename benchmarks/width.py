"""The whole pipeline of a wide table, and how the time of the bundle grows with the width."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from .demo import answers
from .lab import Cost, Lab, cost
from .table import Row, Target

WIDTHS = (64, 512, 2000)
N_ROWS = 20_000
STAGES = (
    "declarations",
    "data.ingest",
    "data.validate",
    "data.split",
    "training.train",
    "model.build",
    "evaluation.evaluate",
    "evaluation.gate",
)
PROBLEM = '''
"""A wide table: five of its columns decide the label."""

from .contract import Column, Contract
from .contract.expectations import Kpi, ModelCardInfo

WIDTH, N_ROWS = {width}, {n_rows}
NUMBERS = tuple(Column(f"x{{index}}", "number", nullable=index % 10 == 0) for index in range(WIDTH))
CONTRACT = Contract(
    task="classification",
    key="id",
    target="y",
    columns=(Column("id", "text"), Column("y", "category", categories=("no", "yes")), *NUMBERS),
)
KPIS = (Kpi("roc_auc", "at least", 0.6, "nobody", "A benchmark.", primary=True),)
MODEL_CARD = ModelCardInfo("A benchmark.", "Elsewhere.", "Drawn at random.", "CC0")


def sample():
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(0)
    values = random.normal(size=(N_ROWS, WIDTH)).round(3)
    is_positive = values[:, :5].sum(axis=1) + random.normal(size=N_ROWS) > 0
    frame = pd.DataFrame(values, columns=[column.name for column in NUMBERS])
    return frame.assign(id=[f"r{{row}}" for row in range(N_ROWS)], y=np.where(is_positive, "yes", "no"))


def estimator(seed, **settings):
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(random_state=seed, early_stopping=False, **settings)
'''


def rows(lab: Lab) -> Iterator[Row]:
    """Time all stages at each width."""
    costs = {width: stages(lab, width) for width in WIDTHS}
    narrow, *_, wide = WIDTHS
    for width, measured in costs.items():
        seconds = sum(part.seconds for part in measured.values())
        peak = max(part.peak_gib for part in measured.values())
        target = Target("≤", 180, "s") if width == wide else None
        memory = Target("≤", 4, "GiB") if width == wide else None
        yield Row(f"{width:,} columns, {N_ROWS:,} rows: pipeline and gate", seconds, "s", target=target)
        yield Row(f"{width:,} columns, {N_ROWS:,} rows: peak memory", peak, "GiB", target=memory)
        build, first = measured["model.build"].seconds, costs[narrow]["model.build"].seconds
        peer = (f"{narrow} columns", first) if width > narrow else ("", None)
        yield Row(f"{width:,} columns: bundle", build, "s", *peer)


def stages(lab: Lab, width: int) -> dict[str, Cost]:
    """Run every stage in a copy of the project, with a table of this width."""
    package = answers(lab.journey.project)["package_name"]
    project = copy_project(lab, width, package)
    command = ("env", "PYTHONPATH=src", lab.journey.project / ".venv/bin/python", "-m")
    costs = {}
    for name in STAGES:
        with lab.steps.step(f"{width:,} columns: {name}"):
            costs[name] = cost([*command, f"{package}.{name}"], project)
    shutil.rmtree(project)
    return costs


def copy_project(lab: Lab, width: int, package: str) -> Path:
    """Copy what the stages need of the project, and declare the wide table."""
    project = lab.folder / f"width-{width}"
    (project / "reports").mkdir(parents=True)
    for folder in ("src", ".git"):
        shutil.copytree(lab.journey.project / folder, project / folder)
    shutil.copy(lab.journey.project / ".copier-answers.yml", project)
    (project / "params.yaml").write_text("gate: {max_calibration_error: 1}\n")
    problem = PROBLEM.format(width=width, n_rows=N_ROWS).lstrip()
    (project / "src" / package / "problem.py").write_text(problem, encoding="utf-8")
    return project
