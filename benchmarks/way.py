"""The way from nothing to a served prediction, step by step."""

from __future__ import annotations

from collections.abc import Iterator

from .demo import render, run
from .lab import Lab
from .table import Row, Target


def rows(lab: Lab) -> Iterator[Row]:
    """Time the demo's steps with a warm package cache, then the project's own tests."""
    with lab.steps.step("warm the package cache"):
        run(["make", "setup"], render(lab.folder / "throwaway", "churn"))
    before = set(lab.steps.seconds)
    project = lab.journey.project
    steps = {name: took for name, took in lab.steps.seconds.items() if name not in before}
    for name, took in steps.items():
        yield Row(f"way: {name}", took, "s")
    yield Row("way: copy → served prediction", sum(steps.values()), "s", target=Target("≤", 60, "s"))
    with lab.steps.step("make test"):
        run(["make", "test"], project)
    yield Row("the project's own tests", lab.steps.seconds["make test"], "s", target=Target("≤", 20, "s"))
