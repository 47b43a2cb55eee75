"""Analysis of a rollout: compares a challenger with the champion by their prediction events.

    python -m <package>.deployment.analysis shadow EVENTS
    python -m <package>.deployment.analysis canary EVENTS --minutes 30

A shadow is compared request by request, a canary with the champion's requests in the same period. A check
fails only if the data prove a regression; all tests together keep `gate.confidence_level` (Holm, 1979).
Repeated looks inflate false positives, so nothing is decided before `rollout.min_requests`.

What can be compared depends on what the target promises. If a shadow gets copies of some requests only, the
others are left out; if copies have ids of their own, the models are compared by their means, not in pairs. A
request without a response is then no failure, but too few responses are a warning.

Requests are not independent. A canary draws clients, so its unit is the client (Abadie et al., 2023, "When
should you adjust standard errors for clustering?"). A shadow predicts the requests of all clients, so its
unit is the contract's group, as in the evaluation; so is that of a canary without sticky clients. Where
neither is known, it is the request. Thus a few heavy clients do not look like a difference between models. If
too few send nearly all requests (`rollout.min_units`), they cannot tell, and nothing is decided.
"""

import argparse
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from scipy.special import bdtr, stdtr, stdtrit

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
from .target import COMPLETE, Promises, read_status

MAX_REQUESTS = 100_000  # a random sample of more
NO_RESPONSE = 504
ACTIONS = {
    "requests": "Wait for more requests, or raise rollout.minutes.",
    "units": "Wait for requests of more clients, each with its X-Client-Id; a person may promote it.",
    "responses": "Read the challenger's log: copies are not made or not answered; a person may promote it.",
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
# Both models get the same unit of a row, also if only one of the servers records it.
_UNIT = """
SELECT * EXCLUDE (known_group, known_client), coalesce({unit}, hash(id)) AS unit
FROM (SELECT *, max("group") OVER (PARTITION BY id, row) AS known_group,
    max(client) OVER (PARTITION BY id) AS known_client FROM ({sample}))
"""


class ResponseShare(NamedTuple):
    """How many requests the challenger answered, where one without a response leaves no trace."""

    n_responses: int
    n_requests: int
    promised: float


@dataclass(frozen=True)
class Responses:
    """Responses of both models, indexed by unit, request id and row.

    Attributes:
        paired: Whether both models predicted the same rows: a shadow, whose copies keep their ids.
        challenger_status: HTTP status of each request to the challenger, `(n_requests,)`; without a row.
        champion_status: HTTP status of each request to the champion, `(n_requests,)`.
        challenger: Events of the rows that the challenger predicted.
        champion: Events of the rows that the champion predicted.
        share: Share of the requests that the challenger answered; None if each request without a response is
            counted as failed.
    """

    contract: Contract
    gate: params.Gate
    rollout: Rollout
    paired: bool
    challenger_status: pd.Series
    champion_status: pd.Series
    challenger: pd.DataFrame
    champion: pd.DataFrame
    share: ResponseShare | None = None


class Mean(NamedTuple):
    """A mean, or a difference of means: its value, standard error and degrees of freedom."""

    value: float
    standard_error: float
    df: float


class Comparison(NamedTuple):
    """A statistic that must not be above its limit, nor below `-limit` if `two_sided`."""

    check: str
    subject: str
    value: float
    standard_error: float
    df: float
    limit: float
    limit_text: str
    parameter: str
    message: str
    two_sided: bool = False

    @property
    def p_value(self) -> float:
        """Probability of such a value if the true one is at the limit.

        Returns:
            The p-value of Student's t-test, between 0 and 1.
        """
        value = abs(self.value) if self.two_sided else self.value
        if self.standard_error == 0:
            return 0.0 if value > self.limit else 1.0
        return float(stdtr(self.df, (self.limit - value) / self.standard_error))

    def estimate(self, alpha: float) -> Estimate:
        """Return the value with its interval.

        Args:
            alpha: Probability of either tail, between 0 and 0.5.

        Returns:
            The estimate, with Student's interval.
        """
        half_width = float(stdtrit(self.df, 1 - alpha)) * self.standard_error
        return Estimate(self.value, self.value - half_width, self.value + half_width, self.standard_error)


def read(
    address: str,
    since: datetime,
    contract: Contract,
    mode: str,
    promises: Promises = COMPLETE,
    canary_share: float = 0,
) -> Responses:
    """Read the events of a period.

    Args:
        address: Folder or address of the events.
        since: Start of the period, UTC without time zone.
        contract: The contract of the models.
        mode: "shadow" or "canary".
        promises: What the target promises.
        canary_share: Percentage of the clients that the canary serves; 0 if it is not known.

    Returns:
        The responses of both models, of at most `MAX_REQUESTS` requests.

    Raises:
        ProjectError: There were several challengers in this period.
    """
    settings, rollout, events = params.load(), load_rollout(), pd.DataFrame(columns=[*COLUMNS, "unit"])
    draws_clients = mode == "canary" and promises.sticky
    unit = "known_client, known_group" if draws_clients else "known_group"
    with tempfile.TemporaryDirectory() as folder, connect(settings.memory_gb) as con:
        n_events, _ = read_events(con, address, since, Path(folder) / "events")
        if n_events:
            events = con.sql(_UNIT.format(unit=unit, sample=_SAMPLE)).df()
    versions = events[events.role == CHALLENGER].model_version.unique()
    if len(versions) > 1:
        raise ProjectError(
            f"{address}: {', '.join(sorted(versions))} were challengers since {since:%Y-%m-%d %H:%M} UTC. "
            "Analyse only one: choose a later start with --minutes."
        )
    requests = events[events.row == 0].set_index(["unit", "id"])
    paired = mode == "shadow" and promises.paired
    if mode == "shadow":
        end = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=rollout.event_delay_seconds)
        statuses, share = shadow_statuses(requests, end, promises)
    else:
        statuses, share = canary_statuses(requests), canary_response_share(requests, promises, canary_share)
    predicted = events[events.status == 200].set_index(["unit", "id", "row"])
    challenger, champion = (predicted[predicted.role == role] for role in (CHALLENGER, CHAMPION))
    if paired:
        common = challenger.index.intersection(champion.index)
        challenger, champion = challenger.loc[common], champion.loc[common]
    return Responses(contract, settings.gate, rollout, paired, *statuses, challenger, champion, share)


Statuses = tuple[pd.Series, pd.Series]


def shadow_statuses(
    requests: pd.DataFrame, end: datetime, promises: Promises
) -> tuple[Statuses, ResponseShare | None]:
    """Return the HTTP status of each request of a shadow.

    Only if all requests are copied, with their ids, is one without a challenger event known to have failed.

    Args:
        requests: One event of each request and role, indexed by unit and request id.
        end: Later requests are left out, because the challenger's event may not be written yet.
        promises: What the target promises.

    Returns:
        The statuses of the requests to the challenger and to the champion, and the share that was answered.
    """
    challenger, champion = (requests[requests.role == role] for role in (CHALLENGER, CHAMPION))
    champion = champion[champion.time <= end]
    if promises.paired and promises.copied == 1:
        return (challenger.status.reindex(champion.index, fill_value=NO_RESPONSE), champion.status), None
    n_responses = int((challenger.time <= end).sum())
    share = ResponseShare(n_responses, len(champion), promises.copied)
    if promises.paired:
        common = champion.index.intersection(challenger.index)
        return (challenger.status.loc[common], champion.status.loc[common]), share
    return (challenger.status, champion.status), share


def canary_statuses(requests: pd.DataFrame) -> Statuses:
    """Return the HTTP status of each request of a canary; what the fallback served is a failed request.

    Args:
        requests: One event of each request and role, indexed by unit and request id.

    Returns:
        The statuses of the requests to the challenger and to the champion.
    """
    champion, challenger, fallback = (requests[requests.role == role] for role in ROLES)
    failed = pd.Series(NO_RESPONSE, fallback.index)
    return pd.concat([failed, challenger.status.drop(failed.index, errors="ignore")]), champion.status


def canary_response_share(
    requests: pd.DataFrame, promises: Promises, canary_share: float
) -> ResponseShare | None:
    """Count the responses of a canary, if requests are drawn at random and nothing else tells which failed.

    Args:
        requests: One event of each request and role.
        promises: What the target promises.
        canary_share: Percentage of the clients that the canary serves; 0 if it is not known.

    Returns:
        The share; None if the fallback tells, if clients are drawn, or if the share is not known.
    """
    if promises.fallback or promises.sticky or not canary_share:
        return None
    return ResponseShare(int((requests.role == CHALLENGER).sum()), len(requests), canary_share / 100)


def effective_units(values: pd.DataFrame | pd.Series) -> float:
    """Count the units as if each had the same number of rows.

    Args:
        values: Values of rows, with the index level "unit".

    Returns:
        The effective number if rows of a unit are alike: all units if they have equally many rows, 1 if one
        has nearly all rows; 0 without rows.
    """
    squares = values.groupby(level="unit").size().to_numpy(float) ** 2
    return float(squares.sum() ** 2 / (squares**2).sum()) if len(squares) else 0.0


def mean(values: pd.Series) -> Mean:
    """Estimate a mean over rows; the rows of a unit are one cluster.

    The standard error is that of the jackknife, which leaves out one unit at a time: it stays right if a unit
    has many of the rows (Bell and McCaffrey, 2002; MacKinnon, Nygaard Nielsen and Webb, 2023).

    Args:
        values: Values of rows, with the index level "unit".

    Returns:
        The mean, with the effective number of units, less one, as degrees of freedom.
    """
    units = values.groupby(level="unit").agg(["sum", "count"])
    value = float(values.mean())
    if len(units) < 2:
        return Mean(value, math.inf, 1)
    without = (units["sum"].sum() - units["sum"]) / (len(values) - units["count"])
    variance = (len(units) - 1) / len(units) * float(((without - value) ** 2).sum())
    return Mean(value, variance**0.5, max(1e-3, effective_units(values) - 1))


def difference(challenger: pd.Series, champion: pd.Series, paired: bool) -> Mean:
    """Estimate the difference of two means.

    Args:
        challenger: Values of the challenger, with the index level "unit".
        champion: Values of the champion; of the same rows if `paired`.
        paired: True for a shadow, False for a canary.

    Returns:
        The challenger's mean minus the champion's; for a canary with the degrees of freedom of Welch, 1947.
    """
    if paired:
        return mean(challenger - champion)
    first, second = mean(challenger), mean(champion)
    variances = [part.standard_error**2 for part in (first, second)]
    parts = sum(v**2 / part.df for v, part in zip(variances, (first, second), strict=True))
    df = sum(variances) ** 2 / parts if parts else min(first.df, second.df)
    return Mean(first.value - second.value, sum(variances) ** 0.5, df)


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


def check_responses(responses: Responses) -> Iterator[Check]:
    """Check that the challenger answered as many requests as the target promised to send it.

    It cannot be told whether a missing request was not sent or not answered, so this is no failure.

    Args:
        responses: The responses of both models.

    Yields:
        A warning if there are too few by a binomial test; a pass if not; nothing if each failure is known.
    """
    if responses.share and responses.share.n_requests:
        n_responses, n_requests, promised = responses.share
        limit = promised * (1 - responses.rollout.max_error_share)
        p_value = float(bdtr(n_responses, n_requests, limit))
        yield Check(
            "responses",
            "share",
            status_if(p_value > (1 - responses.gate.confidence_level) / 2, "warn"),
            f"{n_responses:,} responses to {n_requests:,} requests, of which it should get {promised:.1%}",
            f"≥ {limit:.1%}",
            "rollout.max_error_share",
            value=n_responses / n_requests,
            p_value=p_value,
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
        estimate = mean((challenger > latency_ms).astype(float))
        yield Comparison(
            "latency",
            subject,
            *estimate,
            share,
            f"≤ {share:g} of the requests above {latency_ms:.2f} ms",
            parameter,
            f"{estimate.value:.1%} of the requests take more than {latency_ms:.2f} ms",
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
                label = column.labels[int(value)] if column.labels else f"{value:g}"
                yield (
                    f"{column.name} = {label}",
                    challenger[challenger[name] == value],
                    champion[champion[name] == value],
                )


def check_shift(responses: Responses) -> Iterator[Comparison]:
    """Compare the mean scores in each segment with enough requests and units of both models.

    Args:
        responses: The responses of both models.

    Yields:
        A comparison for each segment and label; of two labels, for the second one only.
    """
    limit, labels = responses.rollout.max_score_shift, responses.contract.labels
    is_classifier = responses.contract.task == "classification"
    for segment, *rows in segments(responses):
        n_requests = min(part.index.get_level_values("id").nunique() for part in rows)
        n_units = min(map(effective_units, rows))
        if n_requests < responses.gate.min_segment_rows or n_units < responses.rollout.min_units:
            continue
        for label in labels[len(labels) == 2 :]:
            column = output_column(label)
            scale = 1.0 if is_classifier else responses.champion[column].std() or 1.0
            challenger, champion = (part[column].astype(float) / scale for part in rows)
            if champion.isna().any():  # the champion does not know this label
                continue
            estimate = difference(challenger, champion, responses.paired)
            unit = "" if is_classifier else " standard deviations"
            yield Comparison(
                "shift",
                f"{label}, {segment}",
                *estimate,
                limit,
                f"within ±{limit:g}{unit}",
                "rollout.max_score_shift",
                f"the mean score differs by {estimate.value:+.3f}{unit} from the champion's",
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
    return Check(
        comparison.check,
        comparison.subject,
        status_if(p_value > alpha),
        comparison.message,
        comparison.limit_text,
        comparison.parameter,
        comparison.estimate(alpha),
        p_value=p_value,
    )


def check_evidence(responses: Responses) -> Iterator[Check]:
    """Check whether there are enough requests, and of enough units, for a decision.

    Args:
        responses: The responses of both models.

    Yields:
        A warning for what is not enough.
    """
    statuses = responses.challenger_status, responses.champion_status
    min_requests, min_units = responses.rollout.min_requests, responses.rollout.min_units
    n_requests, n_units = min(map(len, statuses)), min(map(effective_units, statuses))
    if n_requests < min_requests:
        message = f"{n_requests:,} of {min_requests:,} requests"
        limit = f"≥ {min_requests:,} to each model"
        yield Check("requests", "count", "warn", message, limit, "rollout.min_requests", value=n_requests)
    elif n_units < min_units:
        message = f"{n_units:.1f} effective clients or groups: too few send nearly all requests to a model"
        limit = f"≥ {min_units} of each model"
        yield Check("units", "count", "warn", message, limit, "rollout.min_units", value=n_units)


def analyse(responses: Responses) -> tuple[Verdict, list[Check]]:
    """Run all checks.

    Args:
        responses: The responses of both models.

    Returns:
        The verdict ("keep" if there are too few requests or units), and the checks.
    """
    if too_few := list(check_evidence(responses)):
        return "keep", [*check_responses(responses), *too_few]
    comparisons = [
        comparison for check in (check_errors, check_latency, check_shift) for comparison in check(responses)
    ]
    alpha = (1 - responses.gate.confidence_level) / 2
    p_values = adjust_holm([comparison.p_value for comparison in comparisons])
    checks = [_to_check(*pair, alpha) for pair in zip(comparisons, p_values, strict=True)]
    checks += [*check_agreement(responses), *check_responses(responses)]
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
    contract, status = declarations.load().contract, read_status()
    responses = read(arguments.events, since, contract, arguments.mode, status.promises, status.share)
    verdict, checks = analyse(responses)
    if verdict == "block":
        raise ProjectError(f"the {arguments.mode} is blocked{reasons(checks)}")
    print(f"rollout: {verdict}{reasons(checks)}")


if __name__ == "__main__":
    cli(main)
