"""Render the template as git would give it out, and read what came out."""

import fcntl
import os
import shutil
import subprocess
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
# An identity of its own: the tests run where nobody has told git who they are.
GIT = ("git", "-c", "user.name=Tester", "-c", "user.email=tester@example.com")


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command to its end; a failure shows what it said."""
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command} said:\n{result.stdout}{result.stderr}"
    return result.stdout


def require(*tools: str) -> None:
    """Skip a test whose tools are missing, with the reason; where they must be there (.ci/run), fail it."""
    places = [os.environ["PATH"], *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]  # Debian's, off PATH
    missing = [tool for tool in tools if shutil.which(tool, path=os.pathsep.join(places)) is None]
    if missing:
        leave_out(f"{', '.join(missing)} not found: .ci/run says what to install")


def leave_out(reason: str) -> None:
    """Skip a test; where all must run (.ci/run), fail it."""
    (pytest.fail if os.environ.get("REQUIRE_TOOLS") else pytest.skip)(reason)


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Give a folder that all workers share; who comes first makes it, while the others wait."""
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
    """Commit everything in a folder, which becomes a repository if it was none."""
    git("init", "--quiet", "--initial-branch=main", cwd=folder)
    git("add", "--all", cwd=folder)
    git("commit", "--quiet", "--no-verify", "--message", message, *options, cwd=folder)


def listed(*paths: str) -> set[Path]:
    """Files that git tracks or would track: what a clone of the next commit holds."""
    names = git("ls-files", "-coz", "--exclude-standard", "--", *paths, cwd=ROOT)
    return {Path(name) for name in names.split("\0") if name and (ROOT / name).exists()}


def snapshot(folder: Path) -> Path:
    """Copy the working tree without its history, so that uncommitted work is tested too."""
    for path in listed():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, folder / path)
    return folder


def config(template: Path = ROOT, release: str | None = None) -> dict[str, Any]:
    """Read copier.yml, of a release or as it stands."""
    name = "copier.yml"
    text = git("show", f"{release}:{name}", cwd=template) if release else (template / name).read_text()
    return yaml.safe_load(text)


def migrate(template: Path, version: str) -> None:
    """Let an update to a version run something, which needs the project's trust."""
    written = config(template)
    written.setdefault("_migrations", []).append({"version": version, "command": "echo run here >&2"})
    (template / "copier.yml").write_text(yaml.safe_dump(written, sort_keys=False))


def questions(template: Path = ROOT, release: str | None = None) -> dict[str, dict[str, Any]]:
    """List what copier.yml asks, without what it computes."""
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
    """Read what a project remembers of its answers."""
    return yaml.safe_load((project / ".copier-answers.yml").read_text())


class Renderer:
    """Renders the template. A call hands out one shared, read-only render per set of answers."""

    def __init__(self, source: Path, folder: Path, release: str | None = None) -> None:
        """Render from `source`, as it stands or a release of it, into folders below `folder`."""
        self.source, self.folder, self.release = source, folder, release
        self.asked = questions(source, release)
        self.done: dict[tuple[tuple[str, str], ...], Path] = {}

    def __call__(self, **extra_answers: str) -> Path:
        """Render once per set of answers. Who writes into a project renders `into` a folder."""
        key = tuple(sorted(extra_answers.items()))
        if key not in self.done:
            self.done[key] = self.into(self.folder / f"project-{len(self.done)}", **extra_answers)
        return self.done[key]

    def into(self, project: Path, **extra_answers: str) -> Path:
        """Render into a folder. Copier takes unknown answers in silence: they are refused here."""
        if unknown := extra_answers.keys() - self.asked.keys():
            raise KeyError(f"copier.yml does not ask for {sorted(unknown)}")
        options: Any = {"defaults": True, "quiet": True, "unsafe": False, "vcs_ref": self.release}
        copier.run_copy(str(self.source), project, data=extra_answers, **options)
        return project
