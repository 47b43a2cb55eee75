"""Gate: decide whether the model may replace the model in production.

The verdict is `promote`, `keep` (the model in production stays) or `block` (exit code 1). The gate runs
after the pipeline and is not a DVC stage: it depends on the newest production tag, which DVC does not track.

    python -m <package>.evaluation.gate [--verify]

A committed verdict is only a text. Before an image is built, `--verify` derives it again from code, data and
bundle, and writes nothing.
"""

import argparse
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from .. import declarations, params
from ..contract import Contract
from ..contract.expectations import BehaviouralTest
from ..contract.tables import read_features
from ..core.errors import ProjectError, cli
from ..core.files import read_json, write_json
from ..core.git import changes
from ..core.lock import compare_code
from ..core.paths import BUNDLE, BUNDLE_REPORT, DATA_REPORT, GATE_REPORT, RESULTS, SOURCES, SPLIT_REPORT, TEST
from ..data.report import load_data_report
from ..data.split import load_split_report
from ..declarations import Declarations
from ..model import registry
from ..model.bundle import Model, content_hash
from . import cards, plots
from .checks import CHECKS, Check, Evidence, Production, Verdict, checks_table, decide
from .evaluate import predict_baseline

VOLATILE = ("production", "segment", "bundle")
"""Checks against the model in production, or of measurements that differ between runs (latency)."""


class GateReport(msgspec.Struct):
    """Content of reports/gate.json."""

    verdict: Verdict
    model_version: str
    production: str | None  # tag of the model that was compared with
    reasons: list[str]
    checks: list[Check]


def judge(evidence: Evidence) -> GateReport:
    """Run all checks and derive the verdict.

    Args:
        evidence: Input of all checks.

    Returns:
        The report. Its reasons are the checks that fail, or else those that warn, or else the comparisons
        with baseline and production.
    """
    checks = [result for check in CHECKS for result in check(evidence)]
    verdict = decide(checks)
    status = {"block": "fail", "keep": "warn", "promote": "pass"}[verdict]
    compared = [check for check in checks if check.check in ("baseline", "production")]
    deciding = [check for check in (compared if verdict == "promote" else checks) if check.status == status]
    tag = evidence.production.tag if evidence.production else None
    return GateReport(verdict, evidence.version, tag, [check.reason for check in deciding], checks)


def apply_change(
    features: NDArray[np.float32], test: BehaviouralTest, contract: Contract
) -> NDArray[np.float32]:
    """Apply the change of a behavioural test to every row, within the contract's limits.

    Args:
        features: Shape `(n_rows, n_features)`.
        test: The behavioural test.
        contract: The contract of the features.

    Returns:
        A changed copy.
    """
    column, changed = contract.column(test.column), features.copy()
    start = contract.feature_names.index(column.encoded_names[0])
    numbers = changed[:, start : start + len(column.encoded_names)]
    if not isinstance(test.change, str):
        np.clip(numbers + test.change, *column.bounds, out=numbers)
    elif column.length is None:
        numbers[:] = column.categories.index(test.change)
    else:
        has_room = numbers.sum(axis=1) < column.length  # false for a missing list
        numbers[has_room, column.categories.index(test.change)] = 1
    return changed


def _count_changed(features: NDArray[np.float32], changed: NDArray[np.float32]) -> int:
    """Number of rows in which a feature differs; a missing value is equal to itself."""
    return int(((features != changed) & ~np.isnan(changed)).any(axis=1).sum())


def collect_evidence(model: Model, settings: params.Params, problem: Declarations) -> Evidence:
    """Predict the test rows with the model, the model in production and the baseline.

    Args:
        model: The bundle to judge.
        settings: All parameters.
        problem: The declarations of `problem.py`.

    Returns:
        Input of all checks.

    Raises:
        ProjectError: The model in production cannot be fetched.
    """
    test = problem.read_split(TEST, model.contract)
    features = test.features.to_numpy()
    production, differences = _predict_production(model.contract, settings.gate.comparison_reset_tag)
    changed = [apply_change(features, effect, model.contract) for effect in problem.behavioural_tests]
    return Evidence(
        params=settings,
        problem=problem,
        version=model.metadata.version,
        test=test,
        outputs=model.run(features),
        baseline=predict_baseline(test),
        production=production,
        contract_differences=differences,
        changed_outputs=tuple(map(model.run, changed)),
        changed_rows=tuple(_count_changed(features, other) for other in changed),
        reports={
            "data": load_data_report(DATA_REPORT / "data.json"),
            "split": load_split_report(SPLIT_REPORT),
            "bundle": read_json(BUNDLE_REPORT),
        },
    )


def _predict_production(contract: Contract, reset_tag: str | None) -> tuple[Production | None, list[str]]:
    """Outputs of the model in production for the test rows, or why it cannot predict them."""
    tag = registry.find_production_tag()
    if tag is None or tag == reset_tag:
        return None, []
    champion = registry.load_champion(tag)
    if differences := registry.contract_differences(champion.contract, contract):
        return None, differences
    outputs = champion.run(read_features(TEST, champion.contract).to_numpy())
    return Production(tag, champion.metadata.version, outputs, champion.contract.decision_threshold), []


def write_markdown(report: GateReport, evidence: Evidence, path: Path) -> None:
    """Write the report for people.

    Args:
        report: The report.
        evidence: What it was made from.
        path: The Markdown file; the plots lie beside it.
    """
    reference = report.production or "the baseline (no model is in production)"
    parts = [
        f"# Gate: {report.verdict}",
        f"Model {report.model_version}, on {len(evidence.test):,} test rows, compared with {reference}.",
        "\n".join(f"- {reason}" for reason in report.reasons),
        "## KPIs",
        cards.kpi_table(msgspec.to_builtins(report.checks), evidence.problem.kpis),
        "![Curves, calibration and segments](gate.png)",
        "## Checks",
        checks_table(report.checks, f"{evidence.params.gate.confidence_level:.0%} CI"),
    ]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _is_recorded(report: GateReport, evidence: Evidence) -> bool:
    """Whether the committed report is of the model in production, and all but the comparison is unchanged.

    It holds the comparison with the previous model, which a comparison with itself would overwrite.
    """
    in_production = evidence.production and evidence.production.version == report.model_version
    if not in_production or not GATE_REPORT.exists():
        return False
    try:
        recorded = read_json(GATE_REPORT)
    except ProjectError:  # it is broken, and written again
        return False
    current = msgspec.to_builtins(report)
    if recorded["model_version"] != report.model_version or "block" in (recorded["verdict"], report.verdict):
        return False
    lasting, former = (  # 0.2.x wrote "rule"
        [check for check in content["checks"] if check.get("check") not in VOLATILE]
        for content in (current, recorded)
    )
    return lasting == former


def verify(report: GateReport, evidence: Evidence, problem: Declarations) -> None:
    """Compare the verdict with the committed one. The model in production may be deployed again.

    Args:
        report: What the gate says now.
        evidence: What it was made from.
        problem: The declarations of `problem.py`.

    Raises:
        ProjectError: HEAD has another verdict, another model, or results of other code.
    """
    recorded = registry.read_report(GATE_REPORT)
    faults = compare_code("HEAD", declarations.stage_files(declarations.stage_inputs(problem)))
    if edited := changes((*RESULTS, *SOURCES)):
        faults.append(f"the working folder is not HEAD:\n{edited}")
    if not (actual := content_hash(BUNDLE)).startswith(expected := registry.recorded_hash()):
        faults.append(f"{BUNDLE} is model {actual}, {BUNDLE_REPORT} of HEAD says {expected}")
    if recorded["model_version"] != report.model_version:
        faults.append(f"{GATE_REPORT} of HEAD judges model {recorded['model_version']}")
    if recorded["verdict"] != report.verdict and not _is_recorded(report, evidence):
        reasons = "; ".join(report.reasons)
        verdicts = f"{recorded['verdict']}, the gate says {report.verdict}"
        faults.append(f"{GATE_REPORT} of HEAD says {verdicts}: {reasons}")
    if faults:
        raise ProjectError(
            "verify: the results of HEAD cannot be derived from its code and data. `make pipeline` renews "
            "them; commit them together with the code.\n- " + "\n- ".join(faults)
        )


def run(is_verification: bool = False) -> None:
    """Judge the bundle.

    Args:
        is_verification: Whether to compare with the verdict of HEAD, instead of writing reports and cards.

    Raises:
        ProjectError: The model is blocked, or the verdict of HEAD cannot be derived again.
    """
    problem = declarations.load()
    declarations.check_expectations(problem)
    evidence = collect_evidence(Model(BUNDLE), params.load(), problem)
    report = judge(evidence)
    if is_verification:
        verify(report, evidence, problem)
        print(f"verify: model {report.model_version} has the verdict that HEAD says")
        return
    is_recorded = _is_recorded(report, evidence)
    if not is_recorded:
        write_json(GATE_REPORT, report)
        plots.draw(evidence, report.checks, GATE_REPORT.with_suffix(".png"))
        write_markdown(report, evidence, GATE_REPORT.with_suffix(".md"))
    reasons = "".join(f"\n- {reason}" for reason in report.reasons)
    if report.verdict == "block":
        for path in cards.CARDS:  # they describe another model
            path.unlink(missing_ok=True)
        raise ProjectError(
            f"the gate blocks model {report.model_version}{reasons}\n"
            f"All checks: {GATE_REPORT.with_suffix('.md')}. The cards were deleted. Commit all changes, or "
            f"{cards.ALONE}"
        )
    cards.write(problem)
    print(f"gate: {report.verdict} model {report.model_version}{reasons}")
    if is_recorded:
        print(f"gate: unchanged, {GATE_REPORT} and the cards already describe this model")


def main() -> None:
    """Write reports and cards, or verify the verdict of HEAD."""
    parser = argparse.ArgumentParser(description="Decide whether the model may go into production.")
    text = "write nothing; compare with the verdict of HEAD"
    parser.add_argument("--verify", action="store_true", help=text)
    run(parser.parse_args().verify)


if __name__ == "__main__":
    cli(main)
