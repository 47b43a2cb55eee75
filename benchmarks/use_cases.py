"""Each use case: from a copy to a prediction, and how good its first model is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import NamedTuple

import yaml

from .demo import ROOT, answers, journey, python, render, run
from .lab import Lab

# Run in the project's environment: the primary metric of the bundle, of the baseline and, if the raw rows
# know the true probability of the second label, of a model that knows it too, all for the same test rows.
SCORES = """
import importlib, json, sys
import duckdb, numpy as np

of = lambda name: importlib.import_module(f"{sys.argv[1]}.{name}")
problem, paths = of("declarations").load(), of("core.paths")
report = json.load(open("reports/gate.json"))
metric = problem.primary_kpi.metric
estimate = next(c["estimate"] for c in report["checks"] if (c["check"], c["subject"]) == ("kpi", metric))
scores = {key: estimate[key] for key in ("value", "low", "high")}
scores["baseline"] = json.load(open("reports/evaluation.json"))["baseline"].get(metric)
scores["best"] = None
if "true_probability" in duckdb.sql(f"FROM '{paths.RAW}/*.parquet' LIMIT 0").columns:
    keys = [f'"{name}"' for name in problem.contract.keys]
    equal = " AND ".join(f"test.{key}::VARCHAR = raw.{key}::VARCHAR" for key in keys)
    rows = f"SELECT *, row_number() OVER () AS place FROM '{paths.TEST}'"
    joined = f"({rows}) AS test JOIN '{paths.RAW}/*.parquet' AS raw ON {equal} ORDER BY place"
    (known,) = duckdb.sql(f"SELECT true_probability::DOUBLE FROM {joined}").fetchnumpy().values()
    test = problem.read_split(paths.TEST)
    assert len(known) == len(test), "a test row has no raw row of its key, or several"
    metrics = of("stats.metrics").make_metrics(problem.contract, [metric], problem.custom_metrics)
    outputs = np.column_stack([1 - known, known])
    scores["best"] = float(metrics[metric](test.observations, outputs, test.observations.unit_counts)[0])
print(json.dumps({"metric": metric, "verdict": report["verdict"]} | scores))
"""


class UseCase(NamedTuple):
    """A line of the table."""

    use_case: str
    seconds: float
    scores: dict[str, float | str | None]
    """The primary metric of model, baseline and generator; None if the baseline or the truth has none."""

    header = (
        "use case",
        "copy → prediction",
        "primary metric",
        "model (95 % interval)",
        "baseline",
        "best possible",
        "verdict",
    )

    @property
    def cells(self) -> tuple[str, ...]:
        """The line as text."""
        scores = self.scores
        return (
            self.use_case,
            f"{self.seconds:.0f} s",
            str(scores["metric"]),
            "{value:.3f} ({low:.3f} to {high:.3f})".format(**scores),
            _number(scores["baseline"]),
            _number(scores["best"]),
            str(scores["verdict"]),
        )


def _number(value: object) -> str:
    """Write a figure that may be unknown."""
    return f"{value:.3f}" if isinstance(value, float) else "-"


def rows(lab: Lab) -> Iterator[UseCase]:
    """Take each use case the whole way, with a warm package cache."""
    for use_case in yaml.safe_load((ROOT / "copier.yml").read_text())["use_case"]["choices"].values():
        with lab.steps.step(f"{use_case}: warm the package cache"):
            run(["make", "setup"], render(lab.folder / "throwaway", use_case))
        shutil.rmtree(lab.folder / "throwaway")
        lab.steps.seconds.clear()
        project = journey(lab.folder / "use-cases", use_case, lab.steps).project
        seconds = sum(lab.steps.seconds.values())
        scores = json.loads(python(project, "-c", SCORES, answers(project)["package_name"]))
        yield UseCase(use_case, seconds, scores)
        shutil.rmtree(project)  # the environment of one has gigabytes
