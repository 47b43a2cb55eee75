"""The gate's checks. Each reads the evidence and yields results with a status: pass, warn, fail or skipped.

What must be proven (a KPI, being better) is judged by the unfavourable end of the confidence interval. What
must not happen (a regression, a disparity, miscalibration) fails only if the data prove it. So a single
check is wrong by chance in at most `(1 - gate.confidence_level) / 2` of all cases, in either direction.
`skipped` means that the rows cannot tell: it is never counted as a pass.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from .. import params
from ..contract import TOP_K, Contract
from ..contract.dataset import Dataset
from ..contract.expectations import BehaviouralTest
from ..core.files import table
from ..declarations import Declarations
from ..stats import inference
from ..stats.inference import Estimate, Floats, Statistic, Statistics, adjust_holm, p_value_below_zero
from ..stats.metrics import absolute_errors, find_metric, predict_labels, resampled_mean, target_ranks

Rows = NDArray[np.intp]
Predictions = tuple[str, Floats, Floats]  # name, observed values, predictions
Status = Literal["fail", "warn", "skipped", "pass"]
Verdict = Literal["promote", "keep", "block"]
ACTIONS = {
    "data": "Add rows, or correct the source or the split: see reports/data/data.md and reports/split.json.",
    "bundle": "Run `make pipeline` again; use a smaller or simpler estimator if a limit is still exceeded.",
    "kpi": "Improve the model or its data. Lower the threshold only if the owner of the KPI agrees.",
    "baseline": "The features do not help to predict the target: look for errors in data and features.",
    "production": "The model in production stays. Improve the data, the features or the estimator.",
    "segment": "Look at the rows of this segment: missing data, changed values, too few training rows.",
    "fairness": "Compare the groups in the training data; then change features, weights or the threshold.",
    "calibration": "Wrap the estimator in CalibratedClassifierCV, or drop class weights and resampling.",
    "behaviour": "Look for leakage or a wrong sign in the data, or correct the test in problem.py.",
}
"""What to do when a check fails, by name of the check."""

BEHAVIOUR_FIELD = "BEHAVIOURAL_TESTS in problem.py"


class Check(msgspec.Struct, omit_defaults=True):
    """Result of a check of one subject.

    Attributes:
        check: Name of the check, such as "kpi".
        subject: Metric, label, segment or group that was checked.
        status: "skipped" if the rows cannot tell.
        message: The result in words.
        limit: What the value must satisfy, in words.
        parameter: The parameter or field that sets the limit.
        estimate: The statistic with its confidence interval.
        value: The number that was checked, where it has no interval.
        p_value: Of the test that decides, corrected for the number of tests.
    """

    check: str
    subject: str
    status: Status
    message: str
    limit: str = ""
    parameter: str = ""
    estimate: Estimate | None = None
    value: float | None = None
    p_value: float | None = None

    @property
    def reason(self) -> str:
        """One line.

        Returns:
            The result and, unless it passes, its limit, the parameter that sets it and what to do.
        """
        text = f"{self.check}, {self.subject}: {self.message}"
        if self.status == "pass":
            return text
        limit = f" Limit: {self.limit}." if self.limit else ""
        parameter = f" Set by {self.parameter}." if self.parameter else ""
        return f"{text}.{limit}{parameter} {ACTIONS.get(self.check, '')}".rstrip()


Checks = Iterator[Check]


@dataclass(frozen=True)
class Production:
    """The model in production: tag, version and outputs for the test rows, `(n_rows, n_labels)`.

    Its decision threshold is its own, because the contract may have another one by now.
    """

    tag: str
    version: str
    outputs: Floats
    decision_threshold: float | None = None


@dataclass(frozen=True)
class Evidence:
    """Input of all checks. Outputs have shape `(n_rows, n_labels)`, a row for each test row.

    Attributes:
        problem: The declarations of `problem.py`.
        version: Version of the model.
        outputs: Outputs of the model.
        baseline: Outputs of the baseline.
        production: None if no model is in production, or if it cannot predict the test rows.
        contract_differences: Why the model in production cannot predict the test rows.
        changed_outputs: Outputs after the change of each behavioural test.
        changed_rows: Number of rows in which that changes a feature.
        reports: Reports of the stages validate ("data"), split and bundle.
    """

    params: params.Params
    problem: Declarations
    version: str
    test: Dataset
    outputs: Floats
    baseline: Floats
    production: Production | None
    contract_differences: list[str]
    changed_outputs: tuple[Floats, ...]
    changed_rows: tuple[int, ...]
    reports: dict[str, Any]

    @property
    def contract(self) -> Contract:
        """The contract.

        Returns:
            That of the test rows.
        """
        return self.test.contract

    @property
    def segments(self) -> dict[str, Rows]:
        """Rows of each segment.

        Returns:
            Positions of the rows by name of the segment, such as "colour = red".
        """
        return {
            f"{column} = {value}": rows
            for column, groups in self.test.segments.items()
            for value, rows in groups.items()
        }

    @property
    def alpha(self) -> float:
        """Significance level.

        Returns:
            That of a one-sided test, between 0 and 0.5.
        """
        return (1 - self.params.gate.confidence_level) / 2

    @property
    def reference(self) -> str:
        """Name of the model that this model is compared with.

        Returns:
            The tag of the model in production, or "the baseline".
        """
        return self.production.tag if self.production else "the baseline"

    def bootstrap(self, statistics: Statistics) -> dict[str, Estimate]:
        """Estimate statistics of the test rows, each row with its sample weight.

        Args:
            statistics: Functions of bootstrap counts, by name.

        Returns:
            Estimates by name.
        """
        gate, weights = self.params.gate, self.test.weights
        if weights is not None:
            statistics = {name: _weigh(statistic, weights) for name, statistic in statistics.items()}
        return inference.bootstrap(
            statistics,
            len(self.test),
            gate.n_bootstrap,
            gate.confidence_level,
            gate.bootstrap_block_size,
            self.test.groups,
        )

    def improvement(self, production: Production | None, rows: Rows | slice = slice(None)) -> Statistic:
        """How much better the primary metric is than that of a reference; positive is better.

        Args:
            production: The reference; None: the baseline.
            rows: Positions of the rows to compare on; all by default.

        Returns:
            A statistic for `bootstrap`.
        """
        kpi, observations = self.problem.primary_kpi, self.test.observations.take(rows)
        threshold = self.contract.decision_threshold
        metric, reference_metric = (
            find_metric(kpi.metric, self.contract.task, threshold, self.problem.custom_metrics)
            for threshold in (threshold, production.decision_threshold if production else threshold)
        )
        outputs, reference = self.outputs[rows], (production.outputs if production else self.baseline)[rows]

        def difference(counts: Floats) -> Floats:
            drawn = counts[:, rows]
            new = metric(observations, outputs, drawn)
            return kpi.sign * (new - reference_metric(observations, reference, drawn))

        return difference


def _weigh(statistic: Statistic, weights: Floats) -> Statistic:
    """Statistic of rows that do not count alike."""
    return lambda counts: statistic(counts * weights)


def status_if(passed: bool, otherwise: Status = "fail") -> Status:
    """Status of a check that can pass.

    Args:
        passed: Whether it passes.
        otherwise: Status if it does not.

    Returns:
        "pass" or `otherwise`.
    """
    return "pass" if passed else otherwise


def _at_least(check: str, subject: str, value: float, limit: float, parameter: str) -> Check:
    """Check a number against a lower limit."""
    status = status_if(value >= limit)
    return Check(check, subject, status, _number(value), f"≥ {_number(limit)}", parameter, value=value)


def _at_most(check: str, subject: str, value: float, limit: float, parameter: str = "") -> Check:
    """Check a number against an upper limit."""
    status = status_if(value <= limit)
    return Check(check, subject, status, _number(value), f"≤ {_number(limit)}", parameter, value=value)


def compare(metric: str, estimate: Estimate, reference: str) -> str:
    """Say whether a metric is better or worse than that of a reference.

    Args:
        metric: Name of the metric.
        estimate: Of the improvement; positive is better.
        reference: Name of the reference.

    Returns:
        Such as "roc_auc is worse than production/2026-01-31-1 by 0.14 (0.04 to 0.24)".
    """
    if not estimate.is_defined:
        return f"{metric} is undefined on these rows"
    if estimate.value >= 0:
        return f"{metric} is better than {reference} by {estimate}"
    size = Estimate(-estimate.value, -estimate.high, -estimate.low, estimate.standard_error)
    return f"{metric} is worse than {reference} by {size}"


def check_data(evidence: Evidence) -> Checks:
    """Check that the test split is large enough, and separate from the training split.

    Args:
        evidence: Input of all checks.

    Yields:
        Results for the test rows and groups, each label, what is in both splits, and data validation.
    """
    gate, split, contract = evidence.params.gate, evidence.reports["split"], evidence.contract
    yield _at_least("data", "test rows", len(evidence.test), gate.min_test_rows, "gate.min_test_rows")
    if contract.task == "classification":
        counts = np.bincount(evidence.test.target.astype(np.int64), minlength=len(contract.labels))
        for label, count in zip(contract.labels, counts.tolist(), strict=True):
            yield _at_least("data", f"label {label}", count, gate.min_label_rows, "gate.min_label_rows")
    if evidence.test.groups is not None:
        n_groups = len(np.unique(evidence.test.groups))
        yield _at_least("data", "test groups", n_groups, gate.min_test_groups, "gate.min_test_groups")
        yield _at_most("data", "groups in both splits", split.shared_groups, 0)
    yield _at_most("data", "keys in both splits", split.shared_keys, 0)
    limit, parameter = evidence.params.split.max_overlap_share, "split.max_overlap_share"
    yield _at_most("data", "duplicate share", split.excess_duplicate_share, limit, parameter)
    failures = evidence.reports["data"].with_status("fail")
    message = "; ".join(map(str, failures)) or "no leakage and no other failure"
    yield Check("data", "validation", status_if(not failures), message, "≤ 0", value=len(failures))


def check_budget(evidence: Evidence) -> Checks:
    """Check that the bundle equals its estimator, and that it is small and fast enough.

    Args:
        evidence: Input of all checks.

    Yields:
        Results for version, labels, parity, size and latency.
    """
    gate, report = evidence.params.gate, evidence.reports["bundle"]
    status = status_if(report["version"] == evidence.version)
    yield Check("bundle", "version", status, evidence.version, f"{report['version']} (reports/bundle.json)")
    yield _at_most("bundle", "labels other than the estimator's", report.get("other_labels", 0), 0)
    tolerance = evidence.params.bundle.parity_tolerance
    yield _at_most("bundle", "parity", report["parity"], tolerance, "bundle.parity_tolerance")
    for name in ("size_mb", "latency_ms"):
        yield _at_most("bundle", name, report[name], getattr(gate, f"max_{name}"), f"gate.max_{name}")


def check_kpis(evidence: Evidence) -> Checks:
    """Check that the whole confidence interval of each KPI reaches its threshold.

    Args:
        evidence: Input of all checks.

    Yields:
        A result for each KPI.
    """
    kpis, metrics = evidence.problem.kpis, evidence.problem.make_metrics(evidence.contract)
    sample = evidence.test.observations, evidence.outputs
    estimates = evidence.bootstrap({kpi.metric: partial(metrics[kpi.metric], *sample) for kpi in kpis})
    for kpi in kpis:
        estimate = estimates[kpi.metric]
        bound, side = (estimate.low, "lower bound ≥") if kpi.sign > 0 else (estimate.high, "upper bound ≤")
        status, limit = status_if(kpi.sign * (bound - kpi.threshold) >= 0), f"CI {side} {kpi.threshold:g}"
        message, field = f"{kpi.metric} is {estimate}", "Kpi.threshold in problem.py"
        yield Check("kpi", kpi.metric, status, message, limit, field, estimate)


def check_baseline(evidence: Evidence) -> Checks:
    """Check that the model is significantly better than the baseline.

    Args:
        evidence: Input of all checks.

    Yields:
        One result, for the primary metric.
    """
    metric = evidence.problem.primary_kpi.metric
    estimate = evidence.bootstrap({metric: evidence.improvement(None)})[metric]
    message, limit = compare(metric, estimate, "the baseline"), "CI lower bound > 0"
    subject, status = f"{metric} improvement", status_if(estimate.low > 0)
    yield Check("baseline", subject, status, message, limit, "BASELINE in problem.py", estimate)


def check_production(evidence: Evidence) -> Checks:
    """Check that the model is superior, or not inferior, to the model in production.

    With `gate.promotion_test: superiority`, the interval of the improvement must be above 0; with
    `non_inferiority`, above `-gate.non_inferiority_margin`. Below that margin as a whole, it fails.

    Args:
        evidence: Input of all checks.

    Yields:
        At most one result: "warn" if the model may not replace the one in production.
    """
    production, gate, metric = evidence.production, evidence.params.gate, evidence.problem.primary_kpi.metric
    if evidence.contract_differences:
        differences = "; ".join(evidence.contract_differences)
        message = (
            f"the model in production cannot predict these rows: {differences}. Leave a column that the new "
            "model does not use in the contract, with feature=False; or name the tag that ends the comparison"
        )
        yield Check("production", "contract", "fail", message, "same columns", "gate.comparison_reset_tag")
    if production is None:
        return
    subject = f"{metric} improvement"
    if production.version == evidence.version:
        yield Check("production", subject, "warn", f"this is the model in production ({production.tag})")
        return
    estimate = evidence.bootstrap({metric: evidence.improvement(production)})[metric]
    margin = gate.non_inferiority_margin
    required = 0 if gate.promotion_test == "superiority" else -margin
    status = "fail" if estimate.high < -margin else "pass" if estimate.low > required else "warn"
    limit = f"CI lower bound > {required:g}; fails if CI upper bound < {-margin:g}"
    parameter = "gate.promotion_test and gate.non_inferiority_margin"
    message = compare(metric, estimate, production.tag)
    yield Check("production", subject, status, message, limit, parameter, estimate)


def check_mcnemar(evidence: Evidence) -> Checks:
    """Check that not significantly more predicted labels turn wrong than right (McNemar's test).

    Args:
        evidence: Input of all checks.

    Yields:
        One result for a classification with a model in production.
    """
    if evidence.production is None or evidence.contract.task != "classification":
        return
    production, threshold = evidence.production, evidence.contract.decision_threshold
    is_right = predict_labels(evidence.outputs, threshold) == evidence.test.target
    was_right = predict_labels(production.outputs, production.decision_threshold) == evidence.test.target
    n_worse, n_better = int((was_right & ~is_right).sum()), int((is_right & ~was_right).sum())
    changes = is_right.astype(float) - was_right
    if evidence.test.groups is not None:
        changes = np.bincount(evidence.test.groups, weights=changes)
    p_value = inference.mcnemar_p_value(changes)
    message = f"{n_worse} predictions turned from right to wrong, {n_better} from wrong to right"
    status, limit = status_if(p_value >= evidence.alpha, "warn"), f"p ≥ {evidence.alpha:g}"
    yield Check("production", "labels", status, message, limit, "gate.confidence_level", p_value=p_value)


def check_segments(evidence: Evidence) -> Checks:
    """Check that no segment is significantly worse (corrected for their number: Holm, 1979).

    Args:
        evidence: Input of all checks.

    Yields:
        A result for each segment; "skipped" if it has too few rows, or leaves the metric undefined.
    """
    production = evidence.production
    metric, min_rows = evidence.problem.primary_kpi.metric, evidence.params.gate.min_segment_rows
    large = {name: rows for name, rows in evidence.segments.items() if len(rows) >= min_rows}
    estimates = evidence.bootstrap({n: evidence.improvement(production, rows) for n, rows in large.items()})
    defined = {name: estimate for name, estimate in estimates.items() if estimate.is_defined}
    p_values = adjust_holm([p_value_below_zero(estimate) for estimate in defined.values()])
    limit = f"fails if worse than {evidence.reference} (p ≤ {evidence.alpha:g}, Holm)"
    for (name, estimate), p_value in zip(defined.items(), p_values, strict=True):
        status, message = status_if(p_value > evidence.alpha), compare(metric, estimate, evidence.reference)
        parameter = "gate.confidence_level"
        yield Check("segment", name, status, message, limit, parameter, estimate, p_value=p_value)
    for name, rows in evidence.segments.items():
        if name not in large:
            message = f"fewer than {min_rows} rows"
            yield Check("segment", name, "skipped", message, limit, "gate.min_segment_rows")
        elif name not in defined:
            message = f"{metric} is undefined{_one_label(evidence, rows)}"
            yield Check("segment", name, "skipped", message, limit)


def _one_label(evidence: Evidence, rows: Rows) -> str:
    """Why a metric is undefined: all rows have one label; empty if that is not the reason."""
    labels = np.unique(evidence.test.target[rows])
    if evidence.contract.task != "classification" or len(labels) > 1:
        return ""
    return f": all rows are {evidence.contract.labels[int(labels[0])]}"


class _Rate(NamedTuple):
    """A rate that is compared between groups: of the rows in `population`, those in `hits`."""

    name: str
    hits: NDArray[np.bool_]
    population: NDArray[np.bool_]
    criterion: Literal["demographic_parity", "equalized_odds"]


def check_fairness(evidence: Evidence) -> Checks:
    """Check that no rate differs between the groups of a protected attribute.

    It fails only if difference and ratio are both significantly beyond their limits: small rates have large
    ratios, and large rates large differences. The rates of a binary classification are those of demographic
    parity and of equalized odds (Hardt et al., 2016).

    Args:
        evidence: Input of all checks.

    Yields:
        A result for each attribute and rate, on the groups with the highest and the lowest rate.
    """
    for column, groups in evidence.test.protected.items():
        for rate in _rates(evidence):
            rows = {value: positions[rate.population[positions]] for value, positions in groups.items()}
            yield _compare_groups(evidence, f"{column}: {rate.name}", rate, rows)


def _compare_groups(evidence: Evidence, subject: str, rate: _Rate, rows: dict[str, Rows]) -> Check:
    """Compare the groups with the highest and the lowest rate."""
    gate = evidence.params.gate
    max_difference = getattr(gate, f"max_{rate.criterion}_difference")
    min_ratio = getattr(gate, f"min_{rate.criterion}_ratio")
    parameter = f"gate.max_{rate.criterion}_difference and gate.min_{rate.criterion}_ratio"
    n_groups = len(rows)
    rows = {value: positions for value, positions in rows.items() if len(positions) >= gate.min_segment_rows}
    counts = evidence.test.observations.unit_counts
    rates = {
        value: float(resampled_mean(rate.hits[positions].astype(float), counts[:, positions])[0])
        for value, positions in rows.items()
    }
    if len(rates) < 2 or max(rates.values()) == 0:
        message = f"fewer than two of {n_groups} groups have enough rows; PREPARE can make broader ones"
        if len(rates) > 1:
            message = "the rate is 0 in every group"
        return Check("fairness", subject, "skipped", message, parameter="gate.min_segment_rows")
    lowest, highest = min(rates, key=rates.__getitem__), max(rates, key=rates.__getitem__)
    estimates = evidence.bootstrap(_disparity(rate.hits, rows[lowest], rows[highest]))
    difference, ratio = estimates["difference"], estimates["ratio"]
    passed = difference.low <= max_difference or ratio.high >= min_ratio
    message = (
        f"{rates[lowest]:.1%} of group {lowest}, {rates[highest]:.1%} of group {highest}: "
        f"difference {difference}, ratio {ratio}"
    )
    interval = f"{ratio.low:.3g} to {ratio.high:.3g}"
    limit = f"fails if CI > {max_difference:g} and CI of the ratio ({interval}) < {min_ratio:g}"
    return Check("fairness", subject, status_if(passed), message, limit, parameter, difference)


def _disparity(hits: NDArray[np.bool_], lowest: Rows, highest: Rows) -> Statistics:
    """Difference and ratio of the rates of two groups of rows."""

    def rate(rows: Rows, counts: Floats) -> Floats:
        return resampled_mean(hits[rows].astype(float), counts[:, rows])

    return {
        "difference": lambda counts: rate(highest, counts) - rate(lowest, counts),
        "ratio": lambda counts: rate(lowest, counts) / np.maximum(rate(highest, counts), 1e-9),
    }


def _rates(evidence: Evidence) -> list[_Rate]:
    """The rates that are compared between groups."""
    target, outputs, task = evidence.test.target, evidence.outputs, evidence.contract.task
    everyone = np.ones(len(target), bool)
    if task == "regression":
        errors = absolute_errors(target, outputs)
        return [_Rate("errors up to the median", errors <= np.median(errors), everyone, "equalized_odds")]
    if task == "ranking":
        return [_Rate("hit rate", target_ranks(target, outputs) <= TOP_K, everyone, "equalized_odds")]
    predicted = predict_labels(outputs, evidence.contract.decision_threshold)
    if outputs.shape[1] > 2:
        return [_Rate("accuracy", predicted == target, everyone, "equalized_odds")]
    return [
        _Rate("selection rate", predicted == 1, everyone, "demographic_parity"),
        _Rate("true positive rate", predicted == 1, target == 1, "equalized_odds"),
        _Rate("false positive rate", predicted == 1, target == 0, "equalized_odds"),
    ]


def check_calibration(evidence: Evidence) -> Checks:
    """Check that predictions equal the observed mean in each of (up to) ten bins.

    Bins are tested one by one, corrected for their number (Holm, 1979); a mean over bins would grow with
    noise. The limit for a regression is in standard deviations of the target.

    Args:
        evidence: Input of all checks.

    Yields:
        A result for each label, or for the target of a regression.
    """
    scale = float(np.std(evidence.test.target)) or 1.0 if evidence.contract.task == "regression" else 1.0
    max_error = evidence.params.gate.max_calibration_error * scale
    for name, observed, predicted in label_predictions(evidence):
        bins = inference.assign_calibration_bins(predicted)
        gaps = observed - predicted
        slack = {str(b): _calibration_slack(gaps, bins == b, max_error) for b in np.unique(bins)}
        estimates = evidence.bootstrap(slack).values()
        p_value = min(adjust_holm([p_value_below_zero(estimate) for estimate in estimates]))
        worst = max_error - min(estimate.value for estimate in estimates)
        status, message = status_if(p_value > evidence.alpha), f"the worst bin is off by {worst:.3g}"
        limit = f"fails if a bin is off by more than {max_error:.3g} (p ≤ {evidence.alpha:g}, Holm)"
        parameter = "gate.max_calibration_error"
        yield Check("calibration", name, status, message, limit, parameter, None, worst, p_value)


def _calibration_slack(gaps: Floats, rows: NDArray[np.bool_], max_error: float) -> Statistic:
    """How far the mean gap of a bin is below the limit."""
    return lambda counts: max_error - np.abs(resampled_mean(gaps[rows], counts[:, rows]))


def label_predictions(evidence: Evidence) -> list[Predictions]:
    """Observed values and predictions that calibration and curves are about.

    Args:
        evidence: Input of all checks.

    Returns:
        Name, observed values and predictions `(n_rows,)`: of each label 0 or 1 and its probability (of two
        labels, only the second), of a regression the target. Empty for a ranking.
    """
    labels, target, outputs = evidence.contract.labels, evidence.test.target, evidence.outputs
    if evidence.contract.task == "regression":
        return [(labels[0], target.astype(float), outputs[:, 0])]
    if evidence.contract.task == "ranking":
        return []
    positions = [1] if len(labels) == 2 else range(len(labels))
    return [(labels[index], (target == index).astype(float), outputs[:, index]) for index in positions]


def check_behaviour(evidence: Evidence) -> Checks:
    """Check directional expectations and invariances (Ribeiro et al., 2020, "CheckList").

    Args:
        evidence: Input of all checks.

    Yields:
        A result for each behavioural test.
    """
    changes = zip(evidence.changed_outputs, evidence.changed_rows, strict=True)
    for test, (changed, n_changed) in zip(evidence.problem.behavioural_tests, changes, strict=True):
        subject = f"{test.column} {_describe_change(test, evidence.contract)}"
        if not n_changed:
            message = "no test row changes: each has the value already, or no room for it"
            yield Check("behaviour", subject, "skipped", message, parameter=BEHAVIOUR_FIELD)
            continue
        label = evidence.contract.labels.index(test.label) if test.label else 0
        differences = (changed[:, label] - evidence.outputs[:, label]).astype(float)
        if test.effect == "invariant":
            is_probability = evidence.contract.task == "classification"
            output_range = 1.0 if is_probability else float(np.ptp(evidence.outputs[:, label])) or 1.0
            differences = np.abs(differences) / output_range
        estimate = evidence.bootstrap({"": partial(resampled_mean, differences)})[""]
        passed, limit = {
            "increases": (estimate.low > 0, "CI lower bound > 0"),
            "decreases": (estimate.high < 0, "CI upper bound < 0"),
            "invariant": (estimate.low <= test.tolerance, f"CI lower bound ≤ {test.tolerance:g}"),
        }[test.effect]
        message = (
            f"{test.meaning} The mean prediction changes by {estimate}; the change applies to "
            f"{n_changed:,} of {len(differences):,} rows"
        )
        yield Check("behaviour", subject, status_if(passed), message, limit, BEHAVIOUR_FIELD, estimate)


def _describe_change(test: BehaviouralTest, contract: Contract) -> str:
    """Such as "+0.3" for numbers, "= red" for a category, "+ red" for a list of categories."""
    if not isinstance(test.change, str):
        return f"{test.change:+g}"
    return f"{'=' if contract.column(test.column).length is None else '+'} {test.change}"


CHECKS = (
    check_data,
    check_budget,
    check_kpis,
    check_baseline,
    check_production,
    check_mcnemar,
    check_segments,
    check_fairness,
    check_calibration,
    check_behaviour,
)


def decide(checks: list[Check]) -> Verdict:
    """Derive the verdict.

    Args:
        checks: All results.

    Returns:
        "block" if a check fails, else "keep" if one warns, else "promote".
    """
    statuses = {check.status for check in checks}
    return "block" if "fail" in statuses else "keep" if "warn" in statuses else "promote"


def checks_table(checks: list[Check], interval: str) -> str:
    """Format checks as Markdown tables: failures first, passes last and folded.

    Args:
        checks: All results.
        interval: Title of the column with the confidence intervals.

    Returns:
        A table of all checks that do not pass, and a folded table of the others.
    """

    def rows(*statuses: Status) -> str:
        return table([_row(check, interval) for s in statuses for check in checks if check.status == s])

    n_passed = sum(check.status == "pass" for check in checks)
    passed = f"<details><summary>{n_passed} checks passed</summary>\n\n{rows('pass')}\n\n</details>"
    return "\n\n".join(filter(None, [rows("fail", "warn", "skipped"), passed]))


def _row(check: Check, interval: str) -> dict[str, str]:
    """A row of the table of checks."""
    estimate = check.estimate
    return {
        "status": f"**{check.status}**" if check.status in ("fail", "warn") else check.status,
        "check": check.check,
        "subject": check.subject,
        "value": _number(estimate.value if estimate else check.value) or check.message,
        interval: f"{_number(estimate.low)} to {_number(estimate.high)}" if estimate else "",
        "p-value": _number(check.p_value),
        "limit": check.limit,
    }


def _number(value: float | None) -> str:
    """Three significant digits; integers in full."""
    if value is None:
        return ""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"
