"""The prediction server: rows in, predictions out; a 422 names every column and rule that is broken.

`Server` handles `/predict` and `/feedback` itself: parsing, validation and the model are compiled code and
take less time than the routing of a web framework. FastAPI serves documentation, health and metrics.
"""

import asyncio
import gc
import logging
import os
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter, time
from typing import Any, TypeVar

import msgspec
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from ..contract.events import CHAMPION, FALLBACK, FALLBACK_0_2, LABELS_FOLDER, ROLES
from ..contract.rows import Problem, RowCodec, RowError
from ..core.errors import warn_once
from ..model.bundle import Model, OutputError
from . import api
from .access import FEEDBACK_TOKEN, OPERATIONS_TOKEN, PREDICT_TOKEN, PREFLIGHT, Access, RawHeaders, read_token
from .api import FEEDBACK, FEEDBACK_0_2, INVOCATIONS, PREDICT, READY, SCORE
from .events import EventWriter, Request
from .feedback import MAX_ID_LENGTH, LabelWriter
from .metrics import Metrics
from .request_limits import RequestLimits, RequestRejected
from .writer import MAX_STORE_GB, Writer

LONG_BYTES = 64 * 2**10  # of a body: other requests do not wait for larger ones
LOG = logging.getLogger("uvicorn.error")
_JSON = (b"content-type", b"application/json")
_EXTRA_HEADERS = {
    401: [(b"www-authenticate", b"Bearer")],
    405: [(b"allow", b"POST")],
    408: [(b"connection", b"close")],
    503: [(b"retry-after", b"1")],
}
# The gateway sends the role with each request, so that a model changes its role without a restart.
_ROLES = {role.encode(): role for role in ROLES} | {FALLBACK_0_2.encode(): FALLBACK}
_REQUEST_ID, _VERSION = b"x-request-id", b"x-model-version"
_SAGEMAKER_ID = b"x-amzn-sagemaker-custom-attributes"  # SageMaker passes no other id to or from the client
_ID_RULE = f"the request id must have at most {MAX_ID_LENGTH} characters: x-request-id, or on SageMaker "
_LONG_ID = Problem(0, "", _ID_RULE + _SAGEMAKER_ID.decode())
_PREDICT_ROUTES = (PREDICT, INVOCATIONS, SCORE)
# The gateway copies only /predict to a shadow: the analysis would count other routes as the shadow's errors.
_NOT_FOUND = f"not found: behind the gateway, predictions are at {PREDICT} only"

T = TypeVar("T")


class Server:
    """The ASGI application that serves one model."""

    def __init__(
        self,
        model: Model,
        events: str,
        labels: str,
        role: str = CHAMPION,
        price: float = 0,
        token: str = "",
        max_gb: float = MAX_STORE_GB,
        access: Access | None = None,
    ) -> None:
        """Prepare a server.

        Args:
            model: The model to serve.
            events: Folder or address to which prediction events are written.
            labels: Folder or address to which ground-truth labels are written.
            role: Role of the model in requests that name none, one of `contract.events.ROLES`.
            price: What the server costs per hour, for `/metrics`.
            token: Token that clients need to send labels; if empty, the gateway lets no labels through. It is
                also the key with which groups and clients are hashed.
            max_gb: Largest size of each store in GB, if it is a folder.
            access: Who may do what; by default, only labels need a token.
        """
        self._model, self._version = model, model.metadata.version
        self._role, self._access = role, access or Access(feedback=token)
        self._codec, self._limits = RowCodec(model.contract), RequestLimits()
        self._events = EventWriter(model, events, max_gb, token.encode())
        self._labels = LabelWriter(model.contract, labels, max_gb)
        self._writers: dict[str, Writer] = {"event": self._events, "label": self._labels}
        self._metrics = Metrics(
            self._codec.column_names, self._version, price, self._events.outputs, self._writers
        )
        self._encode = msgspec.json.Encoder().encode
        self._worker = ThreadPoolExecutor(1, "long-requests")
        handlers = dict.fromkeys(_PREDICT_ROUTES, self._predict)
        self._handlers = {**handlers, FEEDBACK: self._record, FEEDBACK_0_2: self._record}
        self.api = api.create_api(model, self._codec, self._labels.reader, self._metrics, self._run)

    @asynccontextmanager
    async def _run(self, _: FastAPI) -> AsyncGenerator[None]:
        """Run the writers and the request limits while the server runs."""
        gc.freeze()  # loaded objects are never garbage; to search them would cost 5 % of the request time
        late_requests = asyncio.create_task(self._limits.cancel_late_requests())
        for writer in self._writers.values():
            writer.start()
        yield
        late_requests.cancel()
        await asyncio.gather(*(asyncio.to_thread(writer.close) for writer in self._writers.values()))
        gc.unfreeze()  # otherwise DuckDB reports leaked objects when the process ends

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, or pass it to FastAPI.

        Args:
            scope: The ASGI scope.
            receive: The ASGI channel of the request.
            send: The ASGI channel of the response.
        """
        path = scope["path"].removeprefix(scope.get("root_path", "")) if scope["type"] == "http" else ""
        handler = self._handlers.get(path)
        if handler is None:
            await self._operate(scope, path, receive, send)
            return
        started, headers = perf_counter(), dict(scope["headers"])
        if scope["method"] == "OPTIONS" and self._access.is_allowed(headers):
            await _respond(send, 204, b"", [*self._access.browser_headers(headers), *PREFLIGHT])
            return
        client_id = headers.get(_REQUEST_ID) or headers.get(_SAGEMAKER_ID, b"")
        request_id = client_id.decode("latin-1") or self._events.new_id()
        try:
            self._check(scope["method"], path, headers)
            body = await self._limits.read_body(receive, int(headers.get(b"content-length", 0)))
            if body is None:  # the client has disconnected
                return
            role = _ROLES.get(headers.get(b"x-role", b""), self._role)
            client = headers.get(b"x-client-id", b"").decode("latin-1")
            status, content = await handler(body, request_id, role, client)
        except RequestRejected as error:
            status, content = error.status, self._encode(api.ErrorResponse(str(error)))
        shown_id = request_id[:MAX_ID_LENGTH].encode("latin-1")
        names = (_REQUEST_ID, _SAGEMAKER_ID) if path == INVOCATIONS else (_REQUEST_ID,)
        ids = [(_VERSION, self._version.encode()), *((name, shown_id) for name in names)]
        browser = self._access.browser_headers(headers, names)
        await _respond(send, status, content, [*ids, *browser])
        if path in _PREDICT_ROUTES:
            self._metrics.count_request(status, perf_counter() - started)

    async def _operate(self, scope: Scope, path: str, receive: Receive, send: Send) -> None:
        """Let FastAPI handle a request, if it is permitted. Probes may ask whether the server is ready.

        HEAD is answered as GET would be; uvicorn leaves the body out.
        """
        try:
            if scope["type"] == "http":
                client = scope.get("client") or ("", 0)
                self._access.check_operations(path, dict(scope["headers"]), client[0])
        except RequestRejected as error:
            if path == READY:
                await _respond(send, 200, self._encode({"status": "ready"}), [])
            else:
                await _respond(send, error.status, self._encode(api.ErrorResponse(str(error))), [])
        else:
            is_head = scope.get("method") == "HEAD"
            await self.api({**scope, "method": "GET"} if is_head else scope, receive, send)

    async def _work(self, work: Callable[[bytes], T], body: bytes) -> T:
        """Work on a body; in a thread if that takes so long that other requests would have to wait."""
        if len(body) < LONG_BYTES:
            return work(body)
        with self._limits.hold(body):
            return await asyncio.get_running_loop().run_in_executor(self._worker, work, body)

    async def _predict(self, body: bytes, request_id: str, role: str, client: str) -> tuple[int, bytes]:
        """Predict the rows of a body and record the event: HTTP status and JSON."""
        received, started = time(), perf_counter()
        recorded: dict[str, Any] = {}
        try:
            if len(request_id) > MAX_ID_LENGTH:  # if it were cut, labels could not find it
                raise RowError([_LONG_ID])
            status, (content, recorded) = 200, await self._work(self._predict_rows, body)
            self._metrics.predicted_rows += len(recorded["outputs"])
        except RowError as error:
            status, content = 422, self._encode(api.ValidationErrorResponse(error.problems, error.note))
            recorded = {"rejected_column": self._metrics.count_rejected_rows(error.problems)}
        except RequestRejected:
            raise
        except OutputError as error:
            LOG.error("request %s failed: %s", request_id, error)
            status, content = 500, self._encode(api.ErrorResponse(str(error)))
        except Exception:  # whatever it is, the server goes on
            LOG.exception("request %s failed", request_id)
            message = f"internal error; the server's log has the details under request {request_id}"
            status, content = 500, self._encode(api.ErrorResponse(message))
        event = Request(
            received,
            id=request_id[:MAX_ID_LENGTH],
            role=role,
            seconds=perf_counter() - started,
            status=status,
            client=self._events.hash_id(client),
            **recorded,
        )
        self._events.add(event)
        return status, content

    def _predict_rows(self, body: bytes) -> tuple[bytes, dict[str, Any]]:
        """Predict the rows of a body: the JSON, and what the event holds of them."""
        rows = self._codec.read(body)
        features = self._codec.encode(rows)
        outputs = self._model.run(features)
        content = self._encode(api.Predictions(self._version, self._model.predictions(outputs)))
        groups = [*map(self._events.hash_id, self._codec.groups(rows))]
        return content, {"features": self._events.summarize(features), "outputs": outputs, "groups": groups}

    async def _record(self, body: bytes, *_: str) -> tuple[int, bytes]:
        """Record the labels of a body: HTTP status and JSON."""
        try:
            return 202, self._encode(api.FeedbackResponse(await self._work(self._labels.record, body)))
        except RowError as error:
            return 422, self._encode(api.ValidationErrorResponse(error.problems, error.note))

    def _check(self, method: str, path: str, headers: dict[bytes, bytes]) -> None:
        """Reject a request that is no POST, takes a platform's route, or has no permission."""
        if method != "POST":
            raise RequestRejected(405, "only POST is allowed")
        self._access.check_browser(headers)
        if path in (INVOCATIONS, SCORE) and b"x-role" in headers:
            raise RequestRejected(404, _NOT_FOUND)
        if path in _PREDICT_ROUTES:
            self._access.check_predict(headers)
            return
        if path == FEEDBACK_0_2:
            warn_once(f"POST {FEEDBACK_0_2} is deprecated and ends with 0.5: use POST {FEEDBACK}")
        self._access.check_feedback(headers)


async def _respond(send: Send, status: int, content: bytes, headers: RawHeaders) -> None:
    """Send a response as JSON."""
    length = (b"content-length", str(len(content)).encode())
    every = [_JSON, length, *headers, *_EXTRA_HEADERS.get(status, ())]
    await send({"type": "http.response.start", "status": status, "headers": every})
    await send({"type": "http.response.body", "body": content})


def create_app() -> Server:
    """Create the server that uvicorn starts, from environment variables.

    - `BUNDLE`: folder of the bundle (models/bundle)
    - `EVENTS`: folder or address of prediction events (events)
    - `LABELS`: folder or address of ground-truth labels (`EVENTS`/labels)
    - `MAX_STORE_GB`: largest size of each, if it is a folder (20)
    - `PREDICT_TOKEN`, `FEEDBACK_TOKEN`, `OPERATIONS_TOKEN`: tokens that clients need for predictions, for
      labels, and for metrics, documentation and facts about the model; or `…_FILE`, a file with the token
    - `ALLOWED_ORIGINS`: origins of pages whose browsers may send requests, separated by commas (none)
    - `ROLE`: role of the model if there is no gateway (champion)
    - `PRICE_PER_HOUR`: what the server costs, for `/metrics`

    Returns:
        The server.
    """
    environment = {name: value for name, value in os.environ.items() if value}
    if "TRUTH" in environment:
        warn_once("the environment variable TRUTH is deprecated and ends with 0.5: use LABELS")
        environment.setdefault("LABELS", environment["TRUTH"])
    get = environment.get
    events = get("EVENTS", "events").rstrip("/")
    model, labels = Model(Path(get("BUNDLE", "models/bundle"))), get("LABELS", f"{events}/{LABELS_FOLDER}")
    price, max_gb = float(get("PRICE_PER_HOUR", 0)), float(get("MAX_STORE_GB", MAX_STORE_GB))
    predict, feedback, operations = map(read_token, (PREDICT_TOKEN, FEEDBACK_TOKEN, OPERATIONS_TOKEN))
    access = Access(predict, feedback, operations, get("ALLOWED_ORIGINS", ""))
    return Server(model, events, labels, get("ROLE", CHAMPION), price, feedback, max_gb, access)
