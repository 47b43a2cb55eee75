"""A load generator: keeps some connections busy, each with one request at a time.

    python -m benchmarks.load PORT PATH CONNECTIONS SECONDS < BODY

A process of its own, that prints what it counted as JSON. All
answers to one request have one length, so that an answer is complete once as many bytes have come.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from dataclasses import dataclass


@dataclass
class Connection:
    """One connection, what of its answer has come, and when it was asked."""

    sock: socket.socket
    got: int = 0
    sent: float = 0.0


class Load:
    """The same request over and over."""

    def __init__(self, port: int, path: str, body: bytes, connections: int) -> None:
        self.request = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        self.connections = [
            Connection(socket.create_connection(("127.0.0.1", port))) for _ in range(connections)
        ]
        self.selector = selectors.DefaultSelector()
        for connection in self.connections:
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.selector.register(connection.sock, selectors.EVENT_READ, connection)

    def answer_size(self) -> int:
        """Ask once, check that the answer is good, and return its length."""
        sock = self.connections[0].sock
        sock.sendall(self.request)
        data = b""
        while b"\r\n\r\n" not in data:
            data += sock.recv(65536)
        head = data[: data.index(b"\r\n\r\n") + 4].lower()
        if not head.startswith(b"http/1.1 200"):
            sys.exit(f"not a good answer: {data.decode()}")
        size = len(head) + int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        while len(data) < size:
            data += sock.recv(65536)
        return size

    def run(self, seconds: float) -> list[float]:
        """Ask as fast as answers come; return the time of each."""
        size, took = self.answer_size(), []
        now = time.perf_counter()
        end = now + seconds
        for connection in self.connections:
            self.ask(connection, now)
        while now < end:
            for key, _ in self.selector.select(1):
                connection = key.data
                received = connection.sock.recv(65536)
                if not received:
                    sys.exit("the server hung up")
                connection.got += len(received)
                if connection.got >= size:
                    now = time.perf_counter()
                    took.append(now - connection.sent)
                    self.ask(connection, now)
            now = time.perf_counter()
        return took

    def ask(self, connection: Connection, now: float) -> None:
        """Send the request once more."""
        connection.got, connection.sent = 0, now
        connection.sock.sendall(self.request)


def main() -> None:
    """Send the request on standard input to a server; print the rate and the 99th percentile as JSON."""
    port, path, connections, seconds = sys.argv[1:]
    load = Load(int(port), path, sys.stdin.buffer.read(), int(connections))
    took = sorted(load.run(float(seconds)))
    p99 = took[int(0.99 * len(took))]
    print(json.dumps({"rate": len(took) / float(seconds), "p99": p99 * 1000}))


if __name__ == "__main__":
    main()
