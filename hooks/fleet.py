"""Keep many projects current: say how far behind each is, or update each on a branch of its own.

    python -m hooks.fleet status|update [--template ADDRESS …] fleet.yaml

A fleet is a YAML list of repositories: addresses, or paths from where the list is. A branch other than
the default one to start from stands beside it:

    - git@example.com:acme/churn.git
    - {repository: ../demand, branch: develop}

Only projects of this template are updated: those that name the folder of this clone, its origin, or an
address given by --template. Of another template, nothing is run, --trust or not.

Projects are cloned into temporary folders: nobody's working folder is touched. Nothing is remembered but
what git keeps: a branch that was pushed is not made again, so a run that was cut off is simply repeated.
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
)  # older projects may have none
UNCHANGED = "update: nothing was changed"  # printed after the error of an update
HOSTS = {"gh:": "https://github.com/", "gl:": "https://gitlab.com/"}
"""How Copier lets an address begin."""
SAFE = r"(?:[\w.:%-]+@)?(?P<host>[\w.-]+(?::\d+)?)/+(?P<path>[\w./~+-]+)"
REMOTE = re.compile(rf"(?:https|ssh)://{SAFE}|[\w.-]+@(?P<machine>[\w.-]+):(?P<place>[\w./~+-]+)", re.ASCII)
CLONE = ("git", "clone", "--quiet", "--origin=origin", f"--config=core.excludesFile={os.devnull}")
COLUMNS = ("project", "release", "days", "newest", "result")


class FleetError(Exception):
    """What somebody has to look at: in one line, then in full."""


@dataclass(frozen=True)
class Order:
    """The command line."""

    verb: str
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
    """What became of a project: a row of the table."""

    project: str
    release: str = ""
    days: int | str = ""
    """Since it took that release."""
    newest: str = ""
    result: str = "not visited"
    good: bool = False


def read(path: Path) -> list[Project]:
    """Read a fleet.

    Raises:
        FleetError: it is not there, is no list, or an entry is no repository.
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
    """What a command said. It can ask nobody, and does not take for ever.

    Raises:
        FleetError: it is not there, it failed, or it was stopped with all that it had started.
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
    """Read what a project remembers: `_src_path`, its template's address, or `_commit`, its release."""
    try:
        return yaml.safe_load((folder / ANSWERS).read_text(encoding="utf-8"))[name]
    except (OSError, yaml.YAMLError, TypeError, KeyError):
        raise FleetError(f"{ANSWERS} names no release of a template") from None


def canonical(address: str) -> str:
    """Write an address in one way: https for ssh too, a full path, or as it is (a path from a project)."""
    address = HOSTS.get(address[:3], address[:3]) + address[3:]
    address = address.removeprefix("git+").removeprefix("file://").rstrip("/").removesuffix(".git")
    if match := REMOTE.fullmatch(address):
        return f"https://{(match['host'] or match['machine']).lower()}/{match['path'] or match['place']}"
    path = Path(address).expanduser()
    return str(path.resolve()) if path.is_absolute() else address


def own_templates(*addresses: str) -> set[str]:
    """Give the addresses of this template: its folder, its origin, and others that were named."""
    try:
        origin = run("git", "config", "--get", "remote.origin.url", folder=ROOT)
    except FleetError:  # it has none
        origin = str(ROOT)
    return {canonical(address) for address in (str(ROOT), origin, *addresses)}


def take(order: Order, folder: Path) -> str:
    """Update a clone as its owner would by `make update`; what that told.

    Raises:
        FleetError: it failed, or there are conflicts.
    """
    trust = ("--trust",) if order.trust else ()
    try:
        # Python must not import what lies in the project's folder.
        return run(*UPDATE, *trust, folder=folder, PYTHONPATH=str(SOURCES), PYTHONSAFEPATH="1")
    except FleetError:
        if conflicts := run("git", "diff-files", "--name-only", "--diff-filter=U", folder=folder):
            raise FleetError(f"conflicts: {', '.join(conflicts.splitlines())}") from None
        raise


def update(project: Project, order: Order, row: Row, folder: Path) -> str:
    """Update a clone of a project, fill in its row, and push what passes the tests as a branch.

    Raises:
        FleetError: it does not pass, or cannot be updated without somebody's help.
    """
    start = ("--branch", project.branch) if project.branch else ()
    run(*CLONE, *start, project.repository, folder, folder=order.fleet.parent)
    row.release = recorded(folder, "_commit")
    source = str(recorded(folder, "_src_path"))
    if canonical(source) not in order.templates:
        raise FleetError(f"another template: {source}")
    taken = run("git", "log", "-1", "--no-show-signature", "--format=%ct", "--", ANSWERS, folder=folder)
    row.days = int((time.time() - int(taken)) / 86_400)
    try:
        report = take(order, folder)
    finally:
        row.newest = recorded(folder, "_commit")
    branch = f"template/{row.newest.removeprefix('v')}"
    if row.newest == row.release:
        return "current"
    if run("git", "branch", "--remotes", "--list", f"origin/{branch}", folder=folder):
        return f"pushed before: {branch}"
    if order.verb == "status":
        return "no conflict"
    run("git", "add", "--all", folder=folder)  # hooks look at what git knows
    run(*order.test, folder=folder, minutes=order.minutes)
    run("git", "add", "--all", folder=folder)
    run("git", "commit", "--quiet", f"--message=Template {row.newest}", f"--message={report}", folder=folder)
    run("git", "push", "--quiet", "origin", f"HEAD:refs/heads/{branch}", folder=folder)
    return f"pushed: {branch}"


def visit(project: Project, order: Order, row: Row) -> None:
    """Do what is ordered in a folder that does not last. Whatever goes wrong is this project's alone."""
    detail = ""
    with TemporaryDirectory(prefix="fleet-", ignore_cleanup_errors=True) as folder:
        try:
            row.result, row.good = update(project, order, row, Path(folder) / "project"), True
        except FleetError as error:
            row.result, _, detail = str(error).partition("\n")
    sys.stderr.write(f"{row.project}: {row.result}\n{detail}".strip() + "\n")  # at once: others write, too


def table(rows: list[Row]) -> str:
    """Set rows out in columns."""
    cells = [COLUMNS, *(tuple(str(vars(row)[column]) for column in COLUMNS) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


def ordered() -> Order:
    """Read the command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m hooks.fleet", description=__doc__, formatter_class=form)
    verbs = "status pushes nothing and runs no tests; update runs the projects' tests, in your environment"
    parser.add_argument("verb", choices=("status", "update"), help=verbs)
    parser.add_argument("fleet", type=Path, help="the YAML list")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="projects at once (%(default)s)")
    test = "make setup check test"
    parser.add_argument("--test", type=shlex.split, default=test, help="what must succeed (%(default)s)")
    parser.add_argument("--minutes", type=float, default=60, help="that it may take (%(default)s)")
    parser.add_argument("--trust", action="store_true", help="run this template's migrations, no other's")
    another = "another address that this template has, in the projects' _src_path"
    parser.add_argument("--template", action="append", default=[], metavar="ADDRESS", help=another)
    options = vars(parser.parse_args())
    return Order(templates=own_templates(*options.pop("template")), **options)


def main() -> int:
    """Visit every project; 1 when somebody has to look at one."""
    order = ordered()
    try:
        projects = read(order.fleet)
    except FleetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    rows = [Row(project.repository) for project in projects]
    with ThreadPoolExecutor(order.jobs) as pool:
        try:
            wait(
                [pool.submit(visit, project, order, row) for project, row in zip(projects, rows, strict=True)]
            )
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)  # those under way end
    print(table(rows))
    return 0 if all(row.good for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
