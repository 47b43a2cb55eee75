"""What git says of this clone and of `origin`: branches, and what no commit holds yet."""

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from .errors import ProjectError
from .shell import call


def has_origin() -> bool:
    """Whether there is a remote to push to."""
    return "origin" in call("git", "remote").split()


def exists(ref: str) -> bool:
    """Whether git knows a commit by this name."""
    try:
        return bool(call("git", "rev-parse", "--quiet", "--verify", f"{ref}^{{commit}}"))
    except ProjectError:
        return False


def contains(branch: str, revision: str) -> bool:
    """Whether a commit is on a branch."""
    return not call("git", "rev-list", "--max-count=1", revision, f"^{branch}")


def changes(paths: Iterable[Path | str], *options: str) -> str:
    """What differs from the last commit, as `git status` lists it."""
    return call("git", "status", "--porcelain", *options, "--", *paths)


def current_branch(command: str) -> str:
    """The branch that is checked out.

    Raises:
        ProjectError: none is (a detached HEAD).
    """
    branch = call("git", "branch", "--show-current")
    if not branch:
        raise ProjectError(f"{command}: no branch is checked out; `git switch --create NAME` makes one here")
    return branch


def default_branch(command: str) -> str:
    """The default branch of `origin`, which is asked.

    Raises:
        ProjectError: there is no `origin`, it is out of reach, or it has no branch yet.
    """
    if not has_origin():
        raise ProjectError(f"{command}: there is no remote `origin`: git remote add origin ADDRESS")
    failure = f"{command}: origin is out of reach:"
    lines = call("git", "ls-remote", "--symref", "origin", "HEAD", failure=failure).splitlines()
    branches = [line.split()[1] for line in lines if line.startswith("ref:")]
    if not branches:
        raise ProjectError(f"{command}: origin has no default branch yet: git push origin main")
    return branches[0].removeprefix("refs/heads/")


def commit_aside(title: str, *paths: Path | str) -> str:
    """Commit paths on top of HEAD, on no branch: branch, index and working folder stay as they are.

    Returns:
        The commit, to be pushed; what failed on the way leaves nothing behind.
    """
    with TemporaryDirectory() as folder:
        index = str(Path(folder, "index"))
        call("git", "read-tree", "HEAD", GIT_INDEX_FILE=index)
        call("git", "add", "--all", "--", *paths, GIT_INDEX_FILE=index)
        tree = call("git", "write-tree", GIT_INDEX_FILE=index)
    return call("git", "commit-tree", tree, "-p", "HEAD", "-m", title)
