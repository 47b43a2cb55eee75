"""The target that images are rolled out to: its commands, its status and what it promises."""

import sys
from pathlib import Path

import msgspec

from ..core.shell import call

COMMAND = Path("deploy/rollout.py")


class Promises(msgspec.Struct, frozen=True):
    """What the target can promise (see `Promises` in `deploy/rollout.py`).

    Attributes:
        copied: Share of the requests that a shadow gets a copy of, above 0 and up to 1.
        paired: Whether a copy keeps the id of its request.
        sticky: Whether a client keeps its model until the canary's share changes.
        fallback: Whether the active image serves a request that the canary fails.
        share_step: Shares of a canary are multiples of this, in percent.
    """

    copied: float = 1
    paired: bool = True
    sticky: bool = True
    fallback: bool = True
    share_step: float = 0.01


COMPLETE = Promises()  # of a gateway of our own


class Status(msgspec.Struct):
    """Output of `deploy/rollout.py status --json`.

    Attributes:
        active: The image that serves the clients.
        challenger: The image that is rolled out.
        phase: "shadow", "canary", "promote" or empty.
        share: Percentage of the clients that the canary serves.
        since: Start of the phase, seconds since 1970.
        events: Folder or address of the events.
        promises: What the target can promise.
    """

    active: str | None
    challenger: str | None
    phase: str
    share: float
    since: float
    events: str
    promises: Promises = COMPLETE


def deploy(*words: str) -> str:
    """Run a command of `deploy/rollout.py`.

    Args:
        *words: The command and its arguments.

    Returns:
        Its output.

    Raises:
        ProjectError: It failed.
    """
    return call(sys.executable, COMMAND, *words)


def read_status() -> Status:
    """Ask the target for its status.

    Returns:
        The status.

    Raises:
        ProjectError: The command failed.
    """
    return msgspec.json.decode(deploy("status", "--json"), type=Status)
