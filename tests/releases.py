"""The template's releases, made again from its history, with the working tree as one more on top."""

from collections import Counter
from pathlib import Path
from typing import Any

import copier
from helpers import ROOT, files, git, snapshot
from packaging.version import Version

from tools.release import releases, version_in

ANSWERS = ".copier-answers.yml"
Lines = dict[str, Counter[bytes]]


def rebuild(folder: Path) -> Path:
    """Clone the template, tag its releases, and tag the working tree as the one to come."""
    git("clone", "--quiet", "--no-tags", ROOT, folder, cwd=ROOT)
    done = releases(folder)
    for version, made in done.items():
        git("tag", f"v{version}", made, cwd=folder)
    git("rm", "--quiet", "-r", ".", cwd=folder)
    snapshot(folder)
    git("add", "--all", cwd=folder)
    if git("diff", "--cached", "--name-only", f"v{max(done)}", cwd=folder):
        git("commit", "--quiet", "--allow-empty", "--message", "the working tree", cwd=folder)
        git("tag", f"v{coming(folder, max(done))}", cwd=folder)
    return folder


def coming(folder: Path, newest: Version) -> str:
    """Give the version that the working tree will be released as."""
    version = version_in((folder / "pyproject.toml").read_text()).base_version
    return version if Version(version) > newest else f"{newest}.post1"


def tags(template: Path) -> list[str]:
    """List the releases of a rebuilt template, oldest first."""
    return git("tag", "--sort=version:refname", cwd=template).split()


def lines(folder: Path) -> Lines:
    """Count the lines of every file but Copier's answers and what git keeps for itself."""
    kept = (path for path in files(folder) if path.relative_to(folder).parts[0] not in (".git", ANSWERS))
    return {str(path.relative_to(folder)): Counter(path.read_bytes().split(b"\n")) for path in kept}


def added(base: Lines, project: Lines) -> Lines:
    """Give the lines that a project has beside those of a render."""
    own = {path: there - base.get(path, Counter()) for path, there in project.items()}
    return {path: there for path, there in own.items() if there}


def lost(own: Lines, project: Path) -> dict[str, list[bytes]]:
    """Give the lines that are neither in their file nor, if that is gone, together in another."""
    after = lines(project)

    def missing(path: str) -> Counter[bytes]:
        places = [after[path]] if path in after else after.values()
        return min((own[path] - there for there in places), key=Counter.total)

    return {path: sorted(found) for path in own if (found := missing(path))}


def update(project: Path, **options: object) -> None:
    """Update to the newest release, as people who trust the template's migrations do."""
    given: Any = {"defaults": True, "overwrite": True, "quiet": True, "unsafe": True} | options
    copier.run_update(project, **given)


def status(project: Path) -> set[str]:
    """What git says of a project's files."""
    return set(git("status", "--porcelain", "--untracked-files=all", cwd=project).splitlines())


def conflicts(project: Path) -> set[str]:
    """What git says of a project's files that have conflicts."""
    return {line for line in status(project) if "U" in line[:2]}
