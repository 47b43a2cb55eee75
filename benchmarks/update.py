"""Updating, against a template of as many empty files: from a release to the next, which changes one line."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import copier

from .demo import run
from .lab import Lab, cost, medians
from .render import copy, plain_copy, trivial
from .table import Row, Target

ROUNDS = 7
TARGET = Target("≤", 1.5, "x")
ANSWERS = "{{ _copier_conf.answers_file }}.jinja"
# An identity of its own, and no hooks: whoever measures may have either.
GIT = ("git", "-c", "user.name=Lab", "-c", "user.email=lab@example.com", "-c", "core.hooksPath=/dev/null")


def rows(lab: Lab) -> Iterator[Row]:
    """Time updates in this process, and as the command that people type."""
    folder = lab.folder / "update"
    folder.mkdir()
    template = plain_copy(folder / "ours")
    copy(template, folder / "rendered")
    names = [
        path.relative_to(folder / "rendered") for path in (folder / "rendered").rglob("*") if path.is_file()
    ]
    peer = trivial(folder / "trivial", names)
    shutil.copy2(template / "template" / ANSWERS, peer / "template")
    (peer / "template/.copier-answers.yml").unlink()
    projects = [project(source) for source in (template, peer)]
    for how, update in {"in process": in_process, "copier update": as_command}.items():
        with lab.steps.step(f"update, {how}"):
            took, other = medians(ROUNDS, *(partial(update, folder) for folder in projects))
        yield Row(f"update, {how}", took, "s", f"template of {len(names)} empty files", other, TARGET)


def project(template: Path) -> Path:
    """Release the template twice; start a project from the first."""
    release(template, "v100.0.0")
    target = template.with_name(f"{template.name}-project")
    copy(template, target)
    commit(target)
    with (template / "template/renovate.json").open("a") as changed:
        changed.write("\n")
    release(template, "v100.1.0")
    return target


def release(template: Path, tag: str) -> None:
    """Commit a template and tag it."""
    commit(template)
    run(["git", "tag", tag], template)


def commit(folder: Path) -> None:
    """Commit everything."""
    run(["git", "init", "--quiet"], folder)
    run(["git", "add", "--all"], folder)
    run([*GIT, "commit", "--quiet", "--message", "lab"], folder)


def in_process(project: Path) -> float:
    """Seconds of an update by Copier's API; it is taken back."""
    start = time.perf_counter()
    copier.run_update(project, defaults=True, overwrite=True, quiet=True, unsafe=False)
    return taken_back(project, time.perf_counter() - start)


def as_command(project: Path) -> float:
    """Seconds of an update by Copier's command, start of Python included."""
    command = [sys.executable, "-m", "copier", "update", "--quiet", "--defaults"]
    return taken_back(project, cost(command, project).seconds)


def taken_back(project: Path, seconds: float) -> float:
    """Put the project back to the first release."""
    run(["git", "reset", "--quiet", "--hard"], project)
    return seconds
