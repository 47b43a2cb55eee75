"""Interval: from when to when rows are fetched, for a source or query that names `{since}` or `{until}`.

`{since:%Y-%m-%d}` writes a time in a format of its own. The end of an interval is stored with its rows in
`data/raw`, which git tracks through dvc.lock, and is the start of the next one. Nothing else remembers it, so
an ingest that fails fetches the same interval again.
"""

import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from .. import params
from ..core.errors import ProjectError

PLACEHOLDER = re.compile(r"\{(since|until)(?::([^{}]*))?\}")
FORMAT = "%Y-%m-%d %H:%M:%S"


class Interval(NamedTuple):
    """A time span in UTC, without its end."""

    since: datetime
    until: datetime

    def fill(self, text: str) -> str:
        """Replace the placeholders of a text.

        Args:
            text: A source or a query.

        Returns:
            The text with both times, by default as 2026-01-31 00:00:00.
        """
        return PLACEHOLDER.sub(lambda match: getattr(self, match[1]).strftime(match[2] or FORMAT), text)


def choose_interval(ingest: params.Ingest, ends: Iterable[str]) -> Interval | None:
    """Choose the interval of this ingest.

    Args:
        ingest: The parameters that name the source. `since` is the start of the first interval.
        ends: The ends of earlier intervals, of which the last is the start, unless SINCE is set.

    Returns:
        The interval; None if neither source nor query has a placeholder.

    Raises:
        ProjectError: There is no start, a time is not ISO 8601, or the interval has no length.
    """
    since, until = (os.environ.get(name, "") for name in ("SINCE", "UNTIL"))
    if not PLACEHOLDER.search(ingest.source + (ingest.query or "")):
        if since or until:
            raise ProjectError(
                "ingest: SINCE and UNTIL need {since} or {until} in ingest.source or ingest.query"
            )
        return None
    if ingest.mode == "replace":
        raise ProjectError(
            "ingest: with ingest.mode replace, an ingest fetches all rows, but the source names {since} or "
            "{until}. Use mode append, or take them out."
        )
    start = since or max(ends, default="") or ingest.since
    if not start:
        raise ProjectError(
            "ingest: the first interval has no start. Set ingest.since in params.yaml, or SINCE=…"
        )
    interval = Interval(_parse(start), _parse(until) if until else datetime.now(UTC).replace(microsecond=0))
    if interval.since >= interval.until:
        raise ProjectError(f"ingest: {interval.since} is not before {interval.until}")
    return interval


def _parse(text: str) -> datetime:
    """Read a time, which is in UTC unless it has an offset."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ProjectError(
            f"ingest: {text!r} must be a date or time such as 2026-01-31 or 2026-01-31T14:30"
        ) from None
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
