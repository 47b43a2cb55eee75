"""Parameters of the progressive rollout: the section `rollout` of `params.yaml`."""

from typing import Annotated

import msgspec

from ..params import NotNegative, Positive, Renamed, Section, Share, load_section

Percentage = Annotated[float, msgspec.Meta(gt=0, lt=100)]
RENAMED: Renamed = {("rollout", "max_shift"): ("max_score_shift",)}


class Rollout(Section, frozen=True):
    """Progressive rollout of an image (see `deployment/rollout.py` and `deployment/analysis.py`)."""

    steps: tuple[Percentage, ...] = (10, 50)  # percentages of the clients that the canary serves in turn
    minutes: NotNegative = 60  # for each step; 0: no shadow and no canary
    min_requests: Annotated[int, msgspec.Meta(ge=2)] = 500  # to both images in each step before a decision
    min_units: Annotated[int, msgspec.Meta(ge=2)] = 10  # clients, or groups of a shadow, of equal size
    max_error_share: Share = 0.01  # failed or rejected requests, beyond the champion's share
    min_agreement: Share = 0.9  # share of rows with the champion's label; below, a person decides
    max_latency_ratio: Positive = 2  # 99th percentile, relative to the champion's
    max_score_shift: Positive = 0.1  # of a segment's mean: a probability, or standard deviations
    poll_seconds: Positive = 5  # between two analyses
    event_delay_seconds: NotNegative = 15  # until the event of a request is written


def load_rollout() -> Rollout:
    """Read the section.

    Returns:
        The section, defaults filled in.

    Raises:
        ProjectError: A key is unknown or has a wrong value.
    """
    return load_section("rollout", Rollout, RENAMED)
