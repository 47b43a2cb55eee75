"""Standards: propose the template's newest release as a pull request; a draft, if somebody has to decide.

On GitHub the workflow `standards` does this; on a laptop it needs GitHub's `gh`, logged in. With TRUST=1 in
the environment, what the template brings to run for an update is run.
"""

import os
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
    trust = ("--trust",) if os.environ.get("TRUST") else ()
    try:
        told = call(sys.executable, "-m", f"{__package__}.update", "--quiet", *trust)
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


def main() -> None:
    release = newest()
    base, branch = call("git", "branch", "--show-current"), f"standards/{release}"
    if not release or call("git", "ls-remote", "--heads", "origin", branch):
        print(f"standards: {f'{branch} is there already' if release else 'nothing new'}")
        return
    news = changes(release)
    told, fault = take()
    title = f"Standards {release}" + (": needs a hand" if fault else "")
    call("git", "add", "--all")
    call("git", "switch", "--quiet", "--create", branch)
    call("git", "commit", "--quiet", "--no-verify", "--message", title)
    refused = "standards: the branch was refused; docs/workflows.md says what its token must be allowed:"
    call("git", "push", "--quiet", "origin", branch, failure=refused)
    words = ("--head", branch, "--base", base, "--title", title)
    body = "\n\n".join(part for part in (fault, told, news) if part)
    print(call("gh", "pr", "create", *(["--draft"] if fault else []), *words, "--body", body))
    if fault:
        raise ProjectError(f"standards: {branch} needs a hand:\n{fault}")


if __name__ == "__main__":
    main()
