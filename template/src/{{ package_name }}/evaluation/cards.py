"""Cards: what the model and the data are, for people. Written by the gate from what a run recorded.

    python -m <package>.evaluation.cards --check

Everything in a card comes from files that git tracks, so the check needs neither data nor bundle.
"""

import argparse
from pathlib import Path
from typing import Any

import msgspec
import yaml

from .. import problem
from ..core.errors import ProjectError, cli
from ..core.files import dvc_hash, locked_hashes, table
from ..core.paths import (
    BUNDLE,
    BUNDLE_REPORT,
    DATA_CARD,
    DATA_REPORT,
    GATE_REPORT,
    LOCK,
    MODEL_CARD,
    SPLIT_REPORT,
)
from ..stats.inference import Estimate

ANSWERS = Path(".copier-answers.yml")

REPORTS = {
    "gate": GATE_REPORT,
    "bundle": BUNDLE_REPORT,
    "split": SPLIT_REPORT,
    "data": DATA_REPORT / "data.json",
}
ALONE = "code and parameters alone: git commit src params.yaml"

Facts = dict[str, Any]


def read_facts() -> Facts:
    """What the run recorded; raise `ProjectError` if a report is missing."""
    try:
        facts = {name: msgspec.json.decode(path.read_bytes()) for name, path in REPORTS.items()}
    except FileNotFoundError as error:
        raise ProjectError(f"card: {error.filename} is missing: `make pipeline` writes it") from None
    return facts | {"project": yaml.safe_load(ANSWERS.read_text(encoding="utf-8"))}


def estimates(facts: Facts, rule: str) -> str:
    """A table of what a rule of the gate found."""
    checks = [check for check in facts["gate"]["checks"] if check["rule"] == rule and "found" in check]
    return table(
        [
            {"of": check["subject"], **{name: check["found"][name] for name in ("value", "low", "high")}}
            for check in checks
        ]
    )


def kpi_table(checks: list[dict[str, Any]]) -> str:
    """The KPIs for readers of any trade: what was found, with its interval, and what it means."""
    found = {check["subject"]: Estimate(**check["found"]) for check in checks if check["rule"] == "kpi"}
    return table(
        [
            {
                "KPI": kpi.metric,
                "found": str(found[kpi.metric]),
                "must be": f"{kpi.direction} {kpi.threshold:g}",
                "owner": kpi.owner,
                "what it means": kpi.meaning,
            }
            for kpi in problem.KPIS
        ]
    )


def named(values: dict[str, Any]) -> str:
    """Names and values as a table."""
    return table([{"what": name, "value": str(value)} for name, value in values.items()])


def model_card(facts: Facts) -> str:
    """The model card (after Mitchell et al., 2019, "Model Cards for Model Reporting")."""
    gate, bundle, project, metric = facts["gate"], facts["bundle"], facts["project"], problem.KPIS[0].metric
    about = problem.ABOUT
    training = bundle["parameters"]["train"] | bundle["parameters"]["split"]
    against = gate["production"] or "the baseline"
    parts = [
        f"# Model card: {project['project_name']}",
        f"Model {bundle['version']}. Written by `make pipeline`; do not edit.",
        f"**Purpose.** {about.purpose}",
        f"**Limits.** {about.limits}",
        f"**Owner.** @{project['owner']}, {project['owner_contact']}",
        f"**Data.** {about.data} Licence: {about.data_licence}. {facts['split']['train']:,} rows to train on "
        f"and {facts['split']['test']:,} to test on, SHA-256 of both `{bundle['data']}`. "
        f"See the [data card]({DATA_CARD.name}).",
        f"## Verdict: {gate['verdict']}",
        "\n".join(f"- {reason}" for reason in gate["reasons"]),
        "## What it must reach",
        kpi_table(gate["checks"]),
        "![How good the model is](../reports/gate.png)",
        f"## Segments: {metric} better than that of {against}",
        estimates(facts, "segment") or "No column is declared as a segment.",
        "## Fairness: difference between groups",
        estimates(facts, "fairness") or "No column is declared as protected.",
        "## Environment",
        named(bundle["libraries"]),
        named(training),
        "## Reproduce",
        "`make reproduce REV=<this commit>` trains it again and compares content and metrics.",
    ]
    return "\n\n".join(parts) + "\n"


def data_card(facts: Facts) -> str:
    """The data card (after Gebru et al., 2021, "Datasheets for Datasets")."""
    data, contract, about = facts["data"], problem.CONTRACT, problem.ABOUT
    roles = {"protected": "protected", "personal": "personal, dropped", "segment": "segment"}
    columns = [
        {
            "column": f"`{column.name}`",
            "what it is": column.description,
            "must be": column.rule,
            "role": ", ".join(said for role, said in roles.items() if getattr(column, role)),
            "missing": data["columns"].get(column.name, {}).get("missing", ""),
        }
        for column in contract.columns
    ]
    parts = [
        f"# Data card: {facts['project']['project_name']}",
        f"Data of model {facts['bundle']['version']}. Written by `make pipeline`; do not edit.",
        f"**Source.** {about.data} Licence: {about.data_licence}.",
        f"**Rows.** {data['rows']:,}; {data['rejected']:,} rejected for breaking the contract. "
        f"{facts['split']['train']:,} to train on, {facts['split']['test']:,} to test on.",
        f"**Key** `{contract.key}`, **target** `{contract.target}`, task {contract.task}.",
        table([{"rule broken": rule, "rows": count} for rule, count in data["reasons"].items()]),
        "## Columns",
        table(columns),
        "![Distribution of each column](../reports/data/distributions.png)",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


CARDS = {MODEL_CARD: model_card, DATA_CARD: data_card}


def write() -> None:
    """Write both cards."""
    facts = read_facts()
    for path, card in CARDS.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(card(facts), encoding="utf-8")


def stale(facts: Facts) -> list[str]:
    """Why the cards do not belong to the bundle that `dvc.lock` names."""
    locked = locked_hashes("bundle", "outs")
    found = []
    if locked.get(str(BUNDLE_REPORT)) != dvc_hash(BUNDLE_REPORT.read_bytes()):
        found.append(f"{BUNDLE_REPORT} is not that of {BUNDLE} in {LOCK}")
    if facts["gate"]["model_version"] != facts["bundle"]["version"]:
        found.append(
            f"{GATE_REPORT} judges model {facts['gate']['model_version']}, not {facts['bundle']['version']}"
        )
    blocked = facts["gate"]["verdict"] == "block"
    for path, card in CARDS.items():
        if blocked and path.exists():
            found.append(f"{path} is there, but model {facts['gate']['model_version']} is blocked")
        elif not blocked and (not path.exists() or path.read_text(encoding="utf-8") != card(facts)):
            found.append(f"{path} is not what the reports say")
    return found


def check() -> None:
    """Stop a commit whose cards, reports and `dvc.lock` are not of one model.

    Raises:
        ProjectError: they are not. Before a model was judged, and where none has a card, nothing can be.
    """
    missing = [path for path in REPORTS.values() if not path.exists()]
    if not LOCK.exists() or (missing and not any(path.exists() for path in CARDS)):
        return
    if missing:
        raise ProjectError(
            f"stale cards: {missing[0]} is missing, for the pipeline stopped before it. "
            f"Mend that and `make pipeline`, or commit {ALONE}"
        )
    facts = read_facts()
    if found := stale(facts):
        way = "`make pipeline` renews them"
        if facts["gate"]["verdict"] == "block":
            way = "the gate blocks this model, so it has none; `make gate` removes them"
        raise ProjectError(
            f"stale cards: {way}. Commit {LOCK}, {GATE_REPORT.parent}/ and {MODEL_CARD.parent}/ together, or "
            f"{ALONE}\n- " + "\n- ".join(found)
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write the cards, or check that they belong to the current bundle."
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a card is stale")
    if parser.parse_args().check:
        check()
    else:
        write()


if __name__ == "__main__":
    cli(main)
