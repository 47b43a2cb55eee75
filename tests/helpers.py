"""Render the template from the working tree, run commands, and read renders."""

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import copier
import pytest
import yaml

CopyProject = Callable[..., Path]

ROOT = Path(__file__).parent.parent
STAND_INS = ROOT / "tests/stand_ins"
PATIENCE = 120  # seconds, for what takes one or two on an idle machine
# With an identity, because the tests run where git has none.
GIT = ("git", "-c", "user.name=Tester", "-c", "user.email=tester@example.com")


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command that must succeed and return its output."""
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}:\n{result.stdout}{result.stderr}"
    return result.stdout


def require(*tools: str) -> None:
    """Skip a test whose tools are missing; fail it where all tools must be installed (.ci/run)."""
    places = [os.environ["PATH"], *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]  # Debian's, off PATH
    missing = [tool for tool in tools if shutil.which(tool, path=os.pathsep.join(places)) is None]
    if missing:
        skip_or_fail(f"{', '.join(missing)} not found: .ci/run installs them")


def skip_or_fail(reason: str) -> None:
    """Skip a test; fail it where all tests must run (.ci/run)."""
    (pytest.fail if os.environ.get("REQUIRE_TOOLS") else pytest.skip)(reason)


def until(condition: Callable[[], object]) -> None:
    """Wait until a condition is true. The deadline only ends a test that hangs."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "the condition was not met"
        time.sleep(0.1)


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that all workers share; the first worker makes it while the others wait."""
    own = factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name
    with folder.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not lock.seek(0, os.SEEK_END):
            make(folder)
            lock.write("made")
    return folder


def git(*args: str | Path, cwd: Path) -> str:
    """Run git."""
    return run(*GIT, *args, cwd=cwd)


def commit(folder: Path, message: str, *options: str) -> None:
    """Commit everything in a folder, which becomes a repository if it is none."""
    git("init", "--quiet", "--initial-branch=main", cwd=folder)
    git("add", "--all", cwd=folder)
    git("commit", "--quiet", "--no-verify", "--message", message, *options, cwd=folder)


def tracked(*paths: str) -> set[Path]:
    """List the files that git tracks or would track: the content of the next commit."""
    names = git("ls-files", "-coz", "--exclude-standard", "--", *paths, cwd=ROOT)
    return {Path(name) for name in names.split("\0") if name and (ROOT / name).exists()}


def snapshot(folder: Path) -> Path:
    """Copy the working tree without its history, so that uncommitted work is tested too."""
    for path in tracked():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, folder / path)
    return folder


def config(template: Path = ROOT, release: str | None = None) -> dict[str, Any]:
    """Read copier.yml, of a release or of the working tree."""
    name = "copier.yml"
    text = git("show", f"{release}:{name}", cwd=template) if release else (template / name).read_text()
    return yaml.safe_load(text)


def migrate(template: Path, version: str) -> None:
    """Add a migration to a version, so that updates to it need --trust."""
    written = config(template)
    written.setdefault("_migrations", []).append({"version": version, "command": "echo run here >&2"})
    (template / "copier.yml").write_text(yaml.safe_dump(written, sort_keys=False))


def questions(template: Path = ROOT, release: str | None = None) -> dict[str, dict[str, Any]]:
    """List the questions of copier.yml, without computed values."""
    entries = {key: entry for key, entry in config(template, release).items() if not key.startswith("_")}
    return {key: entry for key, entry in entries.items() if entry.get("when") is not False}


def choices(question: dict[str, Any]) -> list[str]:
    """List the answers that a question offers."""
    offered = question.get("choices", [])
    return list(offered.values() if isinstance(offered, dict) else offered)


def files(project: Path) -> list[Path]:
    """List a project's files, sorted."""
    return sorted(path for path in project.rglob("*") if path.is_file())


def answers(project: Path) -> dict[str, Any]:
    """Read the answers file of a project."""
    return yaml.safe_load((project / ".copier-answers.yml").read_text())


class Renderer:
    """Renders the template. A call returns one shared, read-only render per set of answers."""

    def __init__(self, source: Path, folder: Path, release: str | None = None) -> None:
        """Render from `source`, its working tree or a release, into folders below `folder`."""
        self.source, self.folder, self.release = source, folder, release
        self.asked = questions(source, release)
        self.done: dict[tuple[tuple[str, str], ...], Path] = {}

    def __call__(self, **extra_answers: str) -> Path:
        """Render once per set of answers. A test that writes into a project renders `into` a folder."""
        key = tuple(sorted(extra_answers.items()))
        if key not in self.done:
            self.done[key] = self.into(self.folder / f"project-{len(self.done)}", **extra_answers)
        return self.done[key]

    def into(self, project: Path, **extra_answers: str) -> Path:
        """Render into a folder. Reject answers to unknown questions, which Copier ignores."""
        if unknown := extra_answers.keys() - self.asked.keys():
            raise KeyError(f"copier.yml does not ask for {sorted(unknown)}")
        options: Any = {"defaults": True, "quiet": True, "unsafe": False, "vcs_ref": self.release}
        copier.run_copy(str(self.source), project, data=extra_answers, **options)
        return project
