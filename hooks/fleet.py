"""Keep many projects current: show which release each has, or update each on a branch of its own.

    python -m hooks.fleet status|update [--template ADDRESS …] fleet.yaml

A fleet is a YAML list of repositories: git addresses, or paths relative to the list. An entry can name a
branch to update instead of the default one:

    - git@example.com:acme/churn.git
    - {repository: ../demand, branch: develop}

Only projects of this template are updated: their `_src_path` is the folder of this clone, its origin, or an
address added with --template. Nothing of another template runs, not even with --trust.

Projects are cloned into temporary folders, so working folders stay untouched. An interrupted run can be
repeated: a branch that was pushed is not created again.
"""

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

ANSWERS = ".copier-answers.yml"
ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "template/src"
UPDATE = (
    sys.executable,
    "-m",
    "{{ package_name }}.automation.update",
    "--quiet",
)  # this clone's program, because older projects may lack it
UNCHANGED = "update: nothing was changed"  # printed after the error of an update
HOSTS = {"gh:": "https://github.com/", "gl:": "https://gitlab.com/"}
"""Abbreviations of addresses that Copier accepts."""
SAFE = r"(?:[\w.:%-]+@)?(?P<host>[\w.-]+(?::\d+)?)/+(?P<path>[\w./~+-]+)"
REMOTE = re.compile(rf"(?:https|ssh)://{SAFE}|[\w.-]+@(?P<machine>[\w.-]+):(?P<place>[\w./~+-]+)", re.ASCII)
CLONE = ("git", "clone", "--quiet", "--origin=origin", f"--config=core.excludesFile={os.devnull}")
COLUMNS = ("project", "release", "days", "newest", "result")


class FleetError(Exception):
    """A project needs attention: the first line is the reason, the rest its details."""


@dataclass(frozen=True)
class Options:
    """The command line."""

    command: str
    fleet: Path
    templates: set[str]
    jobs: int
    test: list[str]
    minutes: float
    trust: bool


@dataclass(frozen=True)
class Project:
    """An entry of the list."""

    repository: str
    branch: str | None = None


@dataclass
class Row:
    """Result of a project: a row of the table."""

    project: str
    release: str = ""
    days: int | str = ""
    """Days since the project was updated to its release."""
    newest: str = ""
    result: str = "not visited"
    good: bool = False


def read(path: Path) -> list[Project]:
    """Read a fleet.

    Raises:
        FleetError: The file is missing, is no list, or an entry is no repository.
    """
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(entries, list):
            raise TypeError(f"{entries!r} is none")
        return [Project(entry) if isinstance(entry, str) else Project(**entry) for entry in entries]
    except (OSError, yaml.YAMLError, TypeError) as error:
        form = "a YAML list of paths, addresses, or {repository: …, branch: …}"
        raise FleetError(f"{path} must be {form}: {error}") from None


def run(*command: str | Path, folder: Path, minutes: float = 10, **environment: str) -> str:
    """Run a command without input, and return its output.

    Raises:
        FleetError: It is not installed, failed, or exceeded its time limit; then its children end too.
    """
    name = " ".join(word for word in command if isinstance(word, str))[:60]
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | {"GIT_TERMINAL_PROMPT": "0"} | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise FleetError(f"{name}: {error}") from None
    try:
        output, errors = process.communicate(timeout=60 * minutes)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise FleetError(f"{name}: stopped after {minutes:g} minutes") from None
    if process.returncode:
        log = f"{output}{errors}".strip() or f"{name}: exit code {process.returncode}"
        lines = [line for line in log.splitlines() if line != UNCHANGED]
        raise FleetError(f"{lines[-1]}\n{log}")
    return output.strip()


def recorded(folder: Path, name: str) -> str:
    """Read an answer of a project: `_src_path`, its template's address, or `_commit`, its release."""
    try:
        return yaml.safe_load((folder / ANSWERS).read_text(encoding="utf-8"))[name]
    except (OSError, yaml.YAMLError, TypeError, KeyError):
        raise FleetError(f"{ANSWERS} names no release of a template") from None


def canonical(address: str) -> str:
    """Normalise an address: https also for ssh, an absolute path, or unchanged if it is a relative path."""
    address = HOSTS.get(address[:3], address[:3]) + address[3:]
    address = address.removeprefix("git+").removeprefix("file://").rstrip("/").removesuffix(".git")
    if match := REMOTE.fullmatch(address):
        return f"https://{(match['host'] or match['machine']).lower()}/{match['path'] or match['place']}"
    path = Path(address).expanduser()
    return str(path.resolve()) if path.is_absolute() else address


def own_templates(*addresses: str) -> set[str]:
    """Return the addresses of this template: its folder, its origin, and additional ones."""
    try:
        origin = run("git", "config", "--get", "remote.origin.url", folder=ROOT)
    except FleetError:  # the clone has no origin
        origin = str(ROOT)
    return {canonical(address) for address in (str(ROOT), origin, *addresses)}


def run_update(options: Options, folder: Path) -> str:
    """Update a clone like `make update`, and return the output.

    Raises:
        FleetError: It failed, or there are conflicts.
    """
    trust = ("--trust",) if options.trust else ()
    try:
        # Python must not import modules of the project's folder.
        return run(*UPDATE, *trust, folder=folder, PYTHONPATH=str(SOURCES), PYTHONSAFEPATH="1")
    except FleetError:
        if conflicts := run("git", "diff-files", "--name-only", "--diff-filter=U", folder=folder):
            raise FleetError(f"conflicts: {', '.join(conflicts.splitlines())}") from None
        raise


def update(project: Project, options: Options, row: Row, folder: Path) -> str:
    """Update a clone of a project, fill in its row, and push what passes the tests as a branch.

    Raises:
        FleetError: The tests fail, or the project cannot be updated automatically.
    """
    start = ("--branch", project.branch) if project.branch else ()
    run(*CLONE, *start, project.repository, folder, folder=options.fleet.parent)
    row.release = recorded(folder, "_commit")
    source = str(recorded(folder, "_src_path"))
    if canonical(source) not in options.templates:
        raise FleetError(f"another template: {source}")
    taken = run("git", "log", "-1", "--no-show-signature", "--format=%ct", "--", ANSWERS, folder=folder)
    row.days = int((time.time() - int(taken)) / 86_400)
    try:
        report = run_update(options, folder)
    finally:
        row.newest = recorded(folder, "_commit")
    branch = f"template/{row.newest.removeprefix('v')}"
    if row.newest == row.release:
        return "current"
    if run("git", "branch", "--remotes", "--list", f"origin/{branch}", folder=folder):
        return f"pushed before: {branch}"
    if options.command == "status":
        return "no conflict"
    run("git", "add", "--all", folder=folder)  # because hooks check tracked files
    run(*options.test, folder=folder, minutes=options.minutes)
    run("git", "add", "--all", folder=folder)
    run("git", "commit", "--quiet", f"--message=Template {row.newest}", f"--message={report}", folder=folder)
    run("git", "push", "--quiet", "origin", f"HEAD:refs/heads/{branch}", folder=folder)
    return f"pushed: {branch}"


def visit(project: Project, options: Options, row: Row) -> None:
    """Run the command for one project in a temporary folder; an error concerns this project only."""
    detail = ""
    with TemporaryDirectory(prefix="fleet-", ignore_cleanup_errors=True) as folder:
        try:
            row.result, row.good = update(project, options, row, Path(folder) / "project"), True
        except FleetError as error:
            row.result, _, detail = str(error).partition("\n")
    # In one call, because other threads write too.
    sys.stderr.write(f"{row.project}: {row.result}\n{detail}".strip() + "\n")


def table(rows: list[Row]) -> str:
    """Format the rows in columns."""
    cells = [COLUMNS, *(tuple(str(vars(row)[column]) for column in COLUMNS) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


def parse_arguments() -> Options:
    """Read the command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m hooks.fleet", description=__doc__, formatter_class=form)
    commands = "status pushes nothing and runs no tests; update runs the projects' tests, in your environment"
    parser.add_argument("command", choices=("status", "update"), help=commands)
    parser.add_argument("fleet", type=Path, help="the YAML list")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="projects at once (%(default)s)")
    test = "make setup check test"
    parser.add_argument("--test", type=shlex.split, default=test, help="must succeed (%(default)s)")
    parser.add_argument("--minutes", type=float, default=60, help="its time limit (%(default)s)")
    parser.add_argument("--trust", action="store_true", help="run the migrations of this template")
    another = "additional address of this template in `_src_path` of projects"
    parser.add_argument("--template", action="append", default=[], metavar="ADDRESS", help=another)
    arguments = vars(parser.parse_args())
    return Options(templates=own_templates(*arguments.pop("template")), **arguments)


def main() -> int:
    """Run the command for every project; return 1 if one needs attention."""
    options = parse_arguments()
    try:
        projects = read(options.fleet)
    except FleetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    rows = [Row(project.repository) for project in projects]
    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            pairs = zip(projects, rows, strict=True)
            wait([pool.submit(visit, project, options, row) for project, row in pairs])
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)  # those under way end
    print(table(rows))
    return 0 if all(row.good for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
