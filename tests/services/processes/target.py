"""A toy target: servers on this machine, behind a small proxy. It promises little.

IMAGE is the name of a JSON file in the folder IMAGES, with the environment of the server.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

from rollout import SLOTS, Mode, Promises, State, TargetError, other_slot

STATE, IMAGES, PORT = Path(os.environ["STATE"]), Path(os.environ["IMAGES"]), int(os.environ["PORT"])
PORTS = {"proxy": PORT, "blue": PORT + 1, "green": PORT + 2}
SERVER = ("-m", "uvicorn", "--factory", "wrapper:create_app", "--no-access-log", "--port")
TIMEOUT = 10  # seconds until a server must be ready


class Target:
    """A process for each slot and for the proxy; files for the state, the routes and the processes."""

    promises = Promises(copied=0.5, paired=False, sticky=False, fallback=False, share_step=1, lossless=True)
    events = str(STATE / "events")

    @contextmanager
    def lock(self) -> Generator[None]:
        """Wait for the lock."""
        STATE.mkdir(parents=True, exist_ok=True)
        with (STATE / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def load(self) -> State:
        """Read the state."""
        return State(**read("state"))

    def save(self, state: State) -> None:
        """Write the state."""
        write("state", vars(state))

    def start(self, state: State, slot: str) -> None:
        """Start the server of a slot, unless it runs, and wait until it is ready."""
        image = IMAGES / f"{state.images[slot]}.json"
        if not image.exists():
            raise TargetError(f"{image} cannot be read")
        if read(slot).get("image") != image.name or not is_ready(slot):
            self.stop(state, slot)
            spawn(slot, image.name, json.loads(image.read_text()), *SERVER, PORTS[slot])

    def route(self, state: State, slot: str, mode: Mode) -> None:
        """Write the routes, which the proxy reads at each request."""
        share = {"alone": 0, "shadow": self.promises.copied, "canary": state.share / 100}[mode]
        ports = {"champion": PORTS[slot], "challenger": PORTS[other_slot(slot)]}
        write("routes", ports | {"mode": mode, "share": share})
        if not is_ready("proxy"):
            spawn("proxy", "", {}, Path(__file__).with_name("proxy.py"), PORT, STATE / "routes.json")

    def stop(self, state: State, slot: str) -> None:
        """Let a process finish its requests, and end it."""
        with suppress(KeyError, ProcessLookupError):
            os.kill(read(slot)["pid"], signal.SIGTERM)
        while is_ready(slot):
            time.sleep(0.05)
        (STATE / f"{slot}.json").unlink(missing_ok=True)

    def remove(self) -> None:
        """End all processes."""
        for name in ("proxy", *SLOTS):
            self.stop(State(), name)

    def describe(self, state: State) -> str:
        """Show the processes."""
        return "\n".join(f"{name}: {'ready' if is_ready(name) else 'not ready'}" for name in PORTS)


def write(name: str, values: dict) -> None:
    """Write a file atomically."""
    draft = STATE / f"{name}.new"
    draft.write_text(json.dumps(values))
    draft.replace(STATE / f"{name}.json")


def read(name: str) -> dict:
    """Read a file; empty if it is missing."""
    path = STATE / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def is_ready(name: str) -> bool:
    """Whether a process answers."""
    with (
        suppress(OSError),
        build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{PORTS[name]}/ready", timeout=5),
    ):
        return True
    return False


def spawn(name: str, image: str, variables: dict[str, str], *words: object) -> None:
    """Start a process that outlives this one, and wait until it answers; else raise with its last words."""
    environment, log = os.environ | {"EVENTS": Target.events} | variables, STATE / f"{name}.log"
    with log.open("w") as out:
        command = [sys.executable, *map(str, words)]
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    write(name, {"pid": process.pid, "image": image})
    end = time.monotonic() + TIMEOUT
    while not is_ready(name):
        if process.poll() is not None or time.monotonic() > end:
            raise TargetError(f"{image or name} is not ready\n{log.read_text()[-2000:]}")
        time.sleep(0.1)
