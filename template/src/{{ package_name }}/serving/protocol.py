"""HTTP/1.1 with bounds that uvicorn's parser lacks: the size of a request's head, and its time to arrive.

Bodies are bounded by `request_limits`.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 2**10
HEAD_SECONDS = 10.0  # between two checks: a head must arrive between one check and the next but one


class BoundedProtocol(HttpToolsProtocol):
    """One connection of a client."""

    _head_bytes = 0  # of this request, received and no part of its body
    _is_late = False
    _check: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Start to wait for the first request.

        Args:
            transport: The connection.
        """
        super().connection_made(transport)
        self._check = self.loop.call_later(HEAD_SECONDS, self._check_head)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting, so that nothing holds a closed connection in memory.

        Args:
            exc: Why it was lost, None if it was closed.
        """
        super().connection_lost(exc)
        if self._check:
            self._check.cancel()

    def data_received(self, data: bytes) -> None:
        """Parse data, and reject a request whose head is too large, headers after its body included.

        Args:
            data: What has arrived.
        """
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"The headers are larger than {MAX_HEAD_BYTES >> 10} KiB.")

    def on_message_begin(self) -> None:
        """Begin a request. The data that it came with may belong to the one before: it is not counted."""
        super().on_message_begin()
        self._head_bytes = 0

    def on_body(self, body: bytes) -> None:
        """Receive a part of a body, which in a chunk may have as many bytes around it.

        Args:
            body: The part.
        """
        super().on_body(body)
        self._head_bytes -= 2 * len(body)

    def on_response_complete(self) -> None:
        """Start to wait for the next request."""
        super().on_response_complete()
        self._is_late = False

    def _check_head(self) -> None:
        """Close the connection if no head has arrived since the last check."""
        is_waiting = self.cycle is None or self.cycle.response_complete
        if is_waiting and self._is_late:
            self.transport.close()
            return
        self._is_late = is_waiting
        self._check = self.loop.call_later(HEAD_SECONDS, self._check_head)
