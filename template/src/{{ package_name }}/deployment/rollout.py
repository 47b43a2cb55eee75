"""The trial: an image becomes a shadow, then a canary of growing share, and answers everybody if all is well.

    python -m <package>.deployment.rollout IMAGE
    python -m <package>.deployment.rollout IMAGE --until shadow

Runs on the server. After each step, `deployment/analysis.py` judges what was answered; an image that is
blocked, or that shows too little in `rollout.minutes`, is taken back. Exit codes: 0, it passed; 1, an
error; 2, it is blocked; 3, it is unproven. What was cut off goes on where it was.
"""

import argparse
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from .. import declarations
from ..core.errors import ProjectError, cli
from ..core.shell import call
from ..evaluation.checks import Check, Verdict, checks_table
from .analysis import judge, read
from .settings import Rollout, load_rollout

DEPLOY = Path("deploy/compose/deploy.py")
CODES: dict[Verdict, int] = {"block": 2, "keep": 3}
ENDS: dict[Verdict, str] = {
    "block": "it is blocked",
    "keep": "it is unproven: more requests, time (rollout.minutes) or a look at the answers could prove it",
}
Step = tuple[str, str]  # a verb of the server's, and of what


class Standing(msgspec.Struct):
    """What the server says of itself."""

    answers: str | None
    challenger: str | None
    doing: str
    share: float
    since: float
    events: str


def deploy(*words: str) -> str:
    """Give the server an order; what it said."""
    return call(sys.executable, DEPLOY, *words)


def standing() -> Standing:
    """How things are on the server."""
    return msgspec.json.decode(deploy("status", "--json"), type=Standing)


def steps(image: str, now: Standing, settings: Rollout) -> list[Step]:
    """What is left to take before the image may answer everybody; nothing, if nothing else answers."""
    shares = [share for share in settings.steps if now.challenger != image or share >= now.share]
    canary = [("canary", f"{share:g}") for share in shares]
    doing = now.doing if now.challenger == image else ""
    if not settings.minutes or now.answers in (None, image) or doing == "promote":
        return []
    return canary if doing == "canary" else [("shadow", image), *canary]


def look(image: str, mode: str) -> tuple[Verdict, list[Check], float]:
    """The verdict so far, with its checks, and since when requests come.

    Raises:
        ProjectError: somebody else ended the trial.
    """
    now = standing()
    if (now.challenger, now.doing) != (image, mode):
        raise ProjectError(f"trial: {image} is the {mode} no more, the server was given another order")
    since = datetime.fromtimestamp(now.since, UTC).replace(tzinfo=None)
    verdict, checks = judge(read(now.events, since, declarations.load().contract, mode == "shadow"))
    return verdict, checks, now.since


def take(step: Step, image: str, settings: Rollout) -> Verdict:
    """Take a step, and wait for its verdict."""
    print(deploy(*step), file=sys.stderr, flush=True)
    verdict, checks, since = look(image, step[0])
    while verdict == "keep" and time.time() < since + 60 * settings.minutes:
        print(f"trial: {step[0]}: {checks[-1].message}", file=sys.stderr, flush=True)
        time.sleep(settings.poll_seconds)
        verdict, checks, since = look(image, step[0])
    print(f"### {' '.join(step)}: {verdict}\n\n{checks_table(checks)}\n", flush=True)
    return verdict


def main() -> None:
    parser = argparse.ArgumentParser(description="Let an image answer everybody, if a trial speaks for it.")
    parser.add_argument("image", help="by digest: registry/name@sha256:…")
    parser.add_argument("--until", choices=["shadow"], help="stop there; the next run goes on")
    asked = parser.parse_args()
    if not asked.image:
        raise ProjectError("trial: say which image: make rollout IMAGE=name@sha256:…")
    settings = load_rollout()
    for step in steps(asked.image, standing(), settings):
        if asked.until in (None, step[0]):
            verdict = take(step, asked.image, settings)
            if verdict != "promote":
                back = deploy("rollback", "--from", asked.image)
                print(f"trial: {asked.image}: {ENDS[verdict]}\n\n{back}")
                sys.exit(CODES[verdict])
    print("trial: nothing speaks against it" if asked.until else deploy("promote", asked.image))


if __name__ == "__main__":
    cli(main)
