"""Limits of requests: how many at a time, how large, and how long a body may take to arrive.

A request beyond a limit is rejected at once, so that the server can answer the requests it has accepted.
"""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from time import monotonic
from typing import cast

from starlette.types import Receive

MAX_REQUESTS = 500  # in progress at a time
MAX_TOTAL_BYTES = 64 * 2**20  # of all bodies in memory
MAX_BODY_BYTES = 16 * 2**20  # of one body
MAX_BODY_SECONDS = 10.0  # for one body to arrive
CHECK_SECONDS = 0.5  # between two checks for late bodies

BUSY = f"busy: {MAX_REQUESTS} requests or {MAX_TOTAL_BYTES >> 20} MiB of bodies are in progress; retry later"
TOO_LARGE = f"the body is larger than {MAX_BODY_BYTES >> 20} MiB"
TOO_LATE = f"the body did not arrive within {MAX_BODY_SECONDS:g} seconds"


class RequestRejected(Exception):  # noqa: N818
    """A request that is answered without being processed.

    Attributes:
        status: The HTTP status of the answer.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class RequestLimits:
    """Reads request bodies within the limits."""

    def __init__(self) -> None:
        self._deadlines: dict[asyncio.Task, float] = {}  # of the requests in progress
        self._total_bytes = 0  # of their bodies

    async def read_body(self, receive: Receive, content_length: int) -> bytes | None:
        """Read the body of a request.

        Args:
            receive: The ASGI channel of the request.
            content_length: The announced size in bytes, 0 if the request announces none.

        Returns:
            The body, or None if the client has disconnected.

        Raises:
            RequestRejected: The request is beyond a limit: 408 (late), 413 (large) or 503 (busy).
        """
        if content_length > MAX_BODY_BYTES:
            raise RequestRejected(413, TOO_LARGE)
        if len(self._deadlines) >= MAX_REQUESTS:
            raise RequestRejected(503, BUSY)
        task, body = cast(asyncio.Task, asyncio.current_task()), bytearray()
        self._deadlines[task] = deadline = monotonic() + MAX_BODY_SECONDS
        try:
            # All requests that have arrived are counted before one is answered: answering never pauses.
            await asyncio.sleep(0)
            while (message := await receive())["type"] != "http.disconnect":
                self._append(body, message.get("body", b""))
                if not message.get("more_body"):
                    return bytes(body)
        except asyncio.CancelledError:
            if monotonic() < deadline:  # the server is shutting down
                raise
            raise RequestRejected(408, TOO_LATE) from None
        finally:
            del self._deadlines[task]
            self._total_bytes -= len(body)
        return None

    @contextmanager
    def hold(self, body: bytes) -> Generator[None]:
        """Count a body that has arrived as one in memory, until its request is answered.

        Args:
            body: The body.

        Raises:
            RequestRejected: Too many are in memory: 503.
        """
        if self._total_bytes + len(body) > MAX_TOTAL_BYTES:
            raise RequestRejected(503, BUSY)
        self._total_bytes += len(body)
        try:
            yield
        finally:
            self._total_bytes -= len(body)

    def _append(self, body: bytearray, part: bytes) -> None:
        """Add a part to a body, unless it exceeds a limit."""
        body += part
        self._total_bytes += len(part)
        if len(body) > MAX_BODY_BYTES:
            raise RequestRejected(413, TOO_LARGE)
        if self._total_bytes > MAX_TOTAL_BYTES:
            raise RequestRejected(503, BUSY)

    async def cancel_late_requests(self) -> None:
        """Cancel requests after their deadline until the server stops."""
        while True:  # a timer per request would cost 10 % of its time
            await asyncio.sleep(CHECK_SECONDS)
            for task in [task for task, deadline in self._deadlines.items() if deadline < monotonic()]:
                task.cancel()
