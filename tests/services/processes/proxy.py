"""The proxy of the target "processes": it reads at each request where it goes."""

import http.client
import json
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PORT, ROUTES, COPIES = int(sys.argv[1]), Path(sys.argv[2]), ThreadPoolExecutor(8)


class Proxy(BaseHTTPRequestHandler):
    """Hands a request on; once again if the server has just been stopped."""

    def do_POST(self) -> None:  # noqa: D102
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            status, headers, content = self.ask(body)
        except (OSError, http.client.HTTPException):
            status, headers, content = self.ask(body)
        self.send_response(status)
        for name in {"content-type", "content-length", "x-request-id"} & {*headers}:
            self.send_header(name, headers[name])
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST  # noqa: N815

    def ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:  # noqa: D102
        routes = json.loads(ROUTES.read_text())
        is_drawn = self.command == "POST" and random.random() < routes["share"]  # noqa: S311
        answer = self.send(
            "challenger" if is_drawn and routes["mode"] == "canary" else "champion", routes, body
        )
        if is_drawn and routes["mode"] == "shadow":
            COPIES.submit(self.send, "challenger", routes, body)
        return answer

    def send(self, role: str, routes: dict, body: bytes) -> tuple[int, dict[str, str], bytes]:  # noqa: D102
        connection = http.client.HTTPConnection("127.0.0.1", routes[role], timeout=30)
        connection.request(self.command, self.path, body, {"x-role": role})
        response = connection.getresponse()
        return (
            response.status,
            {name.lower(): value for name, value in response.getheaders()},
            response.read(),
        )

    def log_message(self, *_: object) -> None:  # noqa: D102
        pass


ThreadingHTTPServer.request_queue_size = 128
ThreadingHTTPServer(("127.0.0.1", PORT), Proxy).serve_forever()
