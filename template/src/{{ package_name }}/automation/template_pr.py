"""Standards: propose the template's newest release as a pull request; a draft, if somebody has to decide.

    python -m <package>.automation.template_pr [--trust]

On GitHub the workflow `standards` does this; on a laptop it needs GitHub's `gh`, logged in. The arguments are
those of `update`. What is checked out stays as it is, so the same command finishes what failed on the way.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from ..core.errors import ProjectError, cli
from ..core.git import commit_aside, default_branch
from ..core.shell import call
from .update import answers_file, conflicts, load_answers

UNDECIDED = ": needs a hand"
"""How the title of a draft ends."""

HOSTS = {"gh:": "https://github.com/", "gl:": "https://gitlab.com/"}
"""How Copier lets an address begin."""


def newest() -> str:
    """The template's newest release; nothing, if the project has it."""
    options = ("--output-format=json", f"--answers-file={answers_file()}")
    told = msgspec.json.decode(call(sys.executable, "-m", "copier", "check-update", *options))
    return told["latest_version"] if told["update_available"] else ""


def changes(release: str) -> str:
    """What the template's changelog says of all that is new to the project."""
    answers = load_answers()
    source, had = answers["_src_path"], answers["_commit"].removeprefix("v")
    source = HOSTS.get(source[:3], source[:3]) + source[3:]
    with TemporaryDirectory() as folder:
        call("git", "clone", "--quiet", "--depth=1", f"--branch=v{release}", source, folder)
        changelog = Path(folder, "CHANGELOG.md").read_text(encoding="utf-8")
    _, start, sections = changelog.partition("## ")
    return start + sections.partition(f"\n## {had} ")[0].strip()


def take() -> tuple[str, str]:
    """Update and test: what was told, and what somebody has to decide (nothing, if all is well)."""
    try:
        told = call(sys.executable, "-m", f"{__package__}.automation.update", "--quiet", *sys.argv[1:])
    except ProjectError as error:
        marked = conflicts().splitlines()
        if not marked:
            raise
        return str(error), "## Conflicts: nothing was tested\n\n" + "\n".join(f"- {path}" for path in marked)
    call("git", "add", "--all")  # hooks look at what git knows
    try:
        call("make", "setup", "check", "test", GH_TOKEN="")
    except ProjectError as error:
        return told, f"## Checks fail\n\n```text\n{error}\n```"
    return told, ""


def request(branch: str, title: str, body: str) -> None:
    """Open the pull request; a draft, if somebody has to decide."""
    draft = ["--draft"] if title.endswith(UNDECIDED) else []
    words = ("--head", branch, "--base", default_branch("template-pr"), "--title", title, "--body", body)
    print(call("gh", "pr", "create", *draft, *words))


def propose(branch: str, title: str, body: str) -> None:
    """Push what is there as a branch with a pull request; without one, it would only count as proposed."""
    commit = commit_aside(title, ".")
    refused = "template-pr: the branch was refused; docs/workflows.md says what its token must be allowed:"
    call("git", "push", "--quiet", "origin", f"{commit}:refs/heads/{branch}", failure=refused)
    try:
        request(branch, title, body)
    except ProjectError:
        call("git", "push", "--quiet", "--delete", "origin", branch)
        raise


def is_proposed(branch: str, news: str) -> bool:
    """Whether the branch is at `origin`; it is given the pull request that it never had.

    Asks `gh` in any case, so that what it lacks shows before anything is pushed.
    """
    known = call("gh", "pr", "list", "--head", branch, "--state", "all", "--json", "url", "--jq", ".[].url")
    default_branch("template-pr")
    if not call("git", "ls-remote", "--heads", "origin", f"refs/heads/{branch}"):
        return False
    if not known:
        call("git", "fetch", "--quiet", "origin", f"refs/heads/{branch}")
        request(branch, call("git", "log", "--max-count=1", "--format=%s", "FETCH_HEAD"), news)
    print(f"template-pr: {branch} is there already")
    return True


def main() -> None:
    release = newest()
    if not release:
        print("template-pr: nothing new")
        return
    branch, news = f"template/{release}", changes(release)
    if is_proposed(branch, news):
        return
    told, fault = take()
    title = f"Template {release}{UNDECIDED if fault else ''}"
    try:
        propose(branch, title, "\n\n".join(part for part in (fault, told, news) if part))
    finally:  # Copier began with a clean folder: only what it brought is taken back
        call("git", "add", "--all", "--", ".")
        call("git", "restore", "--source=HEAD", "--staged", "--worktree", "--", ".")
    if fault:
        raise ProjectError(f"template-pr: {branch} needs a hand:\n{fault}")


if __name__ == "__main__":
    cli(main)
