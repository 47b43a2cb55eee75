"""How often monitor and rollout raise a false alarm, and how often they see a change, by simulation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from .demo import answers, python
from .lab import Lab
from .table import Row, Target

SIMULATION = Path(__file__).with_name("simulation.py")


def rows(lab: Lab) -> Iterator[Row]:
    """Shares of simulated windows and canaries, in a project's environment."""
    project = lab.journey.project
    package = answers(project)["package_name"]
    with lab.steps.step("simulate windows and canaries"):
        results = json.loads(python(project, SIMULATION, package))
    for case, shares in results["drift"].items():
        # The monitor promises the confidence level for warnings and alerts together.
        target = Target("≤", 1, "%") if "no change" in case else None
        yield Row(f"{case}: alert or warning", shares["any"], "%", target=target)
        yield Row(f"{case}: alert", shares["alert"], "%")
        yield Row(f"{case}: too few to tell", shares["too few"], "%")
    for case, shares in results["rollout"].items():
        target = Target("≤", 5, "%") if "A/A" in case else None
        client, request = shares["client"], shares["request"]
        yield Row(f"{case}: blocked", client["block"], "%", "a request as unit", request["block"], target)
        yield Row(f"{case}: not decided", client["keep"], "%", "a request as unit", request["keep"])
