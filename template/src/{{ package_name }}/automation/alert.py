"""Alert: open, update or close a GitHub issue for the last monitoring result; start training if it helps.

    python -m <package>.automation.alert

The verdict `alert` opens one issue, or updates it, and mentions the owners. Drift and missed KPIs also start
the workflow `train`, unless a new model is waiting for review. `ok` closes the issue; `warn` changes nothing.
On GitHub the workflow `monitor` runs this; on a laptop it needs GitHub's `gh`, logged in.
"""

import os
from pathlib import Path

from ..core.errors import ProjectError, cli
from ..core.files import read_json
from ..core.paths import MONITORING_REPORT
from ..core.shell import call
from ..monitoring.report import PROJECT, Finding, Monitoring, markdown, summary
from .propose import find_open

LABEL = "monitoring"
CODEOWNERS = Path(".github/CODEOWNERS")
OWNED_PATHS = {"drift": "/src/*/data/", "rejected": "/src/*/data/", "errors": "/deploy/"}
"""The path in CODEOWNERS whose owners look at an alert; the project's owners look at the other alerts."""
TRAINABLE = ("drift", "kpi")
"""Alerts that a new model may end."""
MAX_CHARACTERS = 65_000
"""Limit of GitHub for the text of an issue."""


def _find_owner(rule: str) -> str:
    """Return the owners of a kind of alert, as mentions."""
    lines = (line.split() for line in CODEOWNERS.read_text(encoding="utf-8").splitlines())
    owners = {words[0]: " ".join(words[1:]) for words in lines if words}
    return owners.get(OWNED_PATHS.get(rule, "*")) or owners.get("*") or "nobody"


def _write_body(report: Monitoring, alerts: list[Finding]) -> str:
    """Write the issue's text: who should look, and the report."""
    rules = dict.fromkeys(alert.check for alert in alerts)
    mentions = ", ".join(f"{_find_owner(rule)} for {rule}" for rule in rules)
    run = os.environ.get("SEEN_IN", "a run by hand")
    return f"{mentions}: please look. Reported by {run}.\n\n{markdown(report)}"[:MAX_CHARACTERS]


def _open_issue(report: Monitoring, alerts: list[Finding], issue: str) -> str:
    """Open the issue, or update the open one; return its address."""
    call("gh", "label", "create", LABEL, "--force", "--description", "Alerts of the model in production")
    action = ("edit", issue) if issue else ("create", "--label", LABEL)
    title = f"Monitoring alert: {PROJECT}, model {report.model_version}"
    return call("gh", "issue", *action, "--title", title, "--body", _write_body(report, alerts))


def _start_training(alerts: list[Finding]) -> str:
    """Start the workflow `train` unless a new model is waiting; return what happened."""
    if address := find_open("model/main"):
        return f"train is not started, because a model is waiting for review: {address}"
    reason = "; ".join(f"{alert.check}, {alert.subject}" for alert in alerts)
    fields = ("--raw-field", "event_type=train", "--raw-field", f"client_payload[reason]={reason}")
    call("gh", "api", "repos/{owner}/{repo}/dispatches", *fields)
    return f"train is started: {reason}"


def main() -> None:
    """Act on the last monitoring result."""
    if not MONITORING_REPORT.exists():
        raise ProjectError(f"alert: {MONITORING_REPORT} is missing; run make monitor first")
    report = read_json(MONITORING_REPORT, Monitoring)
    alerts = [reason for reason in report.reasons if reason.status == "alert"]
    options = ("--label", LABEL, "--state", "open", "--limit", "1", "--json", "number", "--jq", ".[].number")
    issue = call("gh", "issue", "list", *options)
    if alerts:
        print(f"alert: {_open_issue(report, alerts, issue)}")
        if any(alert.check in TRAINABLE for alert in alerts):
            print(f"alert: {_start_training(alerts)}")
    elif issue and report.status == "ok":
        call("gh", "issue", "close", issue, "--comment", f"Production is ok: {summary(report)}")
        print(f"alert: issue {issue} is closed")
    else:
        print(f"alert: none, production is {report.status}")


if __name__ == "__main__":
    cli(main)
