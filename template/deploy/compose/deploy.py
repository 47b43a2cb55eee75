#!/usr/bin/env python3
"""Deploy to this server with Docker Compose. Needs Python and Docker only.

Two slots, blue and green: a new image starts in the standby slot, and the gateway switches to it once it is
healthy. The previous image keeps running, so a rollback takes no time. Before its promotion, an image can be
compared with the active one: as a shadow, which gets a copy of each request and serves no client, or as a
canary, which serves a share of the clients. Each command can be repeated, also after an interruption.
"""

import argparse
import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SERVICES = Path(__file__).with_name("compose.yaml")
GATEWAY = Path(__file__).with_name("nginx.conf")
NAME = SERVICES.read_text().partition("\nname: ")[2].partition("\n")[0]
STATE = Path(os.environ.get("STATE") or Path.home() / ".local/state" / NAME)
SLOTS = ("blue", "green")
CHALLENGER_PHASES = ("shadow", "canary", "promote")
RELOAD_TIMEOUT = 60  # seconds until the gateway must have replaced its workers
KEYS = {"active": "live", "phase": "doing"}  # names in state.json, so that the deploy.py of 0.2 reads it

Result = subprocess.CompletedProcess[str]


@dataclass
class State:
    """What runs in the slots.

    Attributes:
        active: The slot that serves the clients.
        images: Image of each slot in use.
        phase: Use of the standby slot; empty if it holds the previous image.
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

    def save(self) -> None:
        """Write the state; only what is set, so that an earlier deploy.py can read it."""
        values = {KEYS.get(name, name): value for name, value in vars(self).items() if value}
        write(STATE / "state.json", json.dumps(values))


def other_slot(slot: str | None) -> str:
    """Return the slot that is not `slot`; the first one if there is none."""
    return "green" if slot == "blue" else "blue"


def write(path: Path, text: str) -> None:
    """Write a file atomically."""
    draft = path.with_suffix(".new")
    draft.write_text(text)
    draft.replace(path)


def read() -> State:
    """Read the state; without a file, nothing is active."""
    path, names = STATE / "state.json", {key: name for name, key in KEYS.items()}
    try:
        values = json.loads(path.read_text())
        return State(**{names.get(key, key): value for key, value in values.items()})
    except FileNotFoundError:
        return State()
    except (AttributeError, OSError, TypeError, ValueError) as error:
        sys.exit(f"deploy: {path} cannot be read ({error}): use the deploy.py of the active model's commit")


@contextmanager
def locked() -> Generator[State]:
    """Read the state, for one process at a time."""
    STATE.mkdir(0o700, parents=True, exist_ok=True)
    (STATE / "gateway").mkdir(exist_ok=True)
    (STATE / "events").mkdir(exist_ok=True)
    (STATE / "events").chmod(0o1777)  # the image's user writes there, whoever runs this
    with (STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.set_inheritable(lock.fileno(), True)  # a child that outlives this process keeps the lock
        yield read()


def compose(state: State, *words: str) -> Result:
    """Run Docker Compose with the images of the slots."""
    images = {slot.upper(): image for slot, image in state.images.items()}
    environment = os.environ | images | {"STATE": str(STATE)}
    variables = STATE / "slots.env"  # settings that must not depend on the shell
    options = ["--env-file", str(variables)] if variables.exists() else []
    command = ["docker", "compose", "--file", str(SERVICES), *options, *words]
    try:
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, close_fds=False
        )
    except FileNotFoundError:
        sys.exit("deploy: docker is not on PATH")


def checked(result: Result) -> str:
    """Return a command's output, or exit with it if the command failed."""
    if result.returncode:
        sys.exit(f"deploy: {' '.join(result.args)} failed:\n{result.stdout}{result.stderr}")
    return result.stdout


def start(state: State, slot: str) -> None:
    """Start a slot's image and wait until it is healthy; otherwise exit with the end of its log."""
    result = compose(state, "up", "--detach", "--wait", slot)
    if result.returncode:
        log = compose(state, "logs", "--no-log-prefix", "--tail", "20", slot).stdout
        image, active = state.images[slot], state.image if slot == state.standby else None
        if slot == state.standby:
            remove_challenger(state)
        sys.exit(f"deploy: {image} does not start, {active or 'nothing'} is active\n{result.stderr}{log}")


def gateway_workers(state: State) -> set[str]:
    """Return the process ids of the gateway's workers that accept requests."""
    rows = [line.split() for line in checked(compose(state, "top", "gateway")).splitlines()]
    column = next(row.index("PID") for row in rows if "PID" in row)
    return {row[column] for row in rows if row[-2:] == ["worker", "process"]}


def gateway_configuration(slot: str, mode: str, share: float) -> str:
    """Fill in nginx.conf for an active slot; `mode` is "alone", "shadow" or "canary"."""
    values = {"LIVE": slot, "SPARE": other_slot(slot), "SHARE": f"{share:.2f}"}
    text = re.sub("|".join(values), lambda match: values[match[0]], GATEWAY.read_text())
    lines = ((line, re.search(r"# only: (\w+)", line)) for line in text.splitlines(keepends=True))
    return "".join(line for line, only in lines if only is None or only[1] == mode)


def switch(state: State, slot: str, mode: str = "alone") -> None:
    """Point the gateway to a slot and wait until workers of the former configuration accept nothing.

    They still finish the requests that they have accepted.
    """
    write(STATE / "gateway/nginx.conf", gateway_configuration(slot, mode, state.share))
    checked(compose(state, "up", "--detach", "--wait", "gateway"))
    former, end = gateway_workers(state), time.monotonic() + RELOAD_TIMEOUT
    checked(compose(state, "exec", "-T", "gateway", "nginx", "-c", "/etc/gateway/nginx.conf", "-s", "reload"))
    while former & gateway_workers(state):
        if time.monotonic() > end:
            log = compose(state, "logs", "gateway").stdout[-2000:]
            sys.exit(f"deploy: the gateway has not reloaded within {RELOAD_TIMEOUT} s\n{log}")
        time.sleep(0.1)


def empty_standby(state: State) -> None:
    """Stop the container of the standby slot."""
    compose(state, "rm", "--stop", "--force", state.standby)
    del state.images[state.standby]
    state.phase, state.share, state.since = "", 0, 0
    state.save()


def remove_challenger(state: State) -> None:
    """Send all requests to the active slot, then empty the other."""
    if state.active:
        switch(state, state.active)
    empty_standby(state)


def start_standby(state: State, image: str, phase: str) -> None:
    """Start an image in the standby slot, unless it runs there."""
    if state.active and state.standby_image not in (None, image):
        switch(state, state.active)  # no request may reach the slot while its image is replaced
    state.images[state.standby], state.phase = image, phase
    state.save()  # first: after an interruption, rollback must not return to this image
    start(state, state.standby)


def challenge(state: State, image: str, phase: str, share: float = 0) -> None:
    """Start an image as the shadow or canary of the active one."""
    if state.active is None or image == state.image:
        sys.exit(f"deploy: {state.image or 'nothing'} is active, so {image} cannot be its {phase}")
    if (image, phase, share) != (state.standby_image, state.phase, state.share):
        state.share, state.since = share, 0
    start_standby(state, image, phase)
    switch(state, state.active, phase)
    state.since = state.since or time.time()
    state.save()


def shadow(state: State, image: str) -> str:
    """Send an image a copy of each request."""
    challenge(state, image, "shadow")
    return f"{state.image} is active, {image} is its shadow"


def canary(state: State, share: float) -> str:
    """Let the challenger serve a share of the clients."""
    if state.challenger is None:
        sys.exit("deploy: there is no challenger; start one with `shadow IMAGE`")
    challenge(state, state.challenger, "canary", share)
    return f"{state.standby_image} serves {share:g} % of the clients, {state.image} the others"


def promote(state: State, image: str | None) -> str:
    """Make an image active, by default the challenger; the previous one stays in the standby slot."""
    image = image or state.challenger or state.image
    if image is None:
        sys.exit("deploy: there is no challenger; name the image: `promote IMAGE`")
    if state.active and image == state.image:
        start(state, state.active)
        switch(state, state.active)
        if state.phase:
            empty_standby(state)
    else:
        start_standby(state, image, "promote")
        switch(state, state.standby)
        state.active, state.phase, state.share, state.since = state.standby, "", 0, 0
        state.save()
    return f"{image} is active"


def rollback(state: State, image: str | None) -> str:
    """Remove the challenger or, without one, return to the previous image.

    With `image`, only if that image is the challenger or active.
    """
    if state.standby_image and state.phase and image in (None, state.standby_image):
        remove_challenger(state)
        return f"{state.image or 'nothing'} is still active"
    if image in (None, state.image):
        if state.active is None or state.standby_image is None or state.phase:
            sys.exit(f"deploy: {state.image or 'nothing'} is active, and there is no previous image")
        start(state, state.standby)
        switch(state, state.standby)
        state.active, state.phase = state.standby, "rollback"  # the image left is none to return to
        state.save()
        empty_standby(state)
        return f"{state.image} is active again"
    if state.active:  # an interrupted promotion may have switched the gateway
        switch(state, state.active, state.phase if state.phase in ("shadow", "canary") else "alone")
    return f"{state.image or 'nothing'} is still active"


def status(state: State, as_json: bool) -> str:
    """Describe slots, events and containers."""
    events = os.environ.get("EVENTS") or str(STATE / "events")
    if as_json:
        images = {"active": state.image, "challenger": state.challenger}
        return json.dumps(
            {**images, "phase": state.phase, "share": state.share, "since": state.since, "events": events}
        )
    notes = {"canary": f" at {state.share:g} %", "promote": ", interrupted", "rollback": ", interrupted"}
    use = state.phase + notes.get(state.phase, "") if state.phase else "previous"
    lines = [
        f"active: {state.image or 'none'}",
        f"{use}: {state.standby_image or 'none'}",
        f"events: {events}",
    ]
    print("\n".join(lines), flush=True)  # also if Docker does not respond
    return checked(compose(state, "ps")).strip()


def percentage(text: str) -> float:
    """Parse a percentage as nginx takes it, with two decimals."""
    share = round(float(text.removesuffix("%")), 2)
    if not 0 < share < 100:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 100 percent")
    return share


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Deploy to this server with Docker Compose.")
    add = parser.add_subparsers(dest="command", required=True).add_parser
    command = add("shadow", help="send an image a copy of each request; it serves no client")
    command.add_argument("argument", metavar="IMAGE", help="by digest: registry/name@sha256:…")
    command = add("canary", help="let the challenger, started as a shadow, serve a share of the clients")
    command.add_argument("argument", metavar="SHARE", type=percentage, help="percentage, such as 10")
    command = add("promote", help="make an image active once it is healthy; the previous one keeps running")
    command.add_argument("argument", metavar="IMAGE", nargs="?", help="by digest; default: the challenger")
    command = add("rollback", help="remove the challenger or, without one, return to the previous image")
    command.add_argument("--from", dest="argument", metavar="IMAGE", help="only if this image is in use")
    command = add("status", help="show the active image, the standby slot, events and containers")
    command.add_argument("--json", dest="argument", action="store_true", help="print JSON")
    return parser.parse_args()


def main() -> None:
    """Run a command."""
    arguments = parse_arguments()
    commands = {"shadow": shadow, "canary": canary, "promote": promote, "rollback": rollback}
    if arguments.command == "status":  # needs no lock: the state is written atomically
        print(status(read(), arguments.argument))
        return
    with locked() as state:
        print("deploy: " + commands[arguments.command](state, arguments.argument))


if __name__ == "__main__":
    main()
