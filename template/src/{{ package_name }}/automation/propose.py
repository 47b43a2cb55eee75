"""Propose: push the model that was just made, and open its pull request, or renew the open one.

On GitHub the workflow `train` does this; on a laptop it needs GitHub's `gh`, logged in. From a branch `x`
the pull request leads from `model/x` to the default branch of `origin`. Results may be committed or not; what
is checked out stays as it is, so the same command finishes what failed on the way.
"""

import os
import re
from pathlib import Path
from typing import Any

import msgspec

from .. import declarations
from ..core.errors import ProjectError, cli
from ..core.git import changes, commit_aside, current_branch, default_branch
from ..core.paths import GATE_REPORT, RESULTS
from ..core.shell import call
from ..evaluation.cards import CARDS, check


def readable(path: Path, address: str) -> str:
    """A Markdown file whose links, relative to it, are made to begin at an address."""
    text = path.read_text(encoding="utf-8")
    return re.sub(
        r"\]\((?!\w+:)(.+?)\)", lambda it: f"]({address}/{os.path.normpath(path.parent / it[1])})", text
    )


def body(gate: dict[str, Any], commit: str, base: str) -> str:
    """What reviewers read: the gate's report, metrics beside those of production or the base, the cards."""
    repository = call("gh", "repo", "view", "--json", "url", "--jq", ".url")
    address, before = f"{repository}/raw/{commit}", gate["production"] or base
    parts = [
        f"Why: {os.environ.get('REASON', 'by hand')}",
        readable(GATE_REPORT.with_suffix(".md"), address),
        f"## Metrics, and those of {before}",
        call("dvc", "metrics", "diff", "--md", "--all", before, commit),
    ]
    for path in CARDS:
        parts += [f"<details><summary>{path}</summary>", readable(path, address), "</details>"]
    return "\n\n".join(parts)


def find_open(branch: str) -> str:
    """The address of a branch's open pull request, if there is one."""
    return call("gh", "pr", "list", "--head", branch, "--state", "open", "--json", "url", "--jq", ".[].url")


def check_edits() -> None:
    """Refuse to propose a model that was made with edits that no commit has."""
    others = (f":!{path}" for path in RESULTS)
    if edited := changes((".", *others), "--untracked-files=no"):
        raise ProjectError(
            f"propose: the model was made with edits that no commit has; commit them:\n{edited}"
        )
    check(declarations.load())


def main() -> None:
    gate = msgspec.json.decode(GATE_REPORT.read_bytes())
    if gate["verdict"] == "block":
        raise ProjectError(f"propose: the gate blocks model {gate['model_version']}: {GATE_REPORT} says why")
    check_edits()
    branch, base = current_branch("propose"), default_branch("propose")
    head, title = (
        f"model/{branch.removeprefix('model/')}",
        f"Model {gate['model_version']}: {gate['verdict']}",
    )
    call("git", "fetch", "--quiet", "origin", f"+refs/heads/{base}:refs/remotes/origin/{base}")
    commit = commit_aside(title, *RESULTS) if changes(RESULTS) else call("git", "rev-parse", "HEAD")
    if not call("git", "diff", "--name-only", f"refs/remotes/origin/{base}...{commit}", "--", *RESULTS):
        print(f"propose: nothing new, {base} at origin has these results")
        return
    known, text = find_open(head), body(gate, commit, f"origin/{base}")  # before anything is pushed
    call("dvc", "push")
    call("git", "push", "--quiet", "--force", "origin", f"{commit}:refs/heads/{head}")
    verb = ("edit", known) if known else ("create", "--head", head, "--base", base)
    print(call("gh", "pr", *verb, "--title", title, "--body", text))


if __name__ == "__main__":
    cli(main)
