"""The template's releases, rebuilt from its history, and the working tree as the next one."""

import re
import shutil
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import copier
import pytest
from helpers import ROOT, Renderer, commit, files, git, snapshot
from packaging.version import Version

from hooks.release import HistoryError, releases, version_in

ANSWERS = ".copier-answers.yml"
Lines = dict[str, Counter[bytes]]
RELEASES: list[str] = []
with suppress(HistoryError):  # tests of updates are skipped then, and one of test_release fails
    RELEASES += [f"v{version}" for version in releases(ROOT)]


def rebuild(folder: Path) -> Path:
    """Clone the template, tag its releases, and tag the working tree as the one to come."""
    git("clone", "--quiet", "--no-tags", ROOT, folder, cwd=ROOT)
    commits = releases(folder)
    for version, revision in commits.items():
        git("tag", f"v{version}", revision, cwd=folder)
    git("rm", "--quiet", "-r", ".", cwd=folder)
    snapshot(folder)
    git("add", "--all", cwd=folder)
    if git("diff", "--cached", "--name-only", f"v{max(commits)}", cwd=folder):
        git("commit", "--quiet", "--allow-empty", "--message", "the working tree", cwd=folder)
        git("tag", f"v{coming(folder, max(commits))}", cwd=folder)
    git("gc", "--quiet", cwd=folder)  # each update clones it several times
    return folder


def coming(folder: Path, newest: Version) -> str:
    """Return the version that the working tree will be released as."""
    version = version_in((folder / "pyproject.toml").read_text()).base_version
    return version if Version(version) > newest else f"{newest}.post1"


def tags(template: Path) -> list[str]:
    """List the releases of a rebuilt template, oldest first."""
    return git("tag", "--sort=version:refname", cwd=template).split()


def lines(folder: Path) -> Lines:
    """Count the lines of every file except Copier's answers and git's own files."""
    paths = (path for path in files(folder) if path.relative_to(folder).parts[0] not in (".git", ANSWERS))
    return {str(path.relative_to(folder)): Counter(path.read_bytes().split(b"\n")) for path in paths}


def added(base: Lines, project: Lines) -> Lines:
    """Return the lines that a project has in addition to a render."""
    own = {path: there - base.get(path, Counter()) for path, there in project.items()}
    return {path: there for path, there in own.items() if there}


def anonymous(there: Counter[bytes]) -> Counter[bytes]:
    """Leave out the content of import statements, because the update rewrites those of moved modules."""
    return Counter(re.sub(rb"^(\s*from )[\w.]+ import .*", rb"\1*", line) for line in there.elements())


def lost(own: Lines, project: Path) -> dict[str, list[bytes]]:
    """Return the lines that are neither in their file nor, if it is gone, together in another file."""
    after = {path: anonymous(there) for path, there in lines(project).items()}

    def missing(path: str) -> Counter[bytes]:
        places = [after[path]] if path in after else after.values()
        return min((anonymous(own[path]) - there for there in places), key=Counter.total)

    return {path: sorted(absent) for path in own if (absent := missing(path))}


def update(project: Path, **options: object) -> None:
    """Update to the newest release with --trust."""
    settings: Any = {"defaults": True, "overwrite": True, "quiet": True, "unsafe": True} | options
    copier.run_update(project, **settings)


def status(project: Path) -> set[str]:
    """Return git's status of a project's files."""
    return set(git("status", "--porcelain", "--untracked-files=all", cwd=project).splitlines())


def conflicts(project: Path) -> set[str]:
    """Return git's status of the files that have conflicts."""
    return {line for line in status(project) if "U" in line[:2]}


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rebuild the template's releases, with the working tree as the newest."""
    return rebuild(tmp_path_factory.mktemp("releases") / "template")


@pytest.fixture(scope="session")
def newest(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    """Render the newest release."""
    return Renderer(template, tmp_path_factory.mktemp("newest"), tags(template)[-1])


@pytest.fixture(scope="session", params=RELEASES)
def older(
    request: pytest.FixtureRequest, template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Renderer:
    """Render each release in turn."""
    return Renderer(template, tmp_path_factory.mktemp("older"), request.param)


@pytest.fixture(scope="session")
def patched(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Release one more line, which needs no migration."""
    later = tmp_path_factory.mktemp("patched") / "template"
    git("clone", "--quiet", template, later, cwd=template)
    append(later / "template/.gitignore.jinja", "/later/\n")
    commit(later, "later")
    git("tag", "v100.0.0", cwd=later)
    return later


def start(render: Renderer, folder: Path, **extra_answers: str) -> Path:
    """Render a project and commit it."""
    shutil.copytree(render(**extra_answers), folder)
    commit(folder, "start")
    return folder


def append(path: Path, text: str) -> None:
    """Append to a file, which is created if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text)
