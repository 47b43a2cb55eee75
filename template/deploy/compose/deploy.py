#!/usr/bin/env python3
"""Deploy to this server with Docker Compose. Needs Python and Docker alone.

Two slots, blue and green: a new image starts in the one that does not answer, and the gateway turns to it
once it is healthy. The other keeps running, so that going back takes no time. Before that, an image may be
tried there as a challenger: as a shadow, which gets a copy of each request and answers nobody, or as a
canary, which answers a share of the clients. Every verb may be repeated, also after it was interrupted.
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
from dataclasses import asdict, dataclass, field
from pathlib import Path

SERVICES = Path(__file__).with_name("compose.yaml")
GATEWAY = Path(__file__).with_name("nginx.conf")
NAME = SERVICES.read_text().partition("\nname: ")[2].partition("\n")[0]
STATE = Path(os.environ.get("STATE") or Path.home() / ".local/state" / NAME)
SLOTS = ("blue", "green")
TRIALS = ("shadow", "canary", "promote")
PATIENCE = 60  # seconds that the gateway may take to turn

Done = subprocess.CompletedProcess[str]


@dataclass
class State:
    """What is in the slots, and which of them answers."""

    live: str | None = None
    images: dict[str, str] = field(default_factory=dict)
    doing: str = ""  # what the spare slot is used for; nothing: it keeps the image before
    share: float = 0  # percentage of the clients that a canary answers
    since: float = 0  # when the challenger came to be asked as it is, in seconds since 1970

    @property
    def image(self) -> str | None:
        """The image that answers."""
        return self.images.get(self.live or "")

    @property
    def spare(self) -> str:
        """The slot that does not answer."""
        return SLOTS[self.live == SLOTS[0]]

    @property
    def other(self) -> str | None:
        """The image in the spare slot."""
        return self.images.get(self.spare)

    @property
    def challenger(self) -> str | None:
        """The image that is tried."""
        return self.other if self.doing in TRIALS else None

    def save(self) -> None:
        """Write it, whole or not at all."""
        # Without what is not in use, so that an earlier model's deploy.py can read it.
        write(STATE / "state.json", json.dumps({name: it for name, it in asdict(self).items() if it}))


def write(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    draft = path.with_suffix(".new")
    draft.write_text(text)
    draft.replace(path)


def read() -> State:
    """The state, as the last command left it; nothing answers, if there was none."""
    path = STATE / "state.json"
    try:
        return State(**json.loads(path.read_text()))
    except FileNotFoundError:
        return State()
    except (OSError, TypeError, ValueError) as error:  # cut off, or of a newer model's deploy.py
        sys.exit(f"deploy: {path} cannot be read ({error}): use the deploy.py of the model that answers")


@contextmanager
def locked() -> Generator[State]:
    """The state, for one process at a time."""
    STATE.mkdir(0o700, parents=True, exist_ok=True)
    (STATE / "gateway").mkdir(exist_ok=True)
    (STATE / "events").mkdir(exist_ok=True)
    (STATE / "events").chmod(0o1777)  # the image's user writes there, whoever runs this
    with (STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.set_inheritable(lock.fileno(), True)  # a command that outlives this process keeps others waiting
        yield read()


def compose(state: State, *words: str) -> Done:
    """Run Docker Compose on the server's services."""
    images = {slot.upper(): image for slot, image in state.images.items()}
    environment = os.environ | images | {"STATE": str(STATE)}
    kept = STATE / "slots.env"  # variables that are not to be lost with the shell that set them
    options = ["--env-file", str(kept)] if kept.exists() else []
    command = ["docker", "compose", "--file", str(SERVICES), *options, *words]
    try:
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, close_fds=False
        )
    except FileNotFoundError:
        sys.exit("deploy: docker is not on PATH")


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
        image, answers = state.images[slot], state.image if slot == state.spare else None
        if slot == state.spare:
            clear(state)
        sys.exit(f"deploy: {image} does not start, {answers or 'nothing'} answers\n{done.stderr}{said}")


def workers(state: State) -> set[str]:
    """Numbers of the gateway's processes that take requests."""
    rows = [line.split() for line in must(compose(state, "top", "gateway")).splitlines()]
    number = next(row.index("PID") for row in rows if "PID" in row)
    return {row[number] for row in rows if row[-2:] == ["worker", "process"]}


def gateway(slot: str, mode: str, share: float) -> str:
    """The gateway's configuration: a slot answers `alone`, or with the other as its shadow or canary."""
    words = {"LIVE": slot, "SPARE": SLOTS[slot == SLOTS[0]], "SHARE": f"{share:.2f}"}
    text = re.sub("|".join(words), lambda found: words[found[0]], GATEWAY.read_text())
    lines = ((line, re.search(r"# only: (\w+)", line)) for line in text.splitlines(keepends=True))
    return "".join(line for line, only in lines if only is None or only[1] == mode)


def turn(state: State, slot: str, mode: str = "alone") -> None:
    """Turn the gateway to a slot; requests under way are still answered where they went.

    When this is done, no request goes elsewhere: processes of before have stopped taking any.
    """
    write(STATE / "gateway/nginx.conf", gateway(slot, mode, state.share))
    must(compose(state, "up", "--detach", "--wait", "gateway"))
    before, end = workers(state), time.monotonic() + PATIENCE
    must(compose(state, "exec", "-T", "gateway", "nginx", "-c", "/etc/gateway/nginx.conf", "-s", "reload"))
    while before & workers(state):
        if time.monotonic() > end:
            sys.exit(f"deploy: the gateway does not turn\n{compose(state, 'logs', 'gateway').stdout[-2000:]}")
        time.sleep(0.1)


def empty(state: State) -> None:
    """Stop what is in the spare slot and forget it."""
    compose(state, "rm", "--stop", "--force", state.spare)
    del state.images[state.spare]
    state.doing, state.share, state.since = "", 0, 0
    state.save()


def clear(state: State) -> None:
    """Empty the spare slot, when it is asked no more."""
    if state.live:
        turn(state, state.live)
    empty(state)


def occupy(state: State, image: str, doing: str) -> None:
    """Start an image in the spare slot, if it is not there already."""
    if state.live and state.other not in (None, image):
        turn(state, state.live)  # nobody is asked in the slot while images are exchanged
    state.images[state.spare], state.doing = image, doing
    state.save()  # before anything is started: what is in the slot is no image to go back to
    start(state, state.spare)


def challenge(state: State, image: str, doing: str, share: float = 0) -> None:
    """Let requests come to an image in the spare slot, as the shadow or canary of the one that answers."""
    if state.live is None or image == state.image:
        sys.exit(f"deploy: {state.image or 'nothing'} answers, so {image} cannot be its {doing}")
    if (image, doing, share) != (state.other, state.doing, state.share):
        state.share, state.since = share, 0
    occupy(state, image, doing)
    turn(state, state.live, doing)
    state.since = state.since or time.time()
    state.save()


def shadow(state: State, image: str) -> str:
    """Let an image get a copy of each request, and answer nobody."""
    challenge(state, image, "shadow")
    return f"{state.image} answers, {image} is its shadow"


def canary(state: State, share: float) -> str:
    """Let the challenger answer a share of the clients."""
    if state.challenger is None:
        sys.exit("deploy: there is no challenger; `shadow IMAGE` starts one")
    challenge(state, state.challenger, "canary", share)
    return f"{state.other} answers {share:g} % of the clients, {state.image} the others"


def promote(state: State, image: str | None) -> str:
    """Let an image answer, or the challenger; the one before stays, to go back to."""
    image = image or state.challenger or state.image
    if image is None:
        sys.exit("deploy: there is no challenger; say which image")
    if state.live and image == state.image:
        start(state, state.live)
        turn(state, state.live)
        if state.doing:
            empty(state)
        return f"{image} answers"
    occupy(state, image, "promote")
    turn(state, state.spare)
    state.live, state.doing, state.share, state.since = state.spare, "", 0, 0
    state.save()
    return f"{image} answers"


def rollback(state: State, image: str | None) -> str:
    """End what is under way, or go back to the image before; with `image` given, only from that one."""
    if state.other and state.doing and image in (None, state.other):
        clear(state)
        return f"{state.image or 'nothing'} answers, as before"
    if image in (None, state.image):
        if state.live is None or state.other is None or state.doing:
            sys.exit(f"deploy: {state.image or 'nothing'} answers, and nothing was before it to go back to")
        start(state, state.spare)
        turn(state, state.spare)
        state.live, state.doing = state.spare, "rollback"  # what is spare now is no image to go back to
        state.save()
        empty(state)
        return f"{state.image} answers again"
    if state.live:  # the gateway may have been turned by a promotion that was cut off
        turn(state, state.live, state.doing if state.doing in ("shadow", "canary") else "alone")
    return f"{state.image or 'nothing'} answers, as before"


def status(state: State, as_json: bool) -> str:
    """What answers, what else there is, where events lie, and how the containers are."""
    events = os.environ.get("EVENTS") or str(STATE / "events")
    if as_json:
        known = {"answers": state.image, "challenger": state.challenger, "events": events}
        return json.dumps(known | {name: getattr(state, name) for name in ("doing", "share", "since")})
    notes = {"canary": f" of {state.share:g} %", "promote": ", unfinished", "rollback": ", unfinished"}
    use = state.doing + notes.get(state.doing, "") if state.doing else "before"
    lines = [f"answers: {state.image or 'nothing'}", f"{use}: {state.other}", f"events: {events}"]
    print("\n".join(lines), flush=True)  # also where Docker cannot be asked
    return must(compose(state, "ps")).strip()


def percentage(text: str) -> float:
    """A share that the gateway can keep."""
    share = round(float(text.removesuffix("%")), 2)
    if not 0 < share < 100:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 100 percent")
    return share


def arguments() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description="Deploy to this server with Docker Compose.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    add = verbs.add_parser
    one = add("shadow", help="let an image get a copy of each request, and answer nobody")
    one.add_argument("what", metavar="IMAGE", help="by digest: registry/name@sha256:…")
    one = add("canary", help="let the challenger, started as a shadow, answer a share of the clients")
    one.add_argument("what", metavar="SHARE", type=percentage, help="percentage of the clients, such as 10")
    one = add("promote", help="let an image answer, once it is healthy; the image before stays at hand")
    one.add_argument("what", metavar="IMAGE", nargs="?", help="by digest; the challenger, if none is given")
    one = add("rollback", help="end a shadow or canary; if there is none, let the image before answer again")
    one.add_argument("--from", dest="what", metavar="IMAGE", help="do nothing if another one is meant")
    one = add("status", help="what answers, what is tried or kept, and how the containers are")
    one.add_argument("--json", dest="what", action="store_true", help="for machines")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    verbs = {"shadow": shadow, "canary": canary, "promote": promote, "rollback": rollback}
    if asked.verb == "status":  # reads only: what is written is written whole, so it needs no lock
        print(status(read(), asked.what))
        return
    with locked() as state:
        print("deploy: " + verbs[asked.verb](state, asked.what))


if __name__ == "__main__":
    main()
