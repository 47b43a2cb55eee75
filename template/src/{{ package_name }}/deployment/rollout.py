"""Progressive rollout of an image: shadow, canaries of growing share, promotion; rollback if a step fails.

    python -m <package>.deployment.rollout IMAGE
    python -m <package>.deployment.rollout IMAGE --until shadow

Calls the commands of `deploy/rollout.py`, on any target. Each step ends with an analysis of the predictions
(`deployment/analysis.py`). An image is rolled back if the analysis blocks it, or if the evidence is
insufficient after `rollout.minutes`. After an interruption, the next run continues. Exit codes: 0 success,
1 error, 2 blocked, 3 insufficient evidence.
"""

import argparse
import sys
import time
from datetime import UTC, datetime

from .. import declarations, params
from ..core.errors import ProjectError, cli
from ..evaluation.checks import Check, Verdict, checks_table
from .analysis import analyse, read, reasons
from .settings import Rollout, load_rollout
from .target import Status, deploy, read_status

EXIT_CODES: dict[Verdict, int] = {"block": 2, "keep": 3}
RESULTS: dict[Verdict, str] = {
    "block": "blocked",
    "keep": "insufficient evidence: see the warnings; rollout.minutes sets the time limit of a step",
}
Step = tuple[str, str]  # command of deploy/rollout.py, and its argument


def plan(image: str, status: Status, rollout: Rollout) -> list[Step]:
    """Plan the steps before the promotion.

    Args:
        image: The image to roll out.
        status: The server's status: steps that the image has passed are left out.
        rollout: `minutes` of 0 means a direct promotion.

    Returns:
        The steps; none if no other image is active.
    """
    is_challenger = status.challenger == image
    phase = status.phase if is_challenger else ""
    if not rollout.minutes or status.active in (None, image) or phase == "promote":
        return []
    passed = status.share - status.promises.share_step if is_challenger else 0  # the target rounds shares
    shares = [share for share in rollout.steps if share > passed]
    canaries = [("canary", f"{share:g}") for share in shares]
    return canaries if phase == "canary" else [("shadow", image), *canaries]


def analyse_phase(image: str, mode: str) -> tuple[Verdict, list[Check], float]:
    """Analyse the predictions since the phase began.

    Args:
        image: The challenger.
        mode: "shadow" or "canary".

    Returns:
        The verdict, its checks, and the start of the phase in seconds since 1970.

    Raises:
        ProjectError: Another command has ended the phase.
    """
    status = read_status()
    if (status.challenger, status.phase) != (image, mode):
        raise ProjectError(
            f"rollout: {image} is no longer the {mode}: another command of deploy/rollout.py ended it. "
            "Start the rollout again."
        )
    since = datetime.fromtimestamp(status.since, UTC).replace(tzinfo=None)
    responses = read(status.events, since, declarations.load().contract, mode, status.promises, status.share)
    return *analyse(responses), status.since


def run_step(step: Step, image: str, rollout: Rollout) -> Verdict:
    """Run a step and analyse it until there is enough evidence or its time is over.

    Args:
        step: The step.
        image: The challenger.
        rollout: Time limit and pause between two analyses.

    Returns:
        The verdict; "keep" if the evidence is insufficient.

    Raises:
        ProjectError: The command failed, or another command has ended the phase.
    """
    print(deploy(*step), file=sys.stderr, flush=True)
    verdict, checks, since = analyse_phase(image, step[0])
    while verdict == "keep" and time.time() < since + 60 * rollout.minutes:
        print(f"rollout: {step[0]}: {checks[-1].message}", file=sys.stderr, flush=True)
        time.sleep(rollout.poll_seconds)
        verdict, checks, since = analyse_phase(image, step[0])
    table = checks_table(checks, f"{params.load().gate.confidence_level:.0%} CI")
    print(f"### {' '.join(step)}: {verdict}\n\n{table}\n{reasons(checks)}\n", flush=True)
    return verdict


def main() -> None:
    """Roll out an image."""
    parser = argparse.ArgumentParser(description="Roll out an image: shadow, canary, promotion.")
    parser.add_argument("image", help="by digest: registry/name@sha256:…")
    parser.add_argument("--until", choices=["shadow"], help="last step; the next run continues after it")
    arguments = parser.parse_args()
    image, until = arguments.image, arguments.until
    if not image:
        raise ProjectError("rollout: the image is missing. Run: make rollout IMAGE=name@sha256:…")
    rollout = load_rollout()
    for step in plan(image, read_status(), rollout):
        if until in (None, step[0]):
            verdict = run_step(step, image, rollout)
            if verdict != "promote":
                output = deploy("rollback", "--from", image)
                print(f"rollout: {image}: {RESULTS[verdict]}\n\n{output}")
                sys.exit(EXIT_CODES[verdict])
    print(f"rollout: {image} passed" if until else deploy("promote", image))


if __name__ == "__main__":
    cli(main)
