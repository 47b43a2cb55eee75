"""Alert: say where people look what the newest report of `monitor` says, and ask for a model that fits.

    python -m <package>.automation.alert

`alert` opens one issue, or renews it, and names the owners; drift and missed KPIs start the workflow
`train` besides, unless a new model waits to be merged. `ok` closes the issue; `warn` leaves it as it is.
On GitHub the workflow `monitor` does this; on a laptop it needs GitHub's `gh`, logged in.
"""

import os
from pathlib import Path

import msgspec

from ..core.errors import ProjectError, cli
from ..core.paths import MONITORING_REPORT
from ..core.shell import call
from ..monitoring.report import Finding, Monitoring, headline, markdown
from .propose import find_open

LABEL = "monitoring"
CODEOWNERS = Path(".github/CODEOWNERS")
# An alert's owner is that of a path; where none is given here, the project's.
PATHS = {"drift": "/src/*/data/", "refused": "/src/*/data/", "failed": "/deploy/"}
LEARNED = ("drift", "kpi")  # what a new model may mend
LONGEST = 65_000  # characters of an issue that GitHub takes


def owner(rule: str) -> str:
    """Who is asked about alerts of a kind, as a mention."""
    lines = (line.split() for line in CODEOWNERS.read_text(encoding="utf-8").splitlines())
    owners = {words[0]: " ".join(words[1:]) for words in lines if words}
    return owners.get(PATHS.get(rule, "*")) or owners.get("*") or "nobody"


def body(found: Monitoring, alerts: list[Finding]) -> str:
    """What the issue says: who is asked, and the report."""
    rules = dict.fromkeys(it.rule for it in alerts)
    asked = ", ".join(f"{owner(rule)} for {rule}" for rule in rules)
    seen = os.environ.get("SEEN_IN", "a run by hand")
    return f"{asked}: please look. Seen in {seen}.\n\n{markdown(found)}"[:LONGEST]


def open_issue(found: Monitoring, alerts: list[Finding], issue: str) -> str:
    """Open the issue, or renew it; give its address."""
    call("gh", "label", "create", LABEL, "--force", "--description", "Production is not as it was")
    verb = ("edit", issue) if issue else ("create", "--label", LABEL)
    title = f"Production of model {found.model_version} is not what it was made for"
    return call("gh", "issue", *verb, "--title", title, "--body", body(found, alerts))


def ask_for_training(alerts: list[Finding]) -> str:
    """Start the workflow `train`, or say why not."""
    if waiting := find_open("model/main"):
        return f"train is not started, a model waits to be merged: {waiting}"
    reason = "; ".join(f"{it.rule}, {it.subject}" for it in alerts)
    fields = ("--raw-field", "event_type=train", "--raw-field", f"client_payload[reason]={reason}")
    call("gh", "api", "repos/{owner}/{repo}/dispatches", *fields)
    return f"train is started: {reason}"


def main() -> None:
    if not MONITORING_REPORT.exists():
        raise ProjectError(f"alert: {MONITORING_REPORT} is not here: make monitor")
    found = msgspec.json.decode(MONITORING_REPORT.read_bytes(), type=Monitoring)
    alerts = [it for it in found.reasons if it.verdict == "alert"]
    open_ones = ("--label", LABEL, "--state", "open", "--limit", "1")
    issue = call("gh", "issue", "list", *open_ones, "--json", "number", "--jq", ".[].number")
    if alerts:
        print(f"alert: {open_issue(found, alerts, issue)}")
        if any(it.rule in LEARNED for it in alerts):
            print(f"alert: {ask_for_training(alerts)}")
    elif issue and found.verdict == "ok":
        call("gh", "issue", "close", issue, "--comment", f"Production is ok: {headline(found)}")
        print(f"alert: issue {issue} is closed")
    else:
        print(f"alert: none, production is {found.verdict}")


if __name__ == "__main__":
    cli(main)
