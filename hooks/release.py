"""What is a release, and may this commit be one?

    python -m hooks.release [--tag | --notes]
    python -m hooks.release retag

A release is the commit on main that changes the version in pyproject.toml to X.Y.Z. Until then the version
is X.Y.Z.dev0, and the changelog's first section that of X.Y.Z (unreleased).

A clone may lack the tags of releases, by which projects are updated: `retag` sets them from the history.
"""

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from packaging.version import Version

ROOT = Path(__file__).parent.parent
SECTION = re.compile(r"^## (?P<version>\S+) \((?P<date>[^)]*)\)\n(?P<notes>.*?)(?=^## |\Z)", re.M | re.S)
MUST = "### You must"


class HistoryError(Exception):
    """The history, in which releases are found, is not all there."""


def git(*args: str, folder: Path) -> str:
    """Run git, which must succeed."""
    result = subprocess.run(("git", *args), cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        raise HistoryError(result.stderr.strip())
    return result.stdout


def head(folder: Path) -> str:
    """Name the commit that is checked out."""
    return git("rev-parse", "HEAD", folder=folder).strip()


def version_in(manifest: str) -> Version:
    """Read the version in pyproject.toml; one that is not PEP 440 is an error."""
    return Version(tomllib.loads(manifest)["project"]["version"])


def releases(folder: Path) -> dict[Version, str]:
    """List the releases in the history of HEAD, oldest first, and their commits."""
    if git("rev-parse", "--is-shallow-repository", folder=folder).strip() == "true":
        raise HistoryError("releases are found in the history, which was cut off: git fetch --unshallow")
    log = git("log", "--first-parent", "--reverse", "--format=%H", "--", "pyproject.toml", folder=folder)
    versions = [
        (version_in(git("show", f"{commit}:pyproject.toml", folder=folder)), commit) for commit in log.split()
    ]
    return {
        now: commit
        for (before, _), (now, commit) in pairwise(versions)
        if now != before and not now.is_prerelease
    }


def sections(folder: Path) -> list[re.Match[str]]:
    """Read the sections of the changelog, newest first."""
    return list(SECTION.finditer((folder / "CHANGELOG.md").read_text(encoding="utf-8")))


def faults(folder: Path) -> Iterator[str]:
    """Say what keeps HEAD from being a release."""
    version = version_in((folder / "pyproject.toml").read_text(encoding="utf-8"))
    released = releases(folder)
    if str(version) != f"{version.major}.{version.minor}.{version.micro}":
        yield f"the version {version} is none of a release: write X.Y.Z"
    elif released.get(version) != head(folder):
        yield f"the version {version} was not set by this commit, but by {released.get(version, 'none')}"
    if newer := [other for other in released if other > version]:
        yield f"the version {version} is older than {max(newer)}, which is released"
    newest = next(iter(sections(folder)), None)
    if newest is None or newest["version"] != str(version):
        yield f"CHANGELOG.md does not begin with the section of {version}: write ## {version} (YYYY-MM-DD)"
    else:
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", newest["date"]):
            yield f"CHANGELOG.md: {version} has no date but ({newest['date']})"
        if not newest["notes"].strip():
            yield f"CHANGELOG.md: {version} says nothing"
        if MUST in newest["notes"] and (version.micro or (version.major and version.minor)):
            yield f"CHANGELOG.md: {version} asks something of the reader, which takes a new major version"
    if git("status", "--porcelain", folder=folder):
        yield "something is not committed"


def tagged(tag: str, folder: Path) -> str:
    """Give the commit of a tag; nothing, if there is no such tag."""
    target = "%(if)%(*objectname)%(then)%(*objectname)%(else)%(objectname)%(end)"  # annotated, or not
    return git("for-each-ref", f"--format={target}", f"refs/tags/{tag}", folder=folder).strip()


def retag(folder: Path) -> list[str]:
    """Set the tags of all releases in the history of HEAD that have none. An existing tag is never moved.

    Returns:
        the tags that stand elsewhere than at their release: one line each.
    """
    elsewhere = []
    for version, commit in releases(folder).items():
        tag = f"v{version}"
        there = tagged(tag, folder)
        if not there:
            git("tag", "--annotate", "--message", tag, tag, commit, folder=folder)
            print(f"{tag}: set at {commit}")
        elif there != commit:
            elsewhere.append(f"{tag} is at {there}, but the release is {commit}: not moved")
        else:
            print(f"{tag}: there already")
    return elsewhere


def main() -> None:
    """Print the command that tags the release; exit with 1 if this commit may not be one."""
    parser = argparse.ArgumentParser(prog="python -m hooks.release", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["retag"], help="set the tags of past releases")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--tag", action="store_true", help="print its tag, or nothing if it is no release")
    instead.add_argument("--notes", action="store_true", help="print the changelog's section instead")
    options = parser.parse_args()
    if options.command:
        if misplaced := retag(ROOT):
            sys.exit("\n".join(f"error: {line}" for line in misplaced))
        return
    if options.tag:
        print(*(f"v{version}" for version, commit in releases(ROOT).items() if commit == head(ROOT)))
        return
    if problems := list(faults(ROOT)):
        sys.exit("\n".join(f"error: {problem}" for problem in problems))
    newest = sections(ROOT)[0]
    tag = f"v{newest['version']}"
    command = f"git tag --annotate {tag} --message {tag} && git push origin {tag}"
    print(newest["notes"].strip() if options.notes else command)


if __name__ == "__main__":
    try:
        main()
    except HistoryError as error:
        sys.exit(f"error: {error}")
