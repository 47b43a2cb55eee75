"""The rollout: may a challenger answer everybody? `promote`, `keep` or `block`, from what was answered.

    python -m <package>.deployment.analysis shadow EVENTS
    python -m <package>.deployment.analysis canary EVENTS --minutes 30

A shadow is compared with the champion request by request, a canary with what others were answered in that
time. What speaks against a challenger must be shown: `gate.confidence_level` holds for all of it together
(Holm, 1979). Nothing is decided before enough requests came, for who looks often enough finds something.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import pandas as pd

from .. import declarations, params
from ..contract import Contract
from ..contract.events import (
    CHALLENGER,
    CHAMPION,
    COLUMNS,
    ROLES,
    feature_column,
    output_column,
    output_columns,
)
from ..contract.tables import connect
from ..core.errors import ProjectError, cli
from ..evaluation.checks import Check, Verdict, decide, status_if
from ..monitoring.events import read_events
from ..stats.inference import adjust_holm
from .settings import Rollout, load_rollout

MOST_REQUESTS = 100_000  # more are drawn by chance
UNANSWERED = 504
READ = f"""
SELECT DISTINCT ON (role, id, row) * FROM events
SEMI JOIN (SELECT DISTINCT id FROM events ORDER BY hash(id) LIMIT {MOST_REQUESTS}) USING (id)
"""


@dataclass(frozen=True)
class Answers:
    """What both answered, by the requests' ids; of a shadow, the same requests and rows."""

    contract: Contract
    gate: params.Gate
    rollout: Rollout
    paired: bool
    statuses: tuple[pd.Series, pd.Series]  # of each request: the challenger's, the champion's
    rows: tuple[pd.DataFrame, pd.DataFrame]  # that were answered

    @property
    def requests(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The first row of each request that was answered."""
        ours, theirs = (it[it.index.get_level_values("row") == 0] for it in self.rows)
        return ours, theirs


class Claim(NamedTuple):
    """What may speak against a challenger: a figure above its limit, as far as its standard error tells."""

    rule: str
    subject: str
    value: float
    error: float
    limit: float
    said: str

    @property
    def p_value(self) -> float:
        """One-sided, that the figure is not above the limit."""
        if self.error == 0:
            return 0.0 if self.value > self.limit else 1.0
        return NormalDist().cdf((self.limit - self.value) / self.error)


def read(address: str, since: datetime, contract: Contract, paired: bool) -> Answers:
    """What was answered since then."""
    settings, rollout, events = params.load(), load_rollout(), pd.DataFrame(columns=[*COLUMNS])
    with tempfile.TemporaryDirectory() as folder, connect(settings.memory_gb) as con:
        if read_events(con, address, since, Path(folder) / "events"):
            events = con.sql(READ).df()
    versions = events[events.role == CHALLENGER].model_version.unique()
    if len(versions) > 1:
        raise ProjectError(
            f"{address}: {', '.join(versions)} were challengers since {since:%Y-%m-%d %H:%M} UTC, which is "
            "one too many: look back less far, --minutes"
        )
    delay = timedelta(seconds=rollout.event_delay_seconds)
    statuses = outcomes(events[events.row == 0].set_index("id"), paired, delay)
    events = events.set_index(["id", "row"])
    ours, theirs = (events[(events.role == it) & (events.status == 200)] for it in (CHALLENGER, CHAMPION))
    if paired:
        both = ours.index.intersection(theirs.index)
        ours, theirs = ours.loc[both], theirs.loc[both]
    return Answers(contract, settings.gate, rollout, paired, statuses, (ours, theirs))


def outcomes(events: pd.DataFrame, paired: bool, delay: timedelta) -> tuple[pd.Series, pd.Series]:
    """Return the status of each request to the challenger, and of each to the champion.

    Shadow: champion requests older than `delay` without a challenger event count as failed. Canary: requests
    that the fallback answered count as failed.
    """
    champion, challenger, fallback = (events[events.role == role] for role in ROLES)
    if paired:
        champion = champion[champion.time <= datetime.now(UTC).replace(tzinfo=None) - delay]
        return challenger.status.reindex(champion.index, fill_value=UNANSWERED), champion.status
    missed = pd.Series(UNANSWERED, fallback.index)
    return pd.concat([missed, challenger.status.drop(missed.index, errors="ignore")]), champion.status


def mean(values: pd.Series) -> tuple[float, float]:
    """A mean over rows, and its standard error, for which rows of one request count as one.

    Ultimate clusters: Hansen, Hurwitz and Madow, 1953.
    """
    apart = (values - values.mean()).groupby(level="id").sum()
    of_one = len(apart) / (len(apart) - 1)
    return float(values.mean()), float((of_one * (apart**2).sum()) ** 0.5 / len(values))


def difference(ours: pd.Series, theirs: pd.Series, paired: bool) -> tuple[float, float]:
    """By how much the mean is higher, and its standard error."""
    if paired:
        return mean(ours - theirs)
    (high, error), (low, other) = mean(ours), mean(theirs)
    return high - low, (error**2 + other**2) ** 0.5


def errors(answers: Answers) -> Iterator[Claim]:
    """It fails and refuses hardly more requests than the champion."""
    limit = answers.rollout.max_error_share
    ours, theirs = answers.statuses
    for subject, kind in (("failed", 5), ("refused", 4)):
        shares = [(it // 100 == kind).astype(float) for it in (ours, theirs)]
        value, error = difference(shares[0], shares[1], answers.paired)
        said = (
            f"{shares[0].mean():.2%} of {len(ours):,} requests, champion's {shares[1].mean():.2%}; "
            f"at most {limit:.2%} more allowed"
        )
        yield Claim("errors", subject, value, error, limit, said)


def latency(answers: Answers) -> Iterator[Claim]:
    """It is fast enough, in the median and, beside the champion, where it is slow."""
    ours, theirs = (it.seconds.astype(float) * 1000 for it in answers.requests)
    limit, ratio = answers.gate.max_latency_ms, answers.rollout.max_latency_ratio
    if len(ours) > 1:
        slowest = max(limit, ratio * theirs.quantile(0.99))
        for subject, bound, share in (("median", limit, 0.5), ("slowest hundredth", slowest, 0.01)):
            value, error = mean((ours > bound).astype(float))
            said = f"{value:.1%} of the requests take over {bound:.2f} ms, at most {share:.0%} allowed"
            yield Claim("latency", subject, value, error, share, said)


def groups(answers: Answers) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """All rows, and those of each segment: name, the challenger's and the champion's."""
    ours, theirs = answers.rows
    yield "all", ours, theirs
    for column in answers.contract.features:
        name = feature_column(column.name)
        if column.segment and name in ours:
            for value in sorted(ours[name].dropna().unique()):
                said = column.categories[int(value)] if column.kind == "category" else f"{value:g}"
                yield f"{column.name} = {said}", ours[ours[name] == value], theirs[theirs[name] == value]


def shift(answers: Answers) -> Iterator[Claim]:
    """In no segment are the scores far from the champion's."""
    limit, least = answers.rollout.max_score_shift, answers.gate.min_segment_rows
    labels = answers.contract.labels
    for name, *parts in groups(answers):
        if min(part.index.get_level_values("id").nunique() for part in parts) < least:
            continue
        for label in labels[len(labels) == 2 :]:  # of two, one says it all
            column = output_column(label)
            spread = answers.rows[1][column].std() or 1.0
            scale = 1.0 if answers.contract.task == "classification" else spread
            ours, theirs = (part[column].astype(float) / scale for part in parts)
            if theirs.notna().all():  # else it is a label that the champion does not know
                value, error = difference(ours, theirs, answers.paired)
                said = f"{value:+.3f} from the champion's, at most {limit:g} allowed"
                yield Claim("shift", f"{label}, {name}", abs(value), error, limit, said)


def agreement(answers: Answers) -> Iterator[Check]:
    """A shadow gives the champion's label often enough for nobody to have to look."""
    if answers.paired and answers.contract.task == "classification" and len(answers.rows[0]):
        columns = output_columns(answers.contract)
        ours, theirs = (it[columns].to_numpy().argmax(axis=1) for it in answers.rows)
        share, least = (ours == theirs).mean(), answers.rollout.min_agreement
        said = f"{share:.1%} of the rows, at least {least:.1%} expected"
        yield Check("agreement", "label", status_if(share >= least, "warn"), said)


def judge(answers: Answers) -> tuple[Verdict, list[Check]]:
    """Ask every rule, once enough was seen; the worst verdict counts."""
    seen, needed = min(map(len, answers.statuses)), answers.rollout.min_requests
    if seen < needed:
        return "keep", [Check("requests", "seen", "warn", f"{seen:,} of {needed:,} that are needed")]
    claims = [claim for rule in (errors, latency, shift) for claim in rule(answers)]
    p_values = adjust_holm([claim.p_value for claim in claims])
    alpha = (1 - answers.gate.confidence_level) / 2
    checks = [
        Check(claim.rule, claim.subject, status_if(p_value > alpha), claim.said)
        for claim, p_value in zip(claims, p_values, strict=True)
    ]
    checks += agreement(answers)
    return decide(checks), checks


def reasons(verdict: Verdict, checks: list[Check]) -> str:
    """The checks that a verdict comes from, as a list."""
    status = {"block": "fail", "keep": "warn", "promote": "pass"}[verdict]
    return "".join(f"\n- {check.reason}" for check in checks if check.status == status)


def main() -> None:
    parser = argparse.ArgumentParser(description="May a challenger answer everybody?")
    parser.add_argument("mode", choices=("shadow", "canary"))
    parser.add_argument("events", help="folder or address of the events")
    parser.add_argument("--minutes", type=float, default=60, help="how far to look back; 60 unless given")
    asked = parser.parse_args()
    since = datetime.now(UTC).replace(tzinfo=None) - timedelta(minutes=asked.minutes)
    verdict, checks = judge(read(asked.events, since, declarations.load().contract, asked.mode == "shadow"))
    if verdict == "block":
        raise ProjectError(f"the {asked.mode} is blocked{reasons(verdict, checks)}")
    print(f"rollout: {verdict}{reasons(verdict, checks)}")


if __name__ == "__main__":
    cli(main)
