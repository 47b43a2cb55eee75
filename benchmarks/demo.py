"""From nothing to a served prediction: renders a project and uses it as its owner would.

The steps are the project's own commands. `make demo` shows them; the benchmarks time them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any, TextIO
from urllib.request import ProxyHandler, Request, build_opener

import copier
import yaml
from copier.errors import CopierError

ROOT = Path(__file__).resolve().parent.parent
STARTS_WITHIN, STOPS_WITHIN = 60, 10
"""Seconds that a server gets."""
POLL = 0.05
SHOWN_LINES = 25
BOLD, DIM, RED, GREEN = 1, 2, 31, 32

# Run in the project's environment: the first row of the test split, and what came true of it.
FIRST_ROW = """
import json
import duckdb
from {package}.problem import CONTRACT

table = duckdb.sql("FROM 'data/splits/test.parquet' LIMIT 1")
row = dict(zip(table.columns, table.fetchall()[0]))
asked = {{column.name: row[column.name] for column in CONTRACT.features}}
print(json.dumps([asked, row[CONTRACT.target]], default=lambda time: time.isoformat()))
"""

# The loopback address is never asked for through a proxy.
fetch = build_opener(ProxyHandler({})).open


class StepError(Exception):
    """A command that did not work: which one, and the end of what it said."""

    def __init__(self, project: Path, step: str) -> None:
        """Quote the project's log."""
        log_lines = log(project).read_text(encoding="utf-8", errors="replace").splitlines()
        quoted = "\n".join(f"  | {line}" for line in log_lines[-SHOWN_LINES:])
        super().__init__(f"{step}\n{quoted}\nAll it said: {log(project)}")


@dataclass(frozen=True)
class Journey:
    """A project that was set up, trained and asked, and what it answered."""

    project: Path
    row: dict[str, Any]
    truth: Any
    answer: dict[str, Any]

    @property
    def metrics(self) -> dict[str, float]:
        """How good the model is on the test split."""
        return json.loads((self.project / "reports/metrics.json").read_text())

    @property
    def verdict(self) -> str:
        """What the gate says of it."""
        return json.loads((self.project / "reports/gate.json").read_text())["verdict"]


@dataclass
class Steps:
    """Times steps, and shows each as it begins and ends."""

    out: TextIO
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Generator[None]:
        """Time one step: the body of a `with`."""
        if self.out.isatty():
            print(f"  … {name}", end="\r", file=self.out, flush=True)
        start = time.perf_counter()
        try:
            yield
        except BaseException:
            self._end(name, start, paint(self.out, "✗", RED))
            raise
        self._end(name, start, paint(self.out, "✓", GREEN))

    def _end(self, name: str, start: float, sign: str) -> None:
        self.seconds[name] = time.perf_counter() - start
        print(f"  {sign} {name:<28}{duration(self.seconds[name]):>9}", file=self.out, flush=True)


def journey(folder: Path, use_case: str, steps: Steps) -> Journey:
    """Take a project the whole way: rendered into a folder of its own name, trained, asked."""
    with steps.step("render"):
        project = render(folder, use_case)
    for target in ("setup", "pipeline"):
        with steps.step(f"make {target}"):
            run(["make", target], project)
    port = free_port()
    with ExitStack() as stack:
        with steps.step("make serve, until ready"):
            command = ["make", "serve", f"PORT={port}"]
            stack.enter_context(serving(command, project, f"http://127.0.0.1:{port}/ready"))
        with steps.step("take the first test row"):
            row, truth = first_row(project)
        with steps.step("POST /predict"):
            answer = post(f"http://127.0.0.1:{port}/predict", row)
        with steps.step("stop the server"):
            stack.close()
    return Journey(project, row, truth, answer)


def render(folder: Path, use_case: str) -> Path:
    """Render the template as it stands, uncommitted changes included, in place of the last render."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # About those changes, and shallow clones.
        fresh = Path(temporary) / "project"
        copier.run_copy(
            str(ROOT),
            fresh,
            data={"use_case": use_case},
            defaults=True,
            quiet=True,
            unsafe=False,
            vcs_ref="HEAD",
        )
        if "." not in answers(fresh).get("_commit", "."):  # a hash alone: no tag was found
            print("This clone lacks its release tags, which updates need: run python -m hooks.release retag.")
        project = folder / answers(fresh)["package_name"].replace("_", "-")
        shutil.rmtree(project, ignore_errors=True)
        log(project).unlink(missing_ok=True)
        fresh.rename(project)
    # Of its own, for the repository around it may ignore this folder, and DVC then would too.
    run(["git", "init", "--quiet", "--initial-branch", "main"], project)
    return project


def first_row(project: Path) -> tuple[dict[str, Any], Any]:
    """What to ask, and what came true."""
    script = FIRST_ROW.format(package=answers(project)["package_name"])
    row, truth = json.loads(python(project, "-c", script))
    return row, truth


def python(project: Path, *args: str | Path) -> str:
    """Run Python in the project's environment; return what it prints."""
    command = [project / ".venv/bin/python", *args]
    with log(project).open("a", encoding="utf-8") as written:
        result = subprocess.run(
            command, cwd=project, env=environment(), stdout=subprocess.PIPE, stderr=written, text=True
        )
    if result.returncode:
        raise StepError(project, "a look at the test split failed")
    return result.stdout


def answers(project: Path) -> dict[str, Any]:
    """Read what a project was rendered with."""
    return yaml.safe_load((project / ".copier-answers.yml").read_text(encoding="utf-8"))


def log(project: Path) -> Path:
    """Where the output of a project's commands goes: beside it."""
    return project.with_name(f"{project.name}.log")


def run(command: Sequence[str], project: Path) -> None:
    """Run a command in the project to its end."""
    with started(command, project) as process:
        if process.wait():
            raise StepError(project, f"`{' '.join(command)}` ended with {process.returncode}")


@contextmanager
def serving(command: Sequence[str], project: Path, ready: str) -> Generator[subprocess.Popen[bytes]]:
    """Start a server, wait until the address `ready` answers, and stop it with the block."""
    with started(command, project) as process:
        deadline = time.monotonic() + STARTS_WITHIN
        while not is_there(ready):
            if process.poll() is not None or time.monotonic() > deadline:
                raise StepError(project, f"`{' '.join(command)}` does not answer")
            time.sleep(POLL)
        yield process


@contextmanager
def started(command: Sequence[str], project: Path) -> Generator[subprocess.Popen[bytes]]:
    """Start a command as a process group of its own, which ends with the block, come what may."""
    with log(project).open("a", encoding="utf-8") as out:
        print(f"\n$ {' '.join(command)}", file=out, flush=True)
        process = subprocess.Popen(
            command,
            cwd=project,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process group that `started` began."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, how)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOPS_WITHIN)


def environment() -> dict[str, str]:
    """The environment without what `make` and `uv run` added to it for this program."""
    dropped = {"VIRTUAL_ENV", "UV", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    return {name: value for name, value in os.environ.items() if name not in dropped}


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as candidate:
        candidate.bind(("127.0.0.1", 0))
        return candidate.getsockname()[1]


def is_there(address: str) -> bool:
    """Whether an address answers."""
    try:
        with fetch(address, timeout=1):
            return True
    except OSError:
        return False


def post(address: str, content: object) -> dict[str, Any]:
    """Post JSON; return the JSON that comes back."""
    request = Request(address, json.dumps(content).encode(), {"Content-Type": "application/json"})  # noqa: S310
    with fetch(request, timeout=10) as response:
        return json.load(response)


def paint(out: TextIO, text: str, style: int) -> str:
    """Text in a style, on a terminal."""
    plain = not out.isatty() or "NO_COLOR" in os.environ
    return text if plain else f"\x1b[{style}m{text}\x1b[0m"


def duration(seconds: float) -> str:
    """A time for people."""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def summary(journey: Journey, total: float) -> str:
    """What was made, what it said, and where to go from here."""
    where, log_file = (os.path.relpath(path) for path in (journey.project, log(journey.project)))
    metrics = ", ".join(f"{name} {value:.3f}" for name, value in journey.metrics.items())
    row = ", ".join(f"{name} {value}" for name, value in journey.row.items())
    (prediction,) = journey.answer["predictions"]

    def line(title: str, text: str) -> str:
        return f"{paint(sys.stdout, f'{title:<11}', BOLD)}{text}"

    return f"""\
    {"together":<28}{duration(total):>9}

{line("Project", where)} {paint(sys.stdout, f"(log: {log_file})", DIM)}
{line("Metrics", metrics)}
{line("Verdict", f"{journey.verdict} ({where}/reports/gate.md says why)")}
{line("Request", shorten(row, 88, placeholder=" …"))}
{line("Prediction", json.dumps(prediction))}
{line("Label", journey.truth)}

{paint(sys.stdout, "Next", BOLD)}
  cd {where}
  make help        # all commands
  make tune        # search hyperparameters
  make serve       # the model's API; its documentation is at http://127.0.0.1:8000/docs
  less README.md   # layout, and how to bring your own data
"""


def main() -> None:
    """Run the demo in `demo/`."""
    choices = yaml.safe_load((ROOT / "copier.yml").read_text(encoding="utf-8"))["use_case"]
    parser = argparse.ArgumentParser(
        prog="make demo", description="Render a project into demo/, train its model and ask it."
    )
    parser.add_argument(
        "--use-case",
        choices=choices["choices"].values(),
        default=choices["default"],
        help="which starter (default: %(default)s)",
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    print("From nothing to a served prediction\n")
    steps = Steps(sys.stdout)
    try:
        result = journey(ROOT / "demo", options.use_case, steps)
    except (StepError, CopierError, OSError) as failure:
        sys.exit(f"\n{failure}")
    except KeyboardInterrupt:
        sys.exit(130)
    print(summary(result, sum(steps.seconds.values())))


if __name__ == "__main__":
    main()
