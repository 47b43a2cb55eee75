"""Propose: push the model that was just made, and open its pull request, or renew the open one.

On GitHub the workflow `train` does this; on a laptop it needs GitHub's `gh`, logged in.
"""

import os
import re
from typing import Any

import msgspec

from ..stage import GATE_REPORT, ProjectError, call
from ..validation.card import CARDS, LOCK

RESULTS = (LOCK, GATE_REPORT.parent, *CARDS)


def body(gate: dict[str, Any]) -> str:
    """What reviewers read: the gate's report, metrics beside those of production, where the cards are."""
    commit = call("git", "rev-parse", "HEAD")
    address = call("gh", "repo", "view", "--json", "url", "--jq", ".url")
    report = GATE_REPORT.with_suffix(".md").read_text(encoding="utf-8")
    picture = rf"]({address}/raw/{commit}/{GATE_REPORT.parent}/\1)"
    before = gate["production"] or "HEAD~1"
    parts = [
        f"Why: {os.environ.get('REASON', 'by hand')}",
        re.sub(r"\]\((\w+\.png)\)", picture, report),
        f"## Metrics, and those of {before}",
        call("dvc", "metrics", "diff", "--md", "--all", before, "HEAD"),
        *(f"[{path.stem}]({address}/blob/{commit}/{path})" for path in CARDS),
    ]
    return "\n\n".join(parts)


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
    known = call("gh", "pr", "list", "--head", branch, "--state", "open", "--json", "url", "--jq", ".[].url")
    verb = ("edit", known) if known else ("create", "--head", branch, "--base", base)
    print(call("gh", "pr", *verb, "--title", title, "--body", body(gate)))


if __name__ == "__main__":
    main()
