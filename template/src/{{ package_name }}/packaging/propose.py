"""Propose: push the model that was just made, and open its pull request, or renew the open one.

On GitHub the workflow `train` does this; on a laptop it needs GitHub's `gh`, logged in.
"""

import os
import re
from pathlib import Path
from typing import Any

import msgspec

from ..stage import GATE_REPORT, ProjectError, call
from ..validation.card import CARDS, RESULTS


def readable(path: Path, address: str) -> str:
    """A Markdown file whose links, relative to it, are made to begin at an address."""
    text = path.read_text(encoding="utf-8")
    return re.sub(
        r"\]\((?!\w+:)(.+?)\)", lambda it: f"]({address}/{os.path.normpath(path.parent / it[1])})", text
    )


def body(gate: dict[str, Any]) -> str:
    """What reviewers read: the gate's report, metrics beside those of production, the cards."""
    repository = call("gh", "repo", "view", "--json", "url", "--jq", ".url")
    address = f"{repository}/raw/{call('git', 'rev-parse', 'HEAD')}"
    before = gate["production"] or "HEAD~1"
    parts = [
        f"Why: {os.environ.get('REASON', 'by hand')}",
        readable(GATE_REPORT.with_suffix(".md"), address),
        f"## Metrics, and those of {before}",
        call("dvc", "metrics", "diff", "--md", "--all", before, "HEAD"),
    ]
    for path in CARDS:
        parts += [f"<details><summary>{path}</summary>", readable(path, address), "</details>"]
    return "\n\n".join(parts)


def find_open(branch: str) -> str:
    """The address of a branch's open pull request, if there is one."""
    return call("gh", "pr", "list", "--head", branch, "--state", "open", "--json", "url", "--jq", ".[].url")


def main() -> None:
    gate = msgspec.json.decode(GATE_REPORT.read_bytes())
    if gate["verdict"] == "block":
        raise ProjectError(f"propose: the gate blocks model {gate['model_version']}: {GATE_REPORT} says why")
    if not call("git", "status", "--porcelain", *RESULTS):
        print("propose: nothing new")
        return
    others = (f":!{path}" for path in RESULTS)
    if edited := call("git", "status", "--porcelain", "--untracked-files=no", "--", ".", *others):
        raise ProjectError(
            f"propose: the model was made with edits that no commit has; commit them:\n{edited}"
        )
    base = call("git", "branch", "--show-current")
    branch, title = f"model/{base}", f"Model {gate['model_version']}: {gate['verdict']}"
    call("dvc", "push")
    call("git", "switch", "--quiet", "--force-create", branch)
    call("git", "add", *RESULTS)
    call("git", "commit", "--quiet", "--message", title)
    call("git", "push", "--quiet", "--force", "origin", branch)
    known = find_open(branch)
    verb = ("edit", known) if known else ("create", "--head", branch, "--base", base)
    print(call("gh", "pr", *verb, "--title", title, "--body", body(gate)))


if __name__ == "__main__":
    main()
