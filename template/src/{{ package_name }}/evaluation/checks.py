"""The gate's rules: each looks at the evidence and says what it found, check by check.

What must be shown (a KPI, being better) is judged on the unfavourable end of its interval; what must
not be shown (a regression, a disparity, miscalibration) on the favourable end. So chance alone makes a
single check err in at most (1 - `gate.confidence_level`) / 2 of all cases, whichever way it leans.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from .. import params
from ..contract import TOP_K, Contract
from ..contract.dataset import Groups
from ..contract.expectations import Behaviour, Kpi
from ..core.files import table
from ..stats.inference import (
    Estimate,
    Statistic,
    adjust_holm,
    assign_calibration_bins,
    bootstrap,
    mcnemar_p_value,
    p_value_below_zero,
)
from ..stats.metrics import METRICS, absolute_errors, resampled_mean, target_ranks

Verdict = Literal["promote", "keep", "block"]
ORDER: tuple[Verdict, ...] = ("promote", "keep", "block")  # from best to worst
ALL = slice(None)


class Check(msgspec.Struct, omit_defaults=True):
    """What a rule found about one subject; the verdict is "promote" where it has no objection."""

    rule: str
    subject: str
    verdict: Verdict
    said: str
    found: Estimate | None = None


Checks = Iterator[Check]


@dataclass(frozen=True)
class Production:
    """The model in production: its tag, its version and its outputs on the test rows."""

    tag: str
    version: str
    outputs: NDArray


@dataclass(frozen=True)
class Evidence:
    """What the rules look at; outputs have a row for each test row."""

    params: params.Params
    contract: Contract
    kpis: tuple[Kpi, ...]
    behaviours: tuple[Behaviour, ...]
    version: str
    target: NDArray
    outputs: NDArray
    baseline: NDArray  # outputs of no model
    production: Production | None
    incomparable: list[str]  # why the model in production cannot answer the test rows
    changed: tuple[NDArray, ...]  # outputs after each behaviour's change
    segments: Groups
    protected: Groups
    reports: dict[str, Any]  # of validate ("data"), split and bundle

    @property
    def level(self) -> float:
        """The risk of a one-sided test: what lies outside of an interval on one side."""
        return (1 - self.params.gate.confidence_level) / 2

    def estimate(self, statistics: Mapping[str, Statistic]) -> dict[str, Estimate]:
        gate = self.params.gate
        return bootstrap(
            statistics, len(self.target), gate.n_bootstrap, gate.confidence_level, gate.bootstrap_block_size
        )

    def improvement(self, reference: NDArray, rows: NDArray | slice = ALL) -> Statistic:
        """By how much the first KPI's metric is better than that of `reference` on `rows`."""
        target, ours, theirs = self.target[rows], self.outputs[rows], reference[rows]
        metric, sign = METRICS[self.contract.task][self.kpis[0].metric], self.kpis[0].sign
        return lambda counts: (
            sign * (metric(target, ours, counts[:, rows]) - metric(target, theirs, counts[:, rows]))
        )


def worst(checks: list[Check]) -> Verdict:
    """The verdict that counts."""
    return max((check.verdict for check in checks), key=ORDER.index)


def overview(checks: list[Check]) -> str:
    """Every check, as a Markdown table."""
    signs = {"promote": "ok", "keep": "**keep**", "block": "**block**"}
    return table(
        [
            {"": signs[check.verdict], "rule": check.rule, "of": check.subject, "found": check.said}
            for check in checks
        ]
    )


def verdict_if(holds: bool, otherwise: Verdict = "block") -> Verdict:
    return "promote" if holds else otherwise


def sound_data(evidence: Evidence) -> Checks:
    """The test split can carry a verdict, and training has not seen it."""
    gate, split, data = evidence.params.gate, evidence.reports["split"], evidence.reports["data"]
    rows = len(evidence.target)
    said = f"{rows} test rows; must be at least gate.min_test_rows ({gate.min_test_rows})"
    yield Check("data", "test rows", verdict_if(rows >= gate.min_test_rows), said)
    if evidence.contract.task == "classification":
        counts = np.bincount(evidence.target, minlength=len(evidence.contract.labels))
        for label, count in zip(evidence.contract.labels, counts.tolist(), strict=True):
            said = f"{count} test rows; must be at least gate.min_label_rows ({gate.min_label_rows})"
            yield Check("data", f"label {label}", verdict_if(count >= gate.min_label_rows), said)
    copies = split.get("copies", split["twins"])  # older reports know no chance
    apart = not split["shared_keys"] and copies <= evidence.params.split.max_overlap_share
    said = f"{split['shared_keys']} keys and {copies:.1%} of the test rows are in training too, beyond chance"
    yield Check("data", "overlap", verdict_if(apart), said)
    said = "; ".join(data["failures"]) or "validation found no leak, and nothing else against the table"
    yield Check("data", "validation", verdict_if(not data["failures"]), said)


def within_budget(evidence: Evidence) -> Checks:
    """The bundle equals its estimator, and is small and fast enough."""
    gate, bundle = evidence.params.gate, evidence.reports["bundle"]
    said = f"reports/bundle.json is of {bundle['version']}, the bundle is {evidence.version}; must be one"
    yield Check("bundle", "version", verdict_if(bundle["version"] == evidence.version), said)
    others = bundle.get("other_labels", 0)  # reports of earlier releases do not say
    said = f"{others} rows get another label than by its estimator; must be none"
    yield Check("bundle", "labels", verdict_if(not others), said)
    limits = {
        "parity": evidence.params.bundle.parity_tolerance,
        "size_mb": gate.max_size_mb,
        "latency_ms": gate.max_latency_ms,
    }
    for name, limit in limits.items():
        said = f"{name} is {bundle[name]:.3g}; must be at most {limit:g}"
        yield Check("bundle", name, verdict_if(bundle[name] <= limit), said)


def reach_kpis(evidence: Evidence) -> Checks:
    """Each KPI holds, on the unfavourable end of its interval."""
    metrics = METRICS[evidence.contract.task]
    measured = {
        kpi.metric: partial(metrics[kpi.metric], evidence.target, evidence.outputs) for kpi in evidence.kpis
    }
    estimates = evidence.estimate(measured)
    for kpi in evidence.kpis:
        found = estimates[kpi.metric]
        reached = kpi.sign * ((found.low if kpi.sign > 0 else found.high) - kpi.threshold) >= 0
        said = f"{kpi.metric} is {found}; all of it must be {kpi.direction} {kpi.threshold:g}"
        yield Check("kpi", kpi.metric, verdict_if(reached), said, found)


def beat_baseline(evidence: Evidence) -> Checks:
    """The model is better than no model, beyond doubt."""
    metric = evidence.kpis[0].metric
    found = evidence.estimate({metric: evidence.improvement(evidence.baseline)})[metric]
    said = f"{metric} is better than the baseline's by {found}; all of it must be above 0"
    yield Check("baseline", metric, verdict_if(found.low > 0), said, found)


def beat_production(evidence: Evidence) -> Checks:
    """The model is better than the one in production, or not worse, as `gate.promotion_test` says.

    With `superiority` all of the interval of the improvement must be above 0, with `non_inferiority` above
    -`gate.non_inferiority_margin`. A model whose interval lies wholly below that is blocked.
    """
    production, gate, metric = evidence.production, evidence.params.gate, evidence.kpis[0].metric
    if evidence.incomparable:
        said = "; ".join(evidence.incomparable)
        yield Check("production", "contract", "block", f"{said}. Start anew: gate.comparison_reset_tag")
    if production is None:
        return
    if production.version == evidence.version:
        yield Check("production", metric, "keep", f"this is the model in production ({production.tag})")
        return
    found = evidence.estimate({metric: evidence.improvement(production.outputs)})[metric]
    limit = 0 if gate.promotion_test == "superiority" else -gate.non_inferiority_margin
    if found.high < -gate.non_inferiority_margin:
        verdict, must = (
            "block",
            f"is worse by more than gate.non_inferiority_margin ({gate.non_inferiority_margin:g})",
        )
    else:
        verdict, must = verdict_if(found.low > limit, "keep"), f"all of it must be above {limit:g}"
    said = f"{metric} is better than that of {production.tag} by {found}; {must}"
    yield Check("production", metric, verdict, said, found)


def keep_right_answers(evidence: Evidence) -> Checks:
    """Not more rows turn from right to wrong than from wrong to right (McNemar's test)."""
    if evidence.production is None or evidence.contract.task != "classification":
        return
    right = evidence.outputs.argmax(axis=1) == evidence.target
    was_right = evidence.production.outputs.argmax(axis=1) == evidence.target
    lost, won = int((was_right & ~right).sum()), int((right & ~was_right).sum())
    said = f"{lost} rows turned wrong and {won} right; must not be more, beyond doubt"
    yield Check(
        "production", "labels", verdict_if(mcnemar_p_value(lost, won) >= evidence.level, "keep"), said
    )


def spare_segments(evidence: Evidence) -> Checks:
    """No segment with enough rows is worse off, corrected for their number (Holm).

    A segment whose rows leave the metric undefined (an AUC of one class) is not judged.
    """
    reference = evidence.production.outputs if evidence.production else evidence.baseline
    statistics = {
        f"{column} = {value}": evidence.improvement(reference, rows)
        for column, values in evidence.segments.items()
        for value, rows in values.items()
        if len(rows) >= evidence.params.gate.min_segment_rows
    }
    estimates = evidence.estimate(statistics)
    defined = {name: found for name, found in estimates.items() if np.isfinite(found.value)}
    p_values = adjust_holm([p_value_below_zero(found) for found in defined.values()])
    than = f"that of {evidence.production.tag}" if evidence.production else "the baseline's"
    for (name, found), p_value in zip(defined.items(), p_values, strict=True):
        said = f"{evidence.kpis[0].metric} is better than {than} by {found}; must not be worse, beyond doubt"
        yield Check("segment", name, verdict_if(p_value > evidence.level), said, found)


def treat_alike(evidence: Evidence) -> Checks:
    """No protected group's rates are apart in difference and in ratio, beyond doubt.

    Both limits must be broken: small rates have large ratios, and large rates large differences. The
    rates are those of demographic parity and of equalised odds (Hardt et al., 2016).
    """
    gate = evidence.params.gate
    for column, values in evidence.protected.items():
        for name, (hits, among) in rates(evidence).items():
            groups = {value: rows[among[rows]] for value, rows in values.items()}
            by_value = {
                value: float(hits[rows].mean())
                for value, rows in groups.items()
                if len(rows) >= gate.min_segment_rows
            }
            if len(by_value) < 2:
                continue
            least, most = min(by_value, key=by_value.__getitem__), max(by_value, key=by_value.__getitem__)
            found = evidence.estimate(disparity(hits, groups[least], groups[most]))
            difference, ratio = found["difference"], found["ratio"]
            apart = (
                difference.low > gate.max_demographic_parity_difference
                and ratio.high < gate.min_demographic_parity_ratio
            )
            said = (
                f"{by_value[least]:.1%} of {least}, {by_value[most]:.1%} of {most}; difference "
                f"{difference}, ratio {ratio}; must not be over "
                f"{gate.max_demographic_parity_difference:g} and under "
                f"{gate.min_demographic_parity_ratio:g}, both beyond doubt"
            )
            yield Check("fairness", f"{column}: {name}", verdict_if(not apart), said, difference)


def disparity(hits: NDArray, least: NDArray, most: NDArray) -> dict[str, Statistic]:
    """Difference and ratio of the shares of hits in two groups of rows."""

    def share(rows: NDArray, counts: NDArray) -> NDArray:
        return resampled_mean(hits[rows].astype(float), counts[:, rows])

    return {
        "difference": lambda counts: share(most, counts) - share(least, counts),
        "ratio": lambda counts: share(least, counts) / np.maximum(share(most, counts), 1e-9),
    }


def rates(evidence: Evidence) -> dict[str, tuple[NDArray, NDArray]]:
    """For each rate: which rows are hits, and which rows it is about."""
    target, outputs = evidence.target, evidence.outputs
    everyone = np.ones(len(target), bool)
    if evidence.contract.task == "regression":
        missed = absolute_errors(target, outputs)
        return {"close answers": (missed <= np.median(missed), everyone)}
    if evidence.contract.task == "ranking":
        return {"hits": (target_ranks(target, outputs) <= TOP_K, everyone)}
    answers = outputs.argmax(axis=1)
    if outputs.shape[1] > 2:
        return {"right answers": (answers == target, everyone)}
    chosen, positive = answers == 1, target == 1
    name = evidence.contract.labels[1]
    return {
        f"answered {name}": (chosen, everyone),
        f"answered {name} where true": (chosen, positive),
        f"answered {name} where false": (chosen, ~positive),
    }


def be_calibrated(evidence: Evidence) -> Checks:
    """What is predicted is what happens on average, in each of (up to) ten bins of the predictions.

    Judged bin by bin, corrected for their number (Holm): a mean over them would grow with noise.
    """
    limit = evidence.params.gate.max_calibration_error
    for name, truth, predicted in predictions(evidence):
        bins = assign_calibration_bins(predicted)
        slack = {str(index): room(truth - predicted, bins == index, limit) for index in np.unique(bins)}
        found = evidence.estimate(slack).values()
        off = [p <= evidence.level for p in adjust_holm([p_value_below_zero(estimate) for estimate in found])]
        worst = limit - min(estimate.value for estimate in found)
        said = (
            f"{sum(off)} of {len(off)} bins of the predictions are off by more than {limit:g}, beyond "
            f"doubt; the worst by {worst:.3g}"
        )
        yield Check("calibration", name, verdict_if(not any(off)), said)


def room(gaps: NDArray, rows: NDArray, limit: float) -> Statistic:
    """How far the mean gap of these rows stays inside the limit."""
    return lambda counts: limit - np.abs(resampled_mean(gaps[rows], counts[:, rows]))


def predictions(evidence: Evidence) -> list[tuple[str, NDArray, NDArray]]:
    """Name, truth and prediction of each label; of a regression both in standard deviations."""
    labels, target, outputs = evidence.contract.labels, evidence.target, evidence.outputs
    if evidence.contract.task == "regression":
        scale = float(np.std(target)) or 1.0
        return [(labels[0], target / scale, outputs[:, 0] / scale)]
    if evidence.contract.task == "ranking":
        return []
    judged = [1] if len(labels) == 2 else range(len(labels))
    return [(labels[index], (target == index).astype(float), outputs[:, index]) for index in judged]


def behave(evidence: Evidence) -> Checks:
    """A change of one field does to the answers what the problem says it must."""
    for behaviour, changed in zip(evidence.behaviours, evidence.changed, strict=True):
        label = evidence.contract.labels.index(behaviour.label) if behaviour.label else 0
        moved = (changed[:, label] - evidence.outputs[:, label]).astype(float)
        subject = f"{behaviour.column}: {behaviour.change}"
        if behaviour.effect == "leaves":
            found = evidence.estimate(
                {"": partial(resampled_mean, np.abs(moved) / answer_range(evidence, label))}
            )[""]
            holds, must = (
                found.low <= behaviour.tolerance,
                f"must not be over {behaviour.tolerance:g}, beyond doubt",
            )
        else:
            sign = 1 if behaviour.effect == "raises" else -1
            found = evidence.estimate({"": partial(resampled_mean, sign * moved)})[""]
            holds, must = found.low > 0, "all of it must be above 0"
        said = f"{behaviour.meaning} It {behaviour.effect} the answer: {found}; {must}"
        yield Check("behaviour", subject, verdict_if(holds), said, found)


def answer_range(evidence: Evidence, label: int) -> float:
    """What a change is large against: 1 for a probability, else the answers' range."""
    if evidence.contract.task == "classification":
        return 1.0
    return float(np.ptp(evidence.outputs[:, label])) or 1.0


RULES = (
    sound_data,
    within_budget,
    reach_kpis,
    beat_baseline,
    beat_production,
    keep_right_answers,
    spare_segments,
    treat_alike,
    be_calibrated,
    behave,
)
