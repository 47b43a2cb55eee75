"""Propose: push the new model and open or update its pull request.

    python -m <package>.automation.propose

On GitHub the workflow `train` runs this; on a laptop it uses GitHub's `gh`, logged in. Without `gh`, it
pushes the branch and prints the address to open. From a branch `x` the pull request leads from `model/x` to
the default branch of `origin`. The results may be committed or not. The working folder stays as it is: after
a failure the same command continues.
"""

import os
import re
import shutil
from typing import Any

from .. import declarations
from ..core.errors import ProjectError, cli
from ..core.files import read_json
from ..core.git import changes, commit_aside, current_branch, default_branch, web_address
from ..core.paths import GATE_REPORT, RESULTS
from ..core.shell import call
from ..evaluation.cards import CARDS, check


def find_open(branch: str) -> str:
    """Find the open pull request of a branch.

    Args:
        branch: the branch that it leads from.

    Returns:
        Its address; empty if there is none.
    """
    return call("gh", "pr", "list", "--head", branch, "--state", "open", "--json", "url", "--jq", ".[].url")


def _write_body(gate: dict[str, Any], commit: str, base: str) -> str:
    """Write the pull request's text: the gate's report, a comparison of metrics, and links to the cards."""
    repository = call("gh", "repo", "view", "--json", "url", "--jq", ".url")
    report = GATE_REPORT.with_suffix(".md").read_text(encoding="utf-8")
    reference = gate["production"] or base
    parts = (
        f"Why: {os.environ.get('REASON', 'by hand')}",
        # Relative links, which lead to plots, become addresses.
        re.sub(r"\]\((?!\w+:)", f"]({repository}/raw/{commit}/{GATE_REPORT.parent}/", report),
        f"## Metrics, compared with {reference}",
        call("dvc", "metrics", "diff", "--md", "--all", reference, commit),
        "## Cards",
        "\n".join(f"- [{path}]({repository}/blob/{commit}/{path})" for path in CARDS),
    )
    return "\n\n".join(parts)


def _check_edits() -> None:
    """Raise `ProjectError` for edits that no commit has, and for reports of different models."""
    inputs = (".", *(f":!{path}" for path in RESULTS))
    if edited := changes(inputs, "--untracked-files=no"):
        raise ProjectError(f"propose: commit these edits first, which the model was made with:\n{edited}")
    check(declarations.load())


def main() -> None:
    """Propose the model of the last gate, unless it is blocked or the default branch has it."""
    gate = read_json(GATE_REPORT)
    if gate["verdict"] == "block":
        raise ProjectError(f"propose: the gate blocks model {gate['model_version']}; see {GATE_REPORT}")
    _check_edits()
    branch, base = current_branch(), default_branch("propose")
    head = f"model/{branch.removeprefix('model/')}"
    title = f"Model {gate['model_version']}: {gate['verdict']}"
    call("git", "fetch", "--quiet", "origin", f"+refs/heads/{base}:refs/remotes/origin/{base}")
    commit = commit_aside(title, *RESULTS) if changes(RESULTS) else call("git", "rev-parse", "HEAD")
    if not call("git", "diff", "--name-only", f"refs/remotes/origin/{base}...{commit}", "--", *RESULTS):
        print(f"propose: nothing new, {base} at origin has these results")
        return
    has_gh = shutil.which("gh") is not None
    if has_gh:  # before anything is pushed
        address, body = find_open(head), _write_body(gate, commit, f"origin/{base}")
    call("dvc", "push")
    call("git", "push", "--quiet", "--force", "origin", f"{commit}:refs/heads/{head}")
    if has_gh:
        action = ("edit", address) if address else ("create", "--head", head, "--base", base)
        print(call("gh", "pr", *action, "--title", title, "--body", body))
    else:
        site = web_address()
        place = f"{site}/compare/{base}...{head}?expand=1" if site else f"{head} into {base}"
        print(f"propose: {head} is pushed. gh is not on PATH, so open the pull request yourself: {place}")


if __name__ == "__main__":
    cli(main)
