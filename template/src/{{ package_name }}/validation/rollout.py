"""The rollout: may a challenger answer everybody? `promote`, `keep` or `block`, from what was answered.

    python -m <package>.validation.rollout shadow EVENTS
    python -m <package>.validation.rollout canary EVENTS --minutes 30

A shadow is compared with the champion row by row, a canary with what others were answered in that time.
What speaks against a challenger must be shown: `gate.confidence` holds for all scores together (Holm, 1979).
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .. import params, problem
from ..contract import Contract
from ..stage import ProjectError
from .inference import holm
from .rules import Check, Verdict, verdict_if, worst

DELAY = 15  # seconds after which an event is written
READ = """
SELECT DISTINCT ON (role, id, row) * FROM read_parquet($files, union_by_name = true)
WHERE status = 200 AND time > (SELECT max(time) FROM read_parquet($files)) - to_seconds($seconds)
"""


@dataclass(frozen=True)
class Answers:
    """What both answered; of a shadow, row by row the same rows."""

    contract: Contract
    settings: params.Params
    paired: bool
    ours: pd.DataFrame  # the challenger's
    theirs: pd.DataFrame  # the champion's
    given: int = 0  # rows that a shadow was to answer, long enough ago,
    missing: int = 0  # and did not

    @property
    def level(self) -> float:
        """The risk of a one-sided test, as the gate's."""
        return (1 - self.settings.gate.confidence) / 2


def above(value: float, limit: float, error: float) -> float:
    """One-sided p-value that a figure is not above a limit, from its standard error."""
    if error == 0:
        return 0.0 if value > limit else 1.0
    return NormalDist().cdf((limit - value) / error)


def read(folder: Path, contract: Contract, paired: bool, minutes: float) -> Answers:
    """The events of the last minutes, from the first of the newest challenger on."""
    if not any(folder.glob("*/*.parquet")):
        raise ProjectError(f"{folder}: there are no events, such as <day>/<name>.parquet")
    given = {"files": f"{folder}/*/*.parquet", "seconds": minutes * 60}
    events = duckdb.execute(READ, given).df()
    tried = events[events.role == "challenger"].sort_values("time")
    if tried.empty:
        raise ProjectError(f"{folder}: no challenger answered in the last {minutes:g} minutes of it")
    ours = tried[tried.model_version == tried.model_version.iloc[-1]]
    theirs = events[(events.role == "champion") & (events.time >= ours.time.min())]
    settings = params.load()
    if not paired:
        return Answers(contract, settings, paired, ours, theirs)
    both = theirs[["id", "row"]].merge(ours[["id", "row"]])
    place = ["id", "row"]
    ours, mine = both.merge(ours, on=place), both.merge(theirs, on=place)
    due = theirs[theirs.time <= theirs.time.max() - pd.Timedelta(seconds=DELAY)]
    missing = len(due) - len(due.merge(both, on=place))
    return Answers(contract, settings, paired, ours, mine, len(due), missing)


def rows(answers: Answers) -> Iterator[Check]:
    """Enough has been seen, and a shadow answered what it was given."""
    found, limits = len(answers.ours), answers.settings.rollout
    enough = found >= limits.min_rows
    yield Check("rows", "seen", verdict_if(enough, "keep"), f"{found:,}, {limits.min_rows:,} needed")
    if answers.paired:
        given = max(answers.given, 1)
        share = answers.missing / given
        error = (share * (1 - share) / given) ** 0.5
        bad = above(share, limits.max_missing_share, error) < answers.level
        said = f"{share:.2%} of {given:,} without an answer, at most {limits.max_missing_share:.2%} allowed"
        yield Check("errors", "rows", verdict_if(not bad), said)


def latency(answers: Answers) -> Iterator[Check]:
    """The challenger is fast enough, in the median and, beside the champion, where it is slow."""
    ours, theirs = (
        1000 * it.seconds.quantile([0.5, 0.99]).to_numpy() for it in (answers.ours, answers.theirs)
    )
    limit, ratio = answers.settings.gate.max_latency_ms, answers.settings.rollout.max_latency_ratio
    bad = ours[0] > limit or ours[1] > max(limit, ratio * theirs[1])
    said = f"median {ours[0]:.2f} ms, p99 {ours[1]:.2f} ms; champion's {theirs[0]:.2f} and {theirs[1]:.2f} ms"
    yield Check("latency", "one request", verdict_if(not bad), said)


def agreement(answers: Answers) -> Iterator[Check]:
    """A shadow gives the champion's label often enough for nobody to have to look."""
    if answers.paired and answers.contract.task == "classification" and len(answers.ours):
        columns = [f"output:{label}" for label in answers.contract.labels]
        ours, theirs = (it[columns].to_numpy().argmax(axis=1) for it in (answers.ours, answers.theirs))
        share, least = (ours == theirs).mean(), answers.settings.rollout.min_agreement
        said = f"{share:.1%} of the rows, at least {least:.1%} expected"
        yield Check("agreement", "label", verdict_if(share >= least, "keep"), said)


def groups(answers: Answers) -> Iterator[tuple[str, NDArray, NDArray]]:
    """All rows, and those of each segment: name, and which of the challenger's and the champion's."""
    yield "all", np.ones(len(answers.ours), bool), np.ones(len(answers.theirs), bool)
    for column in answers.contract.features:
        if column.segment and f"feature:{column.name}" in answers.ours:
            ours, theirs = (it[f"feature:{column.name}"] for it in (answers.ours, answers.theirs))
            for value in sorted(ours.dropna().unique()):
                name = column.categories[int(value)] if column.kind == "category" else f"{value:g}"
                yield f"{column.name} = {name}", (ours == value).to_numpy(), (theirs == value).to_numpy()


def difference(ours: NDArray, theirs: NDArray, paired: bool) -> tuple[float, float]:
    """By how much the mean is higher, and its standard error."""
    if paired:
        apart = ours - theirs
        return float(apart.mean()), float(apart.std(ddof=1) / len(apart) ** 0.5)
    error = (ours.var(ddof=1) / len(ours) + theirs.var(ddof=1) / len(theirs)) ** 0.5
    return float(ours.mean() - theirs.mean()), float(error)


def shift(answers: Answers) -> Iterator[Check]:
    """In no segment are the scores far from the champion's."""
    limit, found = answers.settings.rollout.max_shift, []
    for name, ours, theirs in groups(answers):
        if min(ours.sum(), theirs.sum()) < answers.settings.gate.min_segment_rows:
            continue
        for label in answers.contract.labels:
            columns = (answers.ours[ours], answers.theirs[theirs])
            scores = [it[f"output:{label}"].to_numpy(float) for it in columns]
            spread = answers.theirs[f"output:{label}"].std() or 1.0
            scale = 1.0 if answers.contract.task == "classification" else spread
            mean, error = difference(scores[0] / scale, scores[1] / scale, answers.paired)
            found.append((f"{label}, {name}", mean, above(abs(mean), limit, error)))
    shown = holm([p_value for *_, p_value in found], answers.level)
    for (subject, mean, _), bad in zip(found, shown, strict=True):
        said = f"{mean:+.3f} from the champion's, at most {limit:g} allowed"
        yield Check("shift", subject, verdict_if(not bad), said)


def judge(answers: Answers) -> tuple[Verdict, list[Check]]:
    """Ask every rule; the worst verdict counts."""
    checks = [check for rule in (rows, latency, agreement, shift) for check in rule(answers)]
    return worst(checks), checks


def main() -> None:
    parser = argparse.ArgumentParser(description="May a challenger answer everybody?")
    parser.add_argument("mode", choices=("shadow", "canary"))
    parser.add_argument("events", type=Path, help="the folder of events")
    parser.add_argument("--minutes", type=float, default=60, help="how far to look back; 60 unless given")
    asked = parser.parse_args()
    answers = read(asked.events, problem.CONTRACT, asked.mode == "shadow", asked.minutes)
    verdict, checks = judge(answers)
    telling = [check for check in checks if check.verdict == verdict]
    reasons = "".join(f"\n- {check.rule}, {check.subject}: {check.said}" for check in telling)
    if verdict == "block":
        raise ProjectError(f"the {asked.mode} is blocked{reasons}")
    print(f"rollout: {verdict}{reasons}")


if __name__ == "__main__":
    main()
