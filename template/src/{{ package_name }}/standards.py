"""Standards: propose the template's newest release as a pull request; a draft, if somebody has to decide.

    python -m <package>.standards [--trust]

On GitHub the workflow `standards` does this; on a laptop it needs GitHub's `gh`, logged in. The arguments are
those of `update`.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import yaml

from .stage import ProjectError, call
from .update import ANSWERS

HOSTS = {"gh:": "https://github.com/", "gl:": "https://gitlab.com/"}
"""How Copier lets an address begin."""


def newest() -> str:
    """The template's newest release; nothing, if the project has it."""
    told = msgspec.json.decode(call(sys.executable, "-m", "copier", "check-update", "--output-format=json"))
    return told["latest_version"] if told["update_available"] else ""


def changes(release: str) -> str:
    """What the template's changelog says of all that is new to the project."""
    answers = yaml.safe_load(ANSWERS.read_text(encoding="utf-8"))
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
        told = call(sys.executable, "-m", f"{__package__}.update", "--quiet", *sys.argv[1:])
    except ProjectError as error:
        conflicts = call("git", "diff", "--name-only", "--diff-filter=U").splitlines()
        if not conflicts:
            raise
        return str(error), "## Conflicts: nothing was tested\n\n" + "\n".join(f"- {it}" for it in conflicts)
    call("git", "add", "--all")  # hooks look at what git knows
    try:
        call("make", "setup", "check", "test", GH_TOKEN="")
    except ProjectError as error:
        return told, f"## Checks fail\n\n```text\n{error}\n```"
    return told, ""


def propose(branch: str, title: str, body: str, *options: str) -> None:
    """Push what is there as a branch with a pull request; without one, it would only count as proposed."""
    base = call("git", "branch", "--show-current")
    call("git", "add", "--all")
    call("git", "switch", "--quiet", "--create", branch)
    call("git", "commit", "--quiet", "--no-verify", "--message", title)
    refused = "standards: the branch was refused; docs/workflows.md says what its token must be allowed:"
    call("git", "push", "--quiet", "origin", branch, failure=refused)
    words = ("--head", branch, "--base", base, "--title", title, "--body", body)
    try:
        print(call("gh", "pr", "create", *options, *words))
    except ProjectError:
        call("git", "push", "--quiet", "--delete", "origin", branch)
        raise


def main() -> None:
    release = newest()
    branch = f"standards/{release}"
    if not release or call("git", "ls-remote", "--heads", "origin", branch):
        print(f"standards: {f'{branch} is there already' if release else 'nothing new'}")
        return
    news = changes(release)
    told, fault = take()
    body = "\n\n".join(part for part in (fault, told, news) if part)
    if fault:
        propose(branch, f"Standards {release}: needs a hand", body, "--draft")
        raise ProjectError(f"standards: {branch} needs a hand:\n{fault}")
    propose(branch, f"Standards {release}", body)


if __name__ == "__main__":
    main()
