#!/usr/bin/env python3
"""Deploy to this server with Docker Compose. Needs Python and Docker alone.

Two slots, blue and green: a new image starts in the one that does not answer, and the gateway turns to it
once it is healthy. The other keeps running, so that going back takes no time. Every verb may be repeated,
also after it was interrupted.
"""

import argparse
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

SERVICES = Path(__file__).with_name("compose.yaml")
GATEWAY = Path(__file__).with_name("nginx.conf")
NAME = SERVICES.read_text().partition("\nname: ")[2].partition("\n")[0]
STATE = Path(os.environ.get("STATE") or Path.home() / ".local/state" / NAME)
SLOTS = ("blue", "green")

Done = subprocess.CompletedProcess[str]


@dataclass
class State:
    """What is in the slots, and which of them answers."""

    live: str | None = None
    images: dict[str, str] = field(default_factory=dict)

    @property
    def image(self) -> str | None:
        """The image that answers."""
        return self.images.get(self.live or "")

    @property
    def spare(self) -> str:
        """The slot that does not answer."""
        return SLOTS[self.live == SLOTS[0]]

    def save(self) -> None:
        """Write it, whole or not at all."""
        draft = STATE / "state.new"
        draft.write_text(json.dumps(asdict(self)))
        draft.replace(STATE / "state.json")


@contextmanager
def locked() -> Generator[State]:
    """The state, for one process at a time."""
    (STATE / "gateway").mkdir(parents=True, exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = STATE / "state.json"
        yield State(**json.loads(path.read_text())) if path.exists() else State()


def compose(state: State, *words: str) -> Done:
    """Run Docker Compose on the server's services."""
    images = {slot.upper(): image for slot, image in state.images.items()}
    environment = os.environ | images | {"STATE": str(STATE / "gateway")}
    command = ["docker", "compose", "--file", str(SERVICES), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def must(done: Done) -> str:
    """What a command said; if it failed, the end, with what it said."""
    if done.returncode:
        sys.exit(f"deploy: {' '.join(done.args)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def start(state: State, slot: str) -> None:
    """Start a slot's image and wait until it is healthy; if it does not get there, say its last words."""
    done = compose(state, "up", "--detach", "--wait", slot)
    if done.returncode:
        said = compose(state, "logs", "--no-log-prefix", "--tail", "20", slot).stdout
        image = empty(state, slot)
        sys.exit(f"deploy: {image} does not start, {state.image or 'nothing'} answers\n{done.stderr}{said}")


def workers(state: State) -> set[str]:
    """Numbers of the gateway's processes that take requests."""
    rows = [line.split() for line in must(compose(state, "top", "gateway")).splitlines()]
    number = next(row.index("PID") for row in rows if "PID" in row)
    return {row[number] for row in rows if row[-2:] == ["worker", "process"]}


def turn(state: State, slot: str) -> None:
    """Turn the gateway to a slot; requests under way are still answered where they went.

    When this is done, no request goes elsewhere: processes of before have stopped taking any.
    """
    (STATE / "gateway/nginx.conf").write_text(GATEWAY.read_text().replace("LIVE", slot))
    must(compose(state, "up", "--detach", "--wait", "gateway"))
    before = workers(state)
    must(compose(state, "exec", "-T", "gateway", "nginx", "-c", "/etc/gateway/nginx.conf", "-s", "reload"))
    while before & workers(state):
        time.sleep(0.1)
    state.live = slot
    state.save()


def empty(state: State, slot: str) -> str:
    """Stop what is in a slot and forget it; give its image."""
    compose(state, "rm", "--stop", "--force", slot)
    image = state.images.pop(slot)
    state.save()
    return image


def promote(state: State, image: str) -> str:
    """Let an image answer; the one before stays, to go back to."""
    slot = state.live if state.live and state.image == image else state.spare
    state.images[slot] = image
    state.save()
    start(state, slot)
    turn(state, slot)
    return f"{image} answers"


def rollback(state: State, image: str | None) -> str:
    """Go back to the image before; with `image` given, only from that one."""
    if image in (None, state.image):
        if state.live is None or state.spare not in state.images:
            sys.exit(f"deploy: {state.image or 'nothing'} answers, and nothing was before it to go back to")
        left = state.live
        start(state, state.spare)
        turn(state, state.spare)
        empty(state, left)
        return f"{state.image} answers again"
    if state.live:  # the gateway may have been turned by a promotion that was cut off
        turn(state, state.live)
    if state.images.get(state.spare) == image:
        empty(state, state.spare)
    return f"{state.image or 'nothing'} answers, as before"


def status(state: State) -> str:
    """What answers, what it would go back to, and how the containers are."""
    lines = [f"answers: {state.image}", f"before: {state.images.get(state.spare)}"]
    return "\n".join([*lines, compose(state, "ps").stdout.strip()])


def main() -> None:
    parser = argparse.ArgumentParser(description="Deploy to this server with Docker Compose.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("promote", help="let an image answer, once it is healthy")
    one.add_argument("image", help="by digest: registry/name@sha256:…")
    back = verbs.add_parser("rollback", help="let the image before answer again")
    back.add_argument("--from", dest="image", metavar="IMAGE", help="do nothing if another one answers")
    verbs.add_parser("status", help="what answers, and how the containers are")
    asked = parser.parse_args()
    with locked() as state:
        if asked.verb == "status":
            print(status(state))
        else:
            print("deploy: " + {"promote": promote, "rollback": rollback}[asked.verb](state, asked.image))


if __name__ == "__main__":
    main()
