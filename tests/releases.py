"""The template's releases, made again from its history, with the working tree as one more on top."""

from pathlib import Path

from helpers import ROOT, git, snapshot
from packaging.version import Version

from tools.release import releases, version_in


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
