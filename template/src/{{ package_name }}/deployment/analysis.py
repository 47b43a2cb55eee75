"""Analysis of a rollout: compares a challenger with the champion by their prediction events.

    python -m <package>.deployment.analysis shadow EVENTS
    python -m <package>.deployment.analysis canary EVENTS --minutes 30

A shadow is compared request by request, a canary with the champion's requests in the same period. A check
fails only if the data prove a regression; all tests together keep `gate.confidence_level` (Holm, 1979).
Repeated looks inflate false positives, so nothing is decided before `rollout.min_requests`.
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
from ..stats.inference import Estimate, adjust_holm
from ..stats.metrics import predict_labels
from .settings import Rollout, load_rollout

MAX_REQUESTS = 100_000  # a random sample of more
NO_RESPONSE = 504
ACTIONS = {
    "requests": "Wait for more requests, or raise rollout.minutes.",
    "errors": "Read the challenger's log: it has a traceback or the broken rule of each request.",
    "latency": "Use a smaller or simpler estimator, or give the server more cores.",
    "shift": "Compare the scores of this segment in the events of both models; a person may promote it.",
    "agreement": "Look at rows with different labels in the events of both models; a person may promote it.",
}
"""What to do when a check does not pass, by name of the check."""
_SAMPLE = f"""
SELECT DISTINCT ON (role, id, row) * FROM events
SEMI JOIN (SELECT DISTINCT id FROM events ORDER BY hash(id) LIMIT {MAX_REQUESTS}) USING (id)
"""


@dataclass(frozen=True)
class Responses:
    """Responses of both models, indexed by request id and row.

    Attributes:
        paired: True for a shadow: both models predicted the same rows.
        challenger_status: HTTP status of each request to the challenger, `(n_requests,)`.
        champion_status: HTTP status of each request to the champion, `(n_requests,)`.
        challenger: Events of the rows that the challenger predicted.
        champion: Events of the rows that the champion predicted.
    """

    contract: Contract
    gate: params.Gate
    rollout: Rollout
    paired: bool
    challenger_status: pd.Series
    champion_status: pd.Series
    challenger: pd.DataFrame
    champion: pd.DataFrame


class Comparison(NamedTuple):
    """A statistic that must not be above its limit, nor below `-limit` if `two_sided`."""

    check: str
    subject: str
    value: float
    standard_error: float
    limit: float
    limit_text: str
    parameter: str
    message: str
    two_sided: bool = False

    @property
    def p_value(self) -> float:
        """Probability of such a value if the true one is at the limit.

        Returns:
            The p-value of the normal approximation, between 0 and 1.
        """
        value = abs(self.value) if self.two_sided else self.value
        if self.standard_error == 0:
            return 0.0 if value > self.limit else 1.0
        return NormalDist().cdf((self.limit - value) / self.standard_error)


def read(address: str, since: datetime, contract: Contract, paired: bool) -> Responses:
    """Read the events of a period.

    Args:
        address: Folder or address of the events.
        since: Start of the period, UTC without time zone.
        contract: The contract of the models.
        paired: True for a shadow, False for a canary.

    Returns:
        The responses of both models, of at most `MAX_REQUESTS` requests.

    Raises:
        ProjectError: There were several challengers in this period.
    """
    settings, rollout, events = params.load(), load_rollout(), pd.DataFrame(columns=[*COLUMNS])
    with tempfile.TemporaryDirectory() as folder, connect(settings.memory_gb) as con:
        if read_events(con, address, since, Path(folder) / "events"):
            events = con.sql(_SAMPLE).df()
    versions = events[events.role == CHALLENGER].model_version.unique()
    if len(versions) > 1:
        raise ProjectError(
            f"{address}: {', '.join(sorted(versions))} were challengers since {since:%Y-%m-%d %H:%M} UTC. "
            "Analyse only one: choose a later start with --minutes."
        )
    delay = timedelta(seconds=rollout.event_delay_seconds)
    statuses = request_statuses(events[events.row == 0].set_index("id"), paired, delay)
    predicted = events[events.status == 200].set_index(["id", "row"])
    challenger, champion = (predicted[predicted.role == role] for role in (CHALLENGER, CHAMPION))
    if paired:
        common = challenger.index.intersection(champion.index)
        challenger, champion = challenger.loc[common], champion.loc[common]
    return Responses(contract, settings.gate, rollout, paired, *statuses, challenger, champion)


def request_statuses(events: pd.DataFrame, paired: bool, delay: timedelta) -> tuple[pd.Series, pd.Series]:
    """Return the HTTP status of each request.

    Shadow: champion requests older than `delay` without a challenger event count as failed. Canary: requests
    that the fallback served count as failed.

    Args:
        events: One event of each request and role, indexed by request id.
        paired: True for a shadow, False for a canary.
        delay: Time until the event of a request is written.

    Returns:
        The statuses of the requests to the challenger, and to the champion.
    """
    champion, challenger, fallback = (events[events.role == role] for role in ROLES)
    if paired:
        champion = champion[champion.time <= datetime.now(UTC).replace(tzinfo=None) - delay]
        return challenger.status.reindex(champion.index, fill_value=NO_RESPONSE), champion.status
    failed = pd.Series(NO_RESPONSE, fallback.index)
    return pd.concat([failed, challenger.status.drop(failed.index, errors="ignore")]), champion.status


def mean(values: pd.Series) -> tuple[float, float]:
    """Estimate a mean over rows; rows of one request are one cluster.

    Ultimate clusters: Hansen, Hurwitz and Madow, 1953.

    Args:
        values: Values of rows, with the request id in the index level "id".

    Returns:
        The mean and its standard error.
    """
    clusters = (values - values.mean()).groupby(level="id").sum()
    correction = len(clusters) / (len(clusters) - 1)
    return float(values.mean()), float((correction * (clusters**2).sum()) ** 0.5 / len(values))


def difference(challenger: pd.Series, champion: pd.Series, paired: bool) -> tuple[float, float]:
    """Estimate the difference of two means.

    Args:
        challenger: Values of the challenger, with the request id in the index level "id".
        champion: Values of the champion; of the same rows if `paired`.
        paired: True for a shadow, False for a canary.

    Returns:
        The challenger's mean minus the champion's, and its standard error.
    """
    if paired:
        return mean(challenger - champion)
    (first, first_error), (second, second_error) = mean(challenger), mean(champion)
    return first - second, (first_error**2 + second_error**2) ** 0.5


def check_errors(responses: Responses) -> Iterator[Comparison]:
    """Compare the shares of failed and of rejected requests.

    Args:
        responses: The responses of both models.

    Yields:
        A comparison for statuses 5xx, and one for 4xx.
    """
    limit, n_requests = responses.rollout.max_error_share, len(responses.challenger_status)
    for subject, first_digit in (("failed", 5), ("rejected", 4)):
        challenger = (responses.challenger_status // 100 == first_digit).astype(float)
        champion = (responses.champion_status // 100 == first_digit).astype(float)
        yield Comparison(
            "errors",
            subject,
            *difference(challenger, champion, responses.paired),
            limit,
            f"≤ {limit:g} above the champion's share",
            "rollout.max_error_share",
            f"{challenger.mean():.2%} of {n_requests:,} requests, {champion.mean():.2%} of the champion's",
        )


def check_latency(responses: Responses) -> Iterator[Comparison]:
    """Check the median latency against the gate's limit, and the 99th percentile against the champion's.

    Args:
        responses: The responses of both models.

    Yields:
        A comparison for the median, and one for the 99th percentile.
    """
    challenger, champion = (
        rows[rows.index.get_level_values("row") == 0].seconds.astype(float) * 1000
        for rows in (responses.challenger, responses.champion)
    )
    if len(challenger) < 2:
        return
    max_latency_ms, ratio = responses.gate.max_latency_ms, responses.rollout.max_latency_ratio
    slow = max(max_latency_ms, ratio * champion.quantile(0.99))
    for subject, latency_ms, share, parameter in (
        ("median", max_latency_ms, 0.5, "gate.max_latency_ms"),
        ("99th percentile", slow, 0.01, "rollout.max_latency_ratio"),
    ):
        value, standard_error = mean((challenger > latency_ms).astype(float))
        yield Comparison(
            "latency",
            subject,
            value,
            standard_error,
            share,
            f"≤ {share:g} of the requests above {latency_ms:.2f} ms",
            parameter,
            f"{value:.1%} of the requests take more than {latency_ms:.2f} ms",
        )


def segments(responses: Responses) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Iterate over the segments of the contract.

    Args:
        responses: The responses of both models.

    Yields:
        Name, rows of the challenger and rows of the champion: of all rows, then of each segment.
    """
    challenger, champion = responses.challenger, responses.champion
    yield "all", challenger, champion
    for column in responses.contract.features:
        name = feature_column(column.name)
        if column.segment and name in challenger:
            for value in sorted(challenger[name].dropna().unique()):
                label = column.categories[int(value)] if column.kind == "category" else f"{value:g}"
                yield (
                    f"{column.name} = {label}",
                    challenger[challenger[name] == value],
                    champion[champion[name] == value],
                )


def check_shift(responses: Responses) -> Iterator[Comparison]:
    """Compare the mean scores in each segment that has `gate.min_segment_rows` requests to both models.

    Args:
        responses: The responses of both models.

    Yields:
        A comparison for each segment and label; of two labels, for the second one only.
    """
    limit, labels = responses.rollout.max_score_shift, responses.contract.labels
    is_classifier = responses.contract.task == "classification"
    for segment, *rows in segments(responses):
        n_requests = min(part.index.get_level_values("id").nunique() for part in rows)
        if n_requests < responses.gate.min_segment_rows:
            continue
        for label in labels[len(labels) == 2 :]:
            column = output_column(label)
            scale = 1.0 if is_classifier else responses.champion[column].std() or 1.0
            challenger, champion = (part[column].astype(float) / scale for part in rows)
            if champion.isna().any():  # the champion does not know this label
                continue
            value, standard_error = difference(challenger, champion, responses.paired)
            unit = "" if is_classifier else " standard deviations"
            yield Comparison(
                "shift",
                f"{label}, {segment}",
                value,
                standard_error,
                limit,
                f"within ±{limit:g}{unit}",
                "rollout.max_score_shift",
                f"the mean score differs by {value:+.3f}{unit} from the champion's",
                two_sided=True,
            )


def check_agreement(responses: Responses) -> Iterator[Check]:
    """Check how often a shadow predicts the champion's label. Only a person can decide whether less is wrong.

    Args:
        responses: The responses of both models.

    Yields:
        A check of the share, for a shadow of a classifier.
    """
    if responses.paired and responses.contract.task == "classification" and len(responses.challenger):
        columns = output_columns(responses.contract)
        challenger, champion = (
            predict_labels(rows[columns].to_numpy(), responses.contract.decision_threshold)
            for rows in (responses.challenger, responses.champion)
        )
        share, limit = float((challenger == champion).mean()), responses.rollout.min_agreement
        yield Check(
            "agreement",
            "label",
            status_if(share >= limit, "warn"),
            f"{share:.1%} of the rows have the champion's label",
            f"≥ {limit:g}",
            "rollout.min_agreement",
            value=share,
        )


def _to_check(comparison: Comparison, p_value: float, alpha: float) -> Check:
    """Fail if the value is significantly above the limit."""
    half_width = NormalDist().inv_cdf(1 - alpha) * comparison.standard_error
    value = comparison.value
    return Check(
        comparison.check,
        comparison.subject,
        status_if(p_value > alpha),
        comparison.message,
        comparison.limit_text,
        comparison.parameter,
        Estimate(value, value - half_width, value + half_width, comparison.standard_error),
        p_value=p_value,
    )


def analyse(responses: Responses) -> tuple[Verdict, list[Check]]:
    """Run all checks.

    Args:
        responses: The responses of both models.

    Returns:
        The verdict ("keep" if there are fewer requests than `rollout.min_requests`), and the checks.
    """
    n_requests = min(len(responses.challenger_status), len(responses.champion_status))
    min_requests = responses.rollout.min_requests
    if n_requests < min_requests:
        message = f"{n_requests:,} of {min_requests:,} requests"
        limit = f"≥ {min_requests:,} to each model"
        parameter = "rollout.min_requests"
        check = Check("requests", "count", "warn", message, limit, parameter, value=n_requests)
        return "keep", [check]
    comparisons = [
        comparison for check in (check_errors, check_latency, check_shift) for comparison in check(responses)
    ]
    alpha = (1 - responses.gate.confidence_level) / 2
    p_values = adjust_holm([comparison.p_value for comparison in comparisons])
    checks = [_to_check(*pair, alpha) for pair in zip(comparisons, p_values, strict=True)]
    checks += check_agreement(responses)
    return decide(checks), checks


def reasons(checks: list[Check]) -> str:
    """List the checks that do not pass.

    Args:
        checks: Results of the analysis.

    Returns:
        A Markdown list: result, limit, parameter and what to do; empty if all pass.
    """
    return "".join(f"\n- {check.reason} {ACTIONS[check.check]}" for check in checks if check.status != "pass")


def main() -> None:
    """Analyse the last minutes of a shadow or canary."""
    parser = argparse.ArgumentParser(description="Compare a challenger with the champion.")
    parser.add_argument("mode", choices=("shadow", "canary"))
    parser.add_argument("events", help="folder or address of the events")
    parser.add_argument("--minutes", type=float, default=60, help="length of the period; default: 60")
    arguments = parser.parse_args()
    since = datetime.now(UTC).replace(tzinfo=None) - timedelta(minutes=arguments.minutes)
    contract = declarations.load().contract
    verdict, checks = analyse(read(arguments.events, since, contract, arguments.mode == "shadow"))
    if verdict == "block":
        raise ProjectError(f"the {arguments.mode} is blocked{reasons(checks)}")
    print(f"rollout: {verdict}{reasons(checks)}")


if __name__ == "__main__":
    cli(main)
