"""Rendering, against templates with nothing to decide: one file, and as many files as ours."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import copier

from .demo import ROOT
from .lab import Lab, cost, medians
from .table import Row, Target

ROUNDS = 7
TARGET = Target("≤", 1.3, "x")
SOURCE = ("copier.yml", "hooks", "template")


def rows(lab: Lab) -> Iterator[Row]:
    """Time renders in this process, and as the command that people type."""
    template, files = plain_copy(lab.folder / "ours"), lab.folder / "rendered"
    copy(template, files)
    minimal = trivial(lab.folder / "one", [Path("hello.txt")])
    names = [path.relative_to(files) for path in files.rglob("*") if path.is_file()]
    many = trivial(lab.folder / "many", names)
    peers = {"template of one file": minimal, f"template of {len(names)} empty files": many}
    for how, render in {"in process": in_process, "copier copy": as_command}.items():
        with lab.steps.step(f"render, {how}"):
            took, *peer_times = medians(ROUNDS, *(partial(render, s) for s in (template, *peers.values())))
        for peer, other in zip(peers, peer_times, strict=True):
            yield Row(f"render, {how}", took, "s", peer, other, TARGET)


def plain_copy(folder: Path) -> Path:
    """Copy the template without its git history, as the trivial ones have none."""
    ignore = shutil.ignore_patterns("__pycache__", ".*_cache")
    folder.mkdir()
    for name in SOURCE:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, folder / name, ignore=ignore)
        else:
            shutil.copy2(path, folder)
    return folder


def trivial(folder: Path, names: list[Path]) -> Path:
    """Make a template that asks nothing and writes empty files."""
    for name in names:
        path = folder / "template" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (folder / "copier.yml").write_text("_subdirectory: template\n")
    return folder


def copy(source: Path, target: Path) -> None:
    """Render with the default answers."""
    copier.run_copy(str(source), target, defaults=True, quiet=True, unsafe=False)


def in_process(source: Path) -> float:
    """Seconds of a render by Copier's API."""
    return timed(source, copy)


def as_command(source: Path) -> float:
    """Seconds of a render by Copier's command, start of Python included."""
    command = [sys.executable, "-m", "copier", "copy", "--quiet", "--defaults", source]
    return timed(source, lambda source, target: cost([*command, target], source))


def timed(source: Path, action: Callable[[Path, Path], object]) -> float:
    """Seconds of an action that renders into a folder, which is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        action(source, Path(folder) / "project")
        return time.perf_counter() - start
