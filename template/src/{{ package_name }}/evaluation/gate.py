"""The gate: may this model replace the one in production? `promote`, `keep` or `block`, with reasons.

It runs after the pipeline and not as a stage of it: the newest production tag is a fact of git, which
DVC does not watch. `block` ends with exit code 1; `keep` and `promote` are told apart in the report.
"""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from .. import params, problem
from ..contract import Contract
from ..contract.dataset import load_dataset
from ..contract.expectations import Behaviour
from ..contract.tables import read_features
from ..core.errors import ProjectError, cli
from ..core.files import write_json
from ..core.paths import BUNDLE, BUNDLE_REPORT, DATA_REPORT, GATE_REPORT, SPLIT_REPORT, TEST
from ..model import registry
from ..model.bundle import Model
from ..stats.metrics import METRICS
from . import cards, plots
from .checks import RULES, Check, Evidence, Production, Verdict, overview, worst
from .evaluate import baseline

VOLATILE = ("production", "segment", "bundle")
"""Rules that compare with the model in production, or with figures of one run (latency)."""


class Judgement(msgspec.Struct):
    """The gate's answer: the machine-readable report."""

    verdict: Verdict
    model_version: str
    production: str | None  # the tag of the model it was compared with
    reasons: list[str]
    checks: list[Check]


def judge(evidence: Evidence) -> Judgement:
    """Ask every rule; the worst verdict counts."""
    checks = [check for rule in RULES for check in rule(evidence)]
    verdict = worst(checks)
    telling = [check for check in checks if check.verdict == verdict]
    if verdict == "promote":
        telling = [check for check in checks if check.rule in ("baseline", "production")]
    reasons = [f"{check.rule}, {check.subject}: {check.said}" for check in telling]
    tag = evidence.production.tag if evidence.production else None
    return Judgement(verdict, evidence.version, tag, reasons, checks)


def check_expectations(contract: Contract) -> None:
    """Refuse what `problem.py` expects of a metric, column or label that there is not."""
    metrics = METRICS[contract.task]
    if not problem.KPIS:
        raise ProjectError("problem.KPIS: declare at least one, models are compared by the first")
    for kpi in problem.KPIS:
        if kpi.metric not in metrics:
            raise ProjectError(
                f"problem.KPIS: {kpi.metric!r} is not a metric of {contract.task}: {', '.join(metrics)}"
            )
    single = {column.name: column for column in contract.features if column.encoded_names == (column.name,)}
    labels = (None,) if contract.task == "regression" else contract.labels
    for behaviour in problem.BEHAVIOURS:
        column = single.get(behaviour.column)
        if column is None or behaviour.label not in labels:
            raise ProjectError(
                f"problem.BEHAVIOURS: {behaviour.column!r} must be a feature of kind number, integer or "
                f"category, and the label one of {labels}; it is {behaviour.label!r}"
            )
        is_number = not isinstance(behaviour.change, str)
        if not (behaviour.change in column.categories if column.kind == "category" else is_number):
            raise ProjectError(
                f"problem.BEHAVIOURS: {behaviour.column} cannot change to {behaviour.change!r}"
            )


def change(features: NDArray, behaviour: Behaviour, contract: Contract) -> NDArray:
    """The features after the behaviour's change, inside the contract's limits."""
    column, place = contract.column(behaviour.column), contract.feature_names.index(behaviour.column)
    changed = features.copy()
    if isinstance(behaviour.change, str):
        changed[:, place] = column.categories.index(behaviour.change)
    else:
        changed[:, place] = np.clip(changed[:, place] + behaviour.change, *column.bounds)
    return changed


def gather(model: Model, settings: params.Params) -> Evidence:
    """Answer the test rows with this model, with the one in production, and with none."""
    contract = model.contract
    check_expectations(contract)
    test = load_dataset(TEST, contract, problem.BASELINE)
    features = test.features.to_numpy()
    tag = registry.find_production_tag()
    champion = registry.load_champion(tag) if tag and tag != settings.gate.comparison_reset_tag else None
    apart = registry.contract_differences(champion.contract, contract) if champion else []
    compared = None
    if tag and champion and not apart:
        answers = champion.run(read_features(TEST, champion.contract).to_numpy())
        compared = Production(tag, champion.metadata.version, answers)
    reports = {"data": DATA_REPORT / "data.json", "split": SPLIT_REPORT, "bundle": BUNDLE_REPORT}
    return Evidence(
        params=settings,
        contract=contract,
        kpis=problem.KPIS,
        behaviours=problem.BEHAVIOURS,
        version=model.metadata.version,
        target=test.target,
        outputs=model.run(features),
        baseline=baseline(test),
        production=compared,
        incomparable=apart,
        changed=tuple(model.run(change(features, behaviour, contract)) for behaviour in problem.BEHAVIOURS),
        segments=test.segments,
        protected=test.protected,
        reports={name: msgspec.json.decode(path.read_bytes()) for name, path in reports.items()},
    )


def write_report(found: Judgement, evidence: Evidence, path: Path) -> None:
    """The judgement as Markdown, with pictures."""
    against = found.production or "the baseline: nothing is in production yet"
    parts = [
        f"# Gate: {found.verdict}",
        f"Model {found.model_version} on {len(evidence.target):,} test rows, against {against}.",
        "\n".join(f"- {reason}" for reason in found.reasons),
        "## What the model is for",
        f"In brackets: the {evidence.params.gate.confidence_level:.0%} confidence interval.",
        cards.kpi_table(msgspec.to_builtins(found.checks)),
        "![How good the model is](gate.png)",
        "## Every check",
        overview(found.checks),
    ]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def lasting(checks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Checks that come out alike as long as model, data and limits are the same."""
    return [check for check in checks if check["rule"] not in VOLATILE]


def is_recorded(judgement: Judgement, evidence: Evidence) -> bool:
    """Whether the reports are of the model in production already, and nothing but that has changed since.

    They say how it compared with the model before it; held against itself, it would lose that.
    """
    in_production = evidence.production and evidence.production.version == judgement.model_version
    if not in_production or judgement.verdict == "block" or not GATE_REPORT.exists():
        return False
    recorded = msgspec.json.decode(GATE_REPORT.read_bytes())
    is_same = recorded["model_version"] == judgement.model_version and recorded["verdict"] != "block"
    checks = msgspec.json.decode(msgspec.json.encode(judgement.checks))
    return is_same and lasting(recorded["checks"]) == lasting(checks)


def record(judgement: Judgement, evidence: Evidence) -> None:
    """Write the reports. A blocked model gets no cards, and those of the last one would not be of it."""
    write_json(GATE_REPORT, judgement)
    plots.draw(evidence, judgement.checks, GATE_REPORT.with_suffix(".png"))
    write_report(judgement, evidence, GATE_REPORT.with_suffix(".md"))
    if judgement.verdict == "block":
        for path in cards.CARDS:
            path.unlink(missing_ok=True)


def main() -> None:
    evidence = gather(Model(BUNDLE), params.load())
    found = judge(evidence)
    stays = is_recorded(found, evidence)
    if not stays:
        record(found, evidence)
    if found.verdict != "block":
        cards.write()
    reasons = "".join(f"\n- {reason}" for reason in found.reasons)
    if found.verdict == "block":
        raise ProjectError(
            f"the gate blocks model {found.model_version}{reasons}\n"
            f"{GATE_REPORT.with_suffix('.md')} says all. "
            f"The model has no cards. Commit all of it, or {cards.ALONE}"
        )
    print(f"gate: {found.verdict} model {found.model_version}{reasons}")
    if stays:
        print(f"gate: {GATE_REPORT} and the cards are of this model already, and stay as they are")


if __name__ == "__main__":
    cli(main)
