"""The target "this server": Docker Compose, with nginx as the gateway. Needs Python and Docker only."""

import fcntl
import json
import os
import re
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from rollout import Mode, Promises, State, TargetError, other_slot

SERVICES = Path(__file__).with_name("compose.yaml")
GATEWAY = Path(__file__).with_name("nginx.conf")
NAME = SERVICES.read_text().partition("\nname: ")[2].partition("\n")[0]
STATE = Path(os.environ.get("STATE") or Path.home() / ".local/state" / NAME)
RELOAD_TIMEOUT = 60  # seconds until the gateway must have replaced its workers
KEYS = {"active": "live", "phase": "doing"}  # names in state.json, so that the deploy.py of 0.2 reads it

Result = subprocess.CompletedProcess[str]


class Target:
    """Containers for the slots and the gateway, a file for the state, a folder for the events."""

    promises = Promises(copied=1, paired=True, sticky=True, fallback=True, share_step=0.01, lossless=True)
    events = os.environ.get("EVENTS") or str(STATE / "events")

    @contextmanager
    def lock(self) -> Generator[None]:
        """Wait for the lock; create the folders."""
        STATE.mkdir(0o700, parents=True, exist_ok=True)
        (STATE / "gateway").mkdir(exist_ok=True)
        (STATE / "events").mkdir(exist_ok=True)
        (STATE / "events").chmod(0o1777)  # the image's user writes there, whoever runs this
        with (STATE / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.set_inheritable(lock.fileno(), True)  # a child that outlives this process keeps the lock
            yield

    def load(self) -> State:
        """Read the state; without a file, nothing is active."""
        path, names = STATE / "state.json", {key: name for name, key in KEYS.items()}
        try:
            values = json.loads(path.read_text())
            return State(**{names.get(key, key): value for key, value in values.items()})
        except FileNotFoundError:
            return State()
        except (AttributeError, OSError, TypeError, ValueError) as error:
            raise TargetError(
                f"{path} cannot be read ({error}): run this command of the active model's commit"
            ) from None

    def save(self, state: State) -> None:
        """Write the state; only what is set, so that an earlier deploy.py can read it."""
        values = {KEYS.get(name, name): value for name, value in vars(state).items() if value}
        write(STATE / "state.json", json.dumps(values))

    def start(self, state: State, slot: str) -> None:
        """Start a slot's image and wait until it is healthy; otherwise raise with the end of its log."""
        result = compose(state, "up", "--detach", "--wait", slot)
        if result.returncode:
            log = compose(state, "logs", "--no-log-prefix", "--tail", "20", slot).stdout
            raise TargetError(f"{result.stderr}{log}")

    def route(self, state: State, slot: str, mode: Mode) -> None:
        """Point the gateway to a slot and wait until workers of the former configuration accept nothing.

        They still finish the requests that they have accepted.
        """
        write(STATE / "gateway/nginx.conf", gateway_configuration(slot, mode, state.share))
        # A running gateway keeps its container, even if an update changes it: a new one would lose requests.
        checked(compose(state, "up", "--detach", "--wait", "--no-recreate", "gateway"))
        former, end = gateway_workers(state), time.monotonic() + RELOAD_TIMEOUT
        reload = ("nginx", "-c", "/etc/gateway/nginx.conf", "-s", "reload")
        checked(compose(state, "exec", "-T", "gateway", *reload))
        while former & gateway_workers(state):
            if time.monotonic() > end:
                log = compose(state, "logs", "gateway").stdout[-2000:]
                raise TargetError(f"the gateway has not reloaded within {RELOAD_TIMEOUT} s\n{log}")
            time.sleep(0.1)

    def stop(self, state: State, slot: str) -> None:
        """Remove the container of a slot."""
        checked(compose(state, "rm", "--stop", "--force", slot))

    def remove(self) -> None:
        """Remove all containers and their network."""
        checked(compose(State(), "down", "--volumes"))

    def describe(self, state: State) -> str:
        """List the containers."""
        return checked(compose(state, "ps"))


def write(path: Path, text: str) -> None:
    """Write a file atomically."""
    draft = path.with_suffix(".new")
    draft.write_text(text)
    draft.replace(path)


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
        raise TargetError("docker is not on PATH") from None


def checked(result: Result) -> str:
    """Return a command's output, or raise with it if the command failed."""
    if result.returncode:
        raise TargetError(f"{' '.join(result.args)} failed:\n{result.stdout}{result.stderr}")
    return result.stdout


def gateway_workers(state: State) -> set[str]:
    """Return the process ids of the gateway's workers that accept requests."""
    rows = [line.split() for line in checked(compose(state, "top", "gateway")).splitlines()]
    column = next(row.index("PID") for row in rows if "PID" in row)
    return {row[column] for row in rows if row[-2:] == ["worker", "process"]}


def gateway_configuration(slot: str, mode: Mode, share: float) -> str:
    """Fill in nginx.conf for an active slot."""
    values = {"LIVE": slot, "SPARE": other_slot(slot), "SHARE": f"{share:.2f}"}
    text = re.sub("|".join(values), lambda match: values[match[0]], GATEWAY.read_text())
    lines = ((line, re.search(r"# only: (\w+)", line)) for line in text.splitlines(keepends=True))
    return "".join(line for line, only in lines if only is None or only[1] == mode)
