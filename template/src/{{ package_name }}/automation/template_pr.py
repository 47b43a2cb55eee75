"""Template pull request: propose the template's newest release; as a draft if it needs work by hand.

    python -m <package>.automation.template_pr [--trust]

On GitHub the workflow `template-pr` runs this; on a laptop it needs GitHub's `gh`, logged in. It takes the
arguments of `update`. The working folder stays as it is; after a failure, the same command continues.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from ..core.errors import ProjectError, cli
from ..core.git import commit_aside, default_branch
from ..core.shell import call
from .update import answers_file, conflicts, load_answers

UNFINISHED = ": needs work"
"""How the title of a draft ends."""

HOSTS = {"gh:": "https://github.com/", "gl:": "https://gitlab.com/"}
"""Abbreviations of addresses in Copier."""


def _find_newest() -> str:
    """Return the template's newest release; empty if the project has it."""
    options = ("--output-format=json", f"--answers-file={answers_file()}")
    report = msgspec.json.decode(call(sys.executable, "-m", "copier", "check-update", *options))
    return report["latest_version"] if report["update_available"] else ""


def _read_changelog(release: str) -> str:
    """Read the sections of the template's changelog that are new to the project."""
    project_answers = load_answers()
    source, current = project_answers["_src_path"], project_answers["_commit"].removeprefix("v")
    source = HOSTS.get(source[:3], source[:3]) + source[3:]
    with TemporaryDirectory() as folder:
        call("git", "clone", "--quiet", "--depth=1", f"--branch=v{release}", source, folder)
        changelog = Path(folder, "CHANGELOG.md").read_text(encoding="utf-8")
    _, start, sections = changelog.partition("## ")
    return start + sections.partition(f"\n## {current} ")[0].strip()


def _update_and_test() -> tuple[str, str]:
    """Update the project and run its tests; return the update's output and what has to be done by hand."""
    module = f"{__package__}.update"
    try:
        output = call(sys.executable, "-m", module, "--quiet", *sys.argv[1:])
    except ProjectError as error:
        if paths := conflicts():
            return str(error), "\n- ".join(["## Conflicts: nothing was tested\n", *paths])
        raise
    call("git", "add", "--all")  # the commit hooks read git's index
    try:
        call("make", "setup", "check", "test", GH_TOKEN="")
    except ProjectError as error:
        return output, f"## Checks fail\n\n```text\n{error}\n```"
    return output, ""


def _push(branch: str, release: str) -> str:
    """Push the update as one commit, whose message is the pull request's text; return what is left to do."""
    news = _read_changelog(release)
    output, problem = _update_and_test()
    try:
        title = f"Template {release}{UNFINISHED if problem else ''}"
        commit = commit_aside("\n\n".join(part for part in (title, problem, output, news) if part), ".")
    finally:  # the update began with a clean folder, so that only its own changes are removed
        call("git", "add", "--all", "--", ".")
        call("git", "restore", "--source=HEAD", "--staged", "--worktree", "--", ".")
    failure = "template-pr: origin rejected the branch; docs/workflows.md lists the permissions of the token:"
    call("git", "push", "--quiet", "origin", f"{commit}:{branch}", failure=failure)
    return problem


def _open_pull_request(branch: str, base: str) -> None:
    """Open a pushed branch's pull request with the message of its commit; a draft if it is unfinished."""
    call("git", "fetch", "--quiet", "origin", branch)
    title, _, body = call("git", "log", "--max-count=1", "--format=%B", "FETCH_HEAD").partition("\n\n")
    draft = ["--draft"] if title.endswith(UNFINISHED) else []
    head = branch.removeprefix("refs/heads/")
    options = (*draft, "--head", head, "--base", base, "--title", title, "--body", body)
    print(call("gh", "pr", "create", *options))


def main() -> None:
    """Propose the newest release, unless its branch has a pull request."""
    release = _find_newest()
    if not release:
        print("template-pr: nothing new")
        return
    name, base = f"template/{release}", default_branch("template-pr")
    branch, problem = f"refs/heads/{name}", ""
    # Ask gh first: if it is missing or logged out, nothing is pushed.
    options = ("--head", name, "--state", "all", "--json", "url", "--jq", ".[].url")
    is_proposed = call("gh", "pr", "list", *options)
    if call("git", "ls-remote", "--heads", "origin", branch):
        print(f"template-pr: {name} is there already")
    else:
        is_proposed, problem = "", _push(branch, release)
    if not is_proposed:
        _open_pull_request(branch, base)
    if problem:
        raise ProjectError(f"template-pr: {name} needs work by hand:\n{problem}")


if __name__ == "__main__":
    cli(main)
