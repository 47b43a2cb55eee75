"""Who may do what: predictions, feedback and operations have a door each.

Each door may need a token. Behind the gateway, which sends the header x-role, feedback and operations
(metrics, documentation, facts about the model) are closed without one. Operations never need one from this
machine itself. A browser sends the header Origin: a page of another site is refused unless its origin is
allowed, because it would act from inside its reader's network.
"""

import hmac
import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from ..core.errors import ProjectError
from .request_limits import RequestRejected

Headers = dict[bytes, bytes]
RawHeaders = list[tuple[bytes, bytes]]
PREDICT_TOKEN, FEEDBACK_TOKEN, OPERATIONS_TOKEN = "PREDICT_TOKEN", "FEEDBACK_TOKEN", "OPERATIONS_TOKEN"
PUBLIC = ("/health", "/ping")  # that the process is alive, for platforms
LOOPBACK = ("127.0.0.1", "::1")
_NO_GATEWAY = "closed behind the gateway: set {} on the server to open it to those who have the token"
_FOREIGN = "pages of this origin may not send requests: add it to ALLOWED_ORIGINS of the server"
_NO_JSON = "expected the header 'Content-Type: application/json'"
_ENCODED = "expected a body without Content-Encoding"


def read_token(name: str) -> str:
    """Read a token from the environment, or from a file that the variable NAME_FILE names.

    Args:
        name: Name of the variable.

    Returns:
        The token; empty if there is none.

    Raises:
        ProjectError: The file cannot be read or is empty: a door that was to be closed must not stay open.
    """
    path = os.environ.get(f"{name}_FILE")
    if not path:
        return os.environ.get(name, "").strip()
    try:
        token = Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ProjectError(f"{name}_FILE: {path} cannot be read: {error.strerror}") from None
    if not token:
        raise ProjectError(f"{name}_FILE: {path} is empty; it must hold the token")
    return token


class Access:
    """The doors of a server."""

    def __init__(
        self, predict: str = "", feedback: str = "", operations: str = "", origins: str = ""
    ) -> None:
        """Set the tokens.

        Args:
            predict: Token for predictions; if empty, everybody may ask.
            feedback: Token for labels; if empty, everybody may send them who reaches the server directly.
            operations: Token for metrics, documentation and facts about the model; if empty, everybody may
                see them who reaches the server directly.
            origins: Origins of pages whose browsers may send requests, separated by commas.
        """
        self._tokens = {PREDICT_TOKEN: predict, FEEDBACK_TOKEN: feedback, OPERATIONS_TOKEN: operations}
        self._origins = {origin.strip().rstrip("/") for origin in origins.split(",")} - {""}

    def check_predict(self, headers: Headers) -> None:
        """Reject a request for predictions without permission."""
        self._check_token(PREDICT_TOKEN, headers)

    def check_feedback(self, headers: Headers) -> None:
        """Reject labels without permission."""
        self._check_closed(FEEDBACK_TOKEN, headers)

    def check_operations(self, path: str, headers: Headers, client: str) -> None:
        """Reject a look at the server without permission.

        Args:
            path: The path.
            headers: The request's headers.
            client: Address that the request comes from.
        """
        is_here = client in LOOPBACK and b"x-role" not in headers
        if path not in PUBLIC and not is_here:
            self._check_closed(OPERATIONS_TOKEN, headers)

    def check_browser(self, headers: Headers) -> None:
        """Reject an encoded body, and what a browser sends for a foreign page or not as JSON."""
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise RequestRejected(415, _ENCODED)
        if (origin := headers.get(b"origin")) is None:
            return
        is_own = urlsplit(origin.decode("latin-1")).netloc == headers.get(b"host", b"").decode("latin-1")
        if not is_own and not self.is_allowed(headers):
            raise RequestRejected(403, _FOREIGN)
        if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
            raise RequestRejected(415, _NO_JSON)

    def is_allowed(self, headers: Headers) -> bool:
        """Whether a browser may send requests for the page that it shows.

        Args:
            headers: The request's headers.

        Returns:
            True if the page's origin is one of the allowed ones.
        """
        return headers.get(b"origin", b"").decode("latin-1") in self._origins

    def browser_headers(self, headers: Headers, shown: Iterable[bytes] = ()) -> RawHeaders:
        """Return what a browser needs to show an answer to a page of an allowed origin (CORS).

        Args:
            headers: The request's headers.
            shown: Names of headers that the page may read.

        Returns:
            Headers of the response; none for other requests.
        """
        if not self.is_allowed(headers):
            return []
        return [
            (b"access-control-allow-origin", headers[b"origin"]),
            (b"access-control-expose-headers", b", ".join(shown)),
            (b"vary", b"Origin"),
        ]

    def _check_closed(self, name: str, headers: Headers) -> None:
        """Reject a request that lacks a token; without one, the door is closed to the gateway."""
        if not self._tokens[name] and b"x-role" in headers:
            raise RequestRejected(403, _NO_GATEWAY.format(name))
        self._check_token(name, headers)

    def _check_token(self, name: str, headers: Headers) -> None:
        """Reject a request that lacks a token, if there is one; compared in constant time."""
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        expected = self._tokens[name].encode()
        is_right = scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), expected)
        if expected and not is_right:
            raise RequestRejected(401, f"needs the header 'Authorization: Bearer …' with the server's {name}")


PREFLIGHT: RawHeaders = [
    (b"access-control-allow-methods", b"POST"),
    (b"access-control-allow-headers", b"content-type, authorization, x-request-id, x-client-id"),
    (b"access-control-max-age", b"600"),
]
"""What a page of an allowed origin may send."""
