#!/usr/bin/env python3
"""Roll out an image step by step, and roll it back, on the deployment's target.

Two slots, blue and green: a new image starts in the standby slot, and requests go to it once it is healthy.
The previous image keeps running, so a rollback takes no time. Before its promotion, an image can be compared
with the active one: as a shadow, which gets copies of requests and serves no client, or as a canary, which
serves a share of the clients. A target is the class `Target` in the one `deploy/*/target.py`.

Each command can be repeated, also after it was interrupted anywhere. Exit codes: 0 done; 1 the target failed,
and its last words are on stderr; 2 invalid arguments; 3 refused, nothing was changed.
"""

import argparse
import json
import sys
import time
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Literal, Protocol

SLOTS = ("blue", "green")
CHALLENGER_PHASES = ("shadow", "canary", "promote")
Mode = Literal["alone", "shadow", "canary"]


class RolloutError(Exception):
    """A command did not succeed."""

    exit_code = 1


class TargetError(RolloutError):
    """The target did not do its part; the message has its last words. The command can be repeated."""


class RefusedError(RolloutError):
    """The command does not fit the state. Nothing was changed."""

    exit_code = 3


@dataclass(frozen=True)
class Promises:
    """What a target can promise. People see it in the status; the analysis of a rollout relies on it.

    Attributes:
        copied: Share of the requests that a shadow gets a copy of, above 0 and up to 1.
        paired: Whether a copy keeps the id of its request.
        sticky: Whether a client keeps its model until the canary's share changes.
        fallback: Whether the active image serves a request that the canary fails.
        share_step: Shares of a canary are multiples of this, in percent.
        lossless: Whether no request fails while a command switches images.
    """

    copied: float
    paired: bool
    sticky: bool
    fallback: bool
    share_step: float
    lossless: bool

    def __str__(self) -> str:
        """Describe them in a line."""
        flags = {
            "pairs": self.paired,
            "sticky clients": self.sticky,
            "fallback": self.fallback,
            "lossless switch": self.lossless,
        }
        words = [word if is_kept else f"no {word}" for word, is_kept in flags.items()]
        return ", ".join([f"{self.copied:.0%} copied", *words, f"shares in steps of {self.share_step:g} %"])


@dataclass
class State:
    """What runs in the slots.

    Attributes:
        active: The slot that serves the clients.
        images: Image of each slot in use.
        phase: Use of the standby slot; empty if it holds the previous image. Or "remove", of everything.
        share: Percentage of the clients that the canary serves.
        since: Start of the phase, seconds since 1970.
    """

    active: str | None = None
    images: dict[str, str] = field(default_factory=dict)
    phase: str = ""
    share: float = 0
    since: float = 0

    @property
    def image(self) -> str | None:
        """The active image."""
        return self.images.get(self.active or "")

    @property
    def standby(self) -> str:
        """The other slot."""
        return other_slot(self.active)

    @property
    def standby_image(self) -> str | None:
        """The image in the standby slot."""
        return self.images.get(self.standby)

    @property
    def challenger(self) -> str | None:
        """The image that is being rolled out."""
        return self.standby_image if self.phase in CHALLENGER_PHASES else None


def other_slot(slot: str | None) -> str:
    """Return the slot that is not `slot`; the first one if there is none."""
    return "green" if slot == "blue" else "blue"


class Target(Protocol):
    """Where images run.

    Each method may be repeated, has finished its work when it returns, and raises `TargetError` if it cannot.

    Attributes:
        promises: What it can promise.
    """

    promises: Promises

    @property
    def events(self) -> str:
        """Folder or address of the prediction events."""

    def lock(self) -> AbstractContextManager[None]:
        """Let one command at a time change anything: wait for the other one, or raise."""

    def load(self) -> State:
        """Read the state, without the lock; `State()` at first."""

    def save(self, state: State) -> None:
        """Write the state: as a whole, or not at all."""

    def start(self, state: State, slot: str) -> None:
        """Start the image of a slot, and wait until it is healthy."""

    def route(self, state: State, slot: str, mode: Mode) -> None:
        """Send requests to a slot; no new one goes anywhere else once this returns.

        Args:
            state: The state; `state.share` is the canary's.
            slot: The slot that serves the clients.
            mode: "alone", or with the other slot as its "shadow" or "canary".
        """

    def stop(self, state: State, slot: str) -> None:
        """Stop what runs in a slot; it finishes the requests that it has accepted."""

    def remove(self) -> None:
        """Remove everything that runs or costs; the events stay."""

    def describe(self, state: State) -> str:
        """Describe what runs, for people."""


@dataclass
class Rollout:
    """The commands, in the order of a rollout.

    Attributes:
        target: Where images run.
        state: Its state. It is saved before an act that it must know of, and after one that has changed it.
    """

    target: Target
    state: State

    def shadow(self, image: str) -> str:
        """Send an image copies of requests."""
        self.challenge(image, "shadow", 0)
        return f"{self.state.image} is active, {image} is its shadow"

    def canary(self, share: float) -> str:
        """Let the challenger serve a share of the clients, in percent."""
        image, step = self.state.challenger, self.target.promises.share_step
        if image is None:
            raise RefusedError("there is no challenger; start one with `shadow IMAGE`")
        share = round(min(max(round(share / step), 1), round(100 / step) - 1) * step, 4)
        self.challenge(image, "canary", share)
        return f"{image} serves {share:g} % of the clients, {self.state.image} the others"

    def promote(self, image: str | None) -> str:
        """Make an image active, by default the challenger; the previous one stays in the standby slot."""
        state = self.state
        image = image or state.challenger or state.image
        if image is None:
            raise RefusedError("there is no challenger; name the image: `promote IMAGE`")
        if state.active and image == state.image:
            self.target.start(state, state.active)
            self.route(state.active)
            if state.phase:
                self.empty_standby()
        else:
            self.occupy_standby(image, "promote", state.standby, "alone")
            state.active, state.phase, state.share, state.since = state.standby, "", 0, 0
            self.target.save(state)
        return f"{image} is active"

    def rollback(self, image: str | None) -> str:
        """Remove the challenger or, without one, return to the previous image.

        With `image`, only if that image is the challenger or active.
        """
        state = self.state
        if state.standby_image and state.phase and image in (None, state.standby_image):
            return self.abort()
        if image in (None, state.image):
            if state.active is None or state.standby_image is None or state.phase:
                raise RefusedError(f"{state.image or 'nothing'} is active, and there is no previous image")
            self.target.start(state, state.standby)
            self.route(state.standby)
            state.active, state.phase = state.standby, "rollback"  # the image left is none to return to
            self.target.save(state)
            self.empty_standby()
            return f"{state.image} is active again"
        if state.active and state.phase not in ("shadow", "canary"):
            self.route(state.active)  # an interrupted promotion may have switched
        return f"{state.image or 'nothing'} is still active"

    def abort(self) -> str:
        """Remove the challenger, if there is one. The active image stays."""
        if self.state.active:
            self.route(self.state.active)
        if self.state.standby_image and self.state.phase:
            self.empty_standby()
        return f"{self.state.image or 'nothing'} is still active"

    def remove(self, confirmed: bool) -> str:
        """Remove everything from the target but the events: nothing serves, and nothing costs."""
        if self.state.image and not confirmed:
            raise RefusedError(f"{self.state.image} serves clients. To stop it as well: `remove --yes`")
        self.state.phase = "remove"
        self.target.save(self.state)
        self.target.remove()
        self.state = State()
        self.target.save(self.state)
        return f"nothing is left; events are kept in {self.target.events}"

    def challenge(self, image: str, phase: Literal["shadow", "canary"], share: float) -> None:
        """Start an image as the shadow or canary of the active one."""
        state = self.state
        if state.active is None or image == state.image:
            raise RefusedError(f"{state.image or 'nothing'} is active, so {image} cannot be its {phase}")
        if (image, phase, share) != (state.standby_image, state.phase, state.share):
            state.share, state.since = share, 0
        self.occupy_standby(image, phase, state.active, phase)
        state.since = state.since or time.time()
        self.target.save(state)

    def occupy_standby(self, image: str, phase: str, slot: str, mode: Mode) -> None:
        """Start an image in the standby slot and route requests; if that fails, empty the slot."""
        state = self.state
        if state.active and state.standby_image not in (None, image):
            self.route(state.active)  # no request may reach the slot while its image is replaced
        state.images[state.standby], state.phase = image, phase
        self.target.save(state)  # first: after an interruption, rollback must not return to this image
        try:
            self.target.start(state, state.standby)
            self.route(slot, mode)
        except TargetError as error:
            with suppress(TargetError):  # the target may be out of reach
                self.abort()
            rest = ". It could not be removed: run `abort`" if state.standby_image else ""
            active = state.image or "nothing"
            raise TargetError(f"{phase}: {image} failed, {active} is active{rest}\n{error}") from None

    def route(self, slot: str, mode: Mode = "alone") -> None:
        """Send requests to a slot."""
        self.target.route(self.state, slot, mode)

    def empty_standby(self) -> None:
        """Stop what runs in the standby slot, which gets no requests, and forget it."""
        self.target.stop(self.state, self.state.standby)
        self.state.images.pop(self.state.standby, None)
        self.state.phase, self.state.share, self.state.since = "", 0, 0
        self.target.save(self.state)


def status(target: Target, as_json: bool) -> str:
    """Describe slots, events, promises and what runs; without the lock."""
    state = target.load()
    if as_json:
        images = {"active": state.image, "challenger": state.challenger, "events": target.events}
        values = {name: getattr(state, name) for name in ("phase", "share", "since")}
        return json.dumps(images | values | {"promises": asdict(target.promises)})
    notes = {"canary": f" at {state.share:g} %", "shadow": ""}
    use = state.phase + notes.get(state.phase, ", interrupted") if state.phase else "previous"
    lines = [
        f"active: {state.image or 'none'}",
        f"{use}: {state.standby_image or 'none'}",
        f"events: {target.events}",
        f"promises: {target.promises}",
    ]
    print("\n".join(lines), flush=True)  # also if the target does not respond
    return target.describe(state).strip()


def run(target: Target, command: str, argument: object) -> str:
    """Run a command.

    Args:
        target: Where images run.
        command: Name of the command.
        argument: Its argument; None if it has none.

    Returns:
        What is true now, in one sentence; the description for "status".

    Raises:
        RolloutError: It failed, or does not fit the state.
    """
    if command == "status":
        return status(target, bool(argument))
    with target.lock():
        rollout = Rollout(target, target.load())
        if rollout.state.phase == "remove" and command != "remove":
            raise RefusedError("its removal was interrupted: repeat `remove --yes`")
        method = getattr(rollout, command)
        return "deploy: " + (method() if command == "abort" else method(argument))


def load_target() -> Target:
    """Find the target: the one folder that has a `target.py`."""
    paths = sorted(Path(__file__).parent.glob("*/target.py"))
    if len(paths) != 1:
        names = ", ".join(path.parent.name for path in paths) or "none"
        raise RefusedError(f"{Path(__file__).parent} must have one folder with a target.py, has: {names}")
    sys.path.insert(0, str(paths[0].parent))
    return import_module("target").Target()


def percentage(text: str) -> float:
    """Parse a percentage."""
    share = float(text.removesuffix("%"))
    if not 0 < share < 100:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 100 percent")
    return share


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    codes = "exit codes: 0 done, 1 the target failed, 2 invalid arguments, 3 refused"
    parser = argparse.ArgumentParser(description="Roll out an image.", epilog=codes)
    add = parser.add_subparsers(dest="command", required=True).add_parser
    command = add("shadow", help="send an image copies of requests; it serves no client")
    command.add_argument("argument", metavar="IMAGE", help="by digest: registry/name@sha256:…")
    command = add("canary", help="let the challenger, started as a shadow, serve a share of the clients")
    command.add_argument("argument", metavar="PERCENT", type=percentage, help="percentage, such as 10")
    command = add("promote", help="make an image active once it is healthy; the previous one keeps running")
    command.add_argument("argument", metavar="IMAGE", nargs="?", help="by digest; default: the challenger")
    command = add("rollback", help="remove the challenger or, without one, return to the previous image")
    command.add_argument("--from", dest="argument", metavar="IMAGE", help="only if this image is in use")
    command = add("abort", help="remove the challenger; the active image stays")
    command.set_defaults(argument=None)
    command = add("remove", help="remove everything but the events: nothing serves any more")
    command.add_argument("--yes", dest="argument", action="store_true", help="also if an image is active")
    command = add("status", help="show the active image, the standby slot, events and what runs")
    command.add_argument("--json", dest="argument", action="store_true", help="print JSON")
    return parser.parse_args()


def main() -> None:
    """Run the command of the command line."""
    arguments = parse_arguments()
    try:
        print(run(load_target(), arguments.command, arguments.argument))
    except RolloutError as error:
        print(f"deploy: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    sys.modules["rollout"] = sys.modules["__main__"]  # a target imports this very module
    main()
