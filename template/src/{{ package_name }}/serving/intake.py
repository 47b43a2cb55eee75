"""How the bodies of requests are taken in: so many at a time, of such a size, and in so much time.

What is beyond a limit is turned away at once: a server that takes more than it can answer answers nobody.
"""

import asyncio
from time import monotonic
from typing import cast

from starlette.types import Receive

MOST_REQUESTS = 500  # that are under way,
MOST_HELD = 64 * 2**20  # and bytes of their bodies
MOST_BYTES = 16 * 2**20  # of one body
MOST_SECONDS = 10.0  # for one body to arrive
ROUND = 0.5  # seconds between looks at who is late


class TurnedAwayError(Exception):
    """A request that is not read: its status, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


BUSY = f"{MOST_REQUESTS} requests or {MOST_HELD >> 20} MiB of them are under way: ask again later"
TOO_LARGE = f"a body may have {MOST_BYTES >> 20} MiB"
TOO_LATE = f"the body did not arrive within {MOST_SECONDS:g} seconds"


class Intake:
    """The requests that are under way."""

    def __init__(self) -> None:
        self._due: dict[asyncio.Task, float] = {}
        self._held = 0

    async def read(self, receive: Receive, announced: int) -> bytes | None:
        """The body of a request that announces so many bytes; None if the client has gone.

        Raises:
            TurnedAwayError: it is beyond a limit.
        """
        if announced > MOST_BYTES:
            raise TurnedAwayError(413, TOO_LARGE)
        if len(self._due) >= MOST_REQUESTS:
            raise TurnedAwayError(503, BUSY)
        task, body = cast(asyncio.Task, asyncio.current_task()), bytearray()
        self._due[task] = monotonic() + MOST_SECONDS
        try:
            await asyncio.sleep(0)  # so that all who have come are counted before one is answered
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                part = message.get("body", b"")
                body += part
                self._held += len(part)
                if len(body) > MOST_BYTES:
                    raise TurnedAwayError(413, TOO_LARGE)
                if self._held > MOST_HELD:
                    raise TurnedAwayError(503, BUSY)
                if not message.get("more_body"):
                    return bytes(body)
        except asyncio.CancelledError:
            raise TurnedAwayError(408, TOO_LATE) from None
        finally:
            del self._due[task]
            self._held -= len(body)

    async def watch(self) -> None:
        """End what is late; a timer for each request would cost a tenth of its time."""
        while True:
            await asyncio.sleep(ROUND)
            for task in [task for task, due in self._due.items() if due < monotonic()]:
                task.cancel()
