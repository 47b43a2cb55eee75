"""Queries and commits of the project's git repository and its remote `origin`."""

import re
import subprocess
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from .errors import ProjectError
from .shell import call

WEB = re.compile(r"(?:(?:https?|ssh)://(?:[^@/]*@)?|[^@/:]+@)([^/:]+)(?::\d+)?[:/]/?(.+?)(?:\.git)?/?")
"""Server and path of a remote's address: https://, ssh:// or git@server:path."""


def has_origin() -> bool:
    """Check whether there is a remote `origin` to push to.

    Returns:
        True if there is one.
    """
    return "origin" in call("git", "remote").split()


def exists(ref: str) -> bool:
    """Check whether a name stands for a commit.

    Args:
        ref: branch, tag or hash.

    Returns:
        True if git knows it.
    """
    try:
        return bool(call("git", "rev-parse", "--quiet", "--verify", f"{ref}^{{commit}}"))
    except ProjectError:
        return False


def contains(branch: str, revision: str) -> bool:
    """Check whether a commit is on a branch.

    Args:
        branch: the branch.
        revision: the commit.

    Returns:
        True if it is.
    """
    return not call("git", "rev-list", "--max-count=1", revision, f"^{branch}")


def changes(paths: Iterable[Path | str], *options: str) -> str:
    """List what differs from the last commit.

    Args:
        paths: files and folders, or patterns of git.
        options: options of `git status`.

    Returns:
        One line for each file, as `git status --porcelain` prints it.
    """
    return call("git", "status", "--porcelain", *options, "--", *paths)


def current_branch() -> str:
    """Return the branch that is checked out.

    Returns:
        Its name; without one (a detached HEAD), the first twelve digits of the commit.
    """
    return call("git", "branch", "--show-current") or call("git", "rev-parse", "--short=12", "HEAD")


def web_address() -> str:
    """Return where a browser finds `origin`.

    Returns:
        Its address without credentials; empty if `origin` is not on a server.
    """
    match = WEB.fullmatch(call("git", "remote", "get-url", "origin"))
    return f"https://{match[1]}/{match[2]}" if match else ""


def default_branch(command: str) -> str:
    """Ask `origin` for its default branch.

    Args:
        command: name of the command, for the message.

    Returns:
        The branch's name.

    Raises:
        ProjectError: there is no `origin`, it cannot be reached, or it has no branch yet.
    """
    if not has_origin():
        raise ProjectError(f"{command}: there is no remote `origin`: git remote add origin ADDRESS")
    failure = f"{command}: origin cannot be reached:"
    lines = call("git", "ls-remote", "--symref", "origin", "HEAD", failure=failure).splitlines()
    branches = [line.split()[1] for line in lines if line.startswith("ref:")]
    if not branches:
        raise ProjectError(f"{command}: origin has no default branch yet: git push origin main")
    return branches[0].removeprefix("refs/heads/")


def is_shallow() -> bool:
    """Check whether the clone lacks older commits.

    Returns:
        True if it does.
    """
    return call("git", "rev-parse", "--is-shallow-repository") == "true"


def list_files(*paths: Path | str, index: Path = Path()) -> list[Path]:
    """List the files that git tracks, or would track if they were added.

    Args:
        *paths: files and folders, or patterns of git.
        index: an index other than the repository's.

    Returns:
        Paths relative to the working folder; deleted files are among them.
    """
    command = ("git", "ls-files", "-coz", "--exclude-standard", "--", *map(str, paths))
    names = call(*command, GIT_INDEX_FILE=str(index)) if index.name else call(*command)
    return [Path(name) for name in names.split("\0") if name]


def read_blobs(tree: str, *paths: Path | str) -> dict[str, bytes]:
    """Read files as a commit holds them.

    Args:
        tree: a commit, or a tree.
        *paths: files and folders; those that it lacks are left out.

    Returns:
        Content by path, relative to the working folder.
    """
    names = call("git", "ls-tree", "-rz", "--name-only", tree, "--", *paths).split("\0")
    names = [name for name in names if name]
    prefix = call("git", "rev-parse", "--show-prefix")
    command = ("git", "cat-file", "--batch=%(objectsize)")
    objects = "".join(f"{tree}:{prefix}{name}\n" for name in names).encode()
    output = BytesIO(subprocess.run(command, input=objects, capture_output=True, check=True).stdout)
    blobs = {}
    for name in names:
        blobs[name] = output.read(int(output.readline()))
        output.readline()
    return blobs


def write_tree(*paths: Path | str) -> str:
    """Write the last commit's tree with paths as they are in the working folder; the index stays as it is.

    Args:
        *paths: files and folders; those that do not exist are left out.

    Returns:
        The tree's hash.
    """
    with TemporaryDirectory() as folder:
        index = str(Path(folder, "index"))
        if exists("HEAD"):
            call("git", "read-tree", "HEAD", GIT_INDEX_FILE=index)
        if names := list_files(*paths, index=Path(index)):
            call("git", "add", "--all", "--", *names, GIT_INDEX_FILE=index)
        return call("git", "write-tree", GIT_INDEX_FILE=index)


def commit_aside(title: str, *paths: Path | str) -> str:
    """Commit paths on top of HEAD, on no branch; branch, index and working folder stay as they are.

    Args:
        title: the commit's message.
        paths: files and folders to be committed.

    Returns:
        The commit's hash, to be pushed. A failure leaves nothing behind.
    """
    return call("git", "commit-tree", write_tree(*paths), "-p", "HEAD", "-m", title)


@contextmanager
def checkout(revision: str) -> Generator[Path]:
    """Check a revision out into a temporary folder (a worktree), which is removed afterwards.

    Args:
        revision: branch, tag or hash.

    Yields:
        The project's folder in it.

    Raises:
        ProjectError: there is no such revision.
    """
    unknown = f"there is no revision {revision}; if it is a new tag, run git fetch --tags."
    commit = call("git", "rev-parse", "--quiet", "--verify", f"{revision}^0", failure=unknown)
    inner = call("git", "rev-parse", "--show-prefix")
    with TemporaryDirectory() as temporary:
        tree = Path(temporary).resolve() / "tree"
        call("git", "worktree", "add", "--detach", tree, commit)
        try:
            yield tree / inner
        finally:
            call("git", "worktree", "remove", "--force", tree)
