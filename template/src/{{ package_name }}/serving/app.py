"""The API: one row or many in, answers out; 422 names each column and rule that is broken.

`/predict` and `/truth` are answered before FastAPI sees them: parsing, contract and model are compiled code
and take less time than a web framework's routing. Documentation, health and metrics are FastAPI's.
"""

import asyncio
import gc
import hmac
import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter, time

import msgspec
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from ..contract.events import CHAMPION, FALLBACK, FALLBACK_0_2, ROLES
from ..contract.rows import Problem, RowCodec, RowError
from ..model.bundle import Model, OutputError
from .api import Complaint, Predictions, Recorded, Refusal, create_api
from .events import Answered, Events
from .intake import Intake, TurnedAwayError
from .metrics import Metrics
from .truth import MAX_ID_LENGTH, Truths
from .writer import MAX_STORE_GB, Writer

LOG = logging.getLogger("uvicorn.error")
JSON = (b"content-type", b"application/json")
EXTRA = {
    401: [(b"www-authenticate", b"Bearer")],
    405: [(b"allow", b"POST")],
    408: [(b"connection", b"close")],
    503: [(b"retry-after", b"1")],
}
# A gateway says for each request whether its answer counts, so a model changes its role without a restart.
_ROLES = {role.encode(): role for role in ROLES} | {FALLBACK_0_2.encode(): FALLBACK}
LONG_ID = Problem(0, "", f"the header x-request-id must have at most {MAX_ID_LENGTH} characters")
UNSET = "labels come through the gateway with a token alone: set FEEDBACK_TOKEN for the server"
UNPROVEN = "labels need the header Authorization: Bearer, with the token that FEEDBACK_TOKEN says"


class Server:
    """The ASGI application around one bundle."""

    def __init__(
        self,
        model: Model,
        events: str,
        truth: str,
        role: str = CHAMPION,
        price: float = 0,
        token: str = "",
        max_gb: float = MAX_STORE_GB,
    ) -> None:
        """Answer with a model, which plays a `role` unless a request says otherwise.

        Events and truth are kept at addresses: up to `max_gb` of each in a folder. With a token, only
        who shows it may tell the truth.
        """
        self._model, self._role, self._token = model, role, token.encode()
        self._codec, self._intake = RowCodec(model.contract), Intake()
        self._events = Events(model, events, max_gb)
        self._truths = Truths(model.contract, truth, max_gb)
        self._writers: dict[str, Writer] = {"event": self._events, "truth": self._truths}
        self._metrics = Metrics(model.metadata.version, price, self._events.outputs, self._writers)
        self._encode = msgspec.json.Encoder().encode
        self._answers = {"/predict": self.predict, "/truth": self.record}
        self.api = create_api(model, self._codec, self._truths.reader, self._metrics, self._running)

    @asynccontextmanager
    async def _running(self, _: FastAPI) -> AsyncGenerator[None]:
        gc.freeze()  # what was loaded is not garbage: looking through it again takes a twentieth of the time
        watch = asyncio.create_task(self._intake.watch())
        for writer in self._writers.values():
            writer.start()
        yield
        watch.cancel()
        await asyncio.gather(*(asyncio.to_thread(writer.close) for writer in self._writers.values()))
        gc.unfreeze()  # so that the process ends tidily: DuckDB lists what is left behind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", "")) if scope["type"] == "http" else ""
        answer = self._answers.get(path)
        if answer is None:
            await self.api(scope, receive, send)
            return
        started, given = perf_counter(), dict(scope["headers"])
        request = given.get(b"x-request-id", b"").decode("latin-1") or self._events.new_id()
        try:
            if scope["method"] != "POST":
                raise TurnedAwayError(405, "only POST is allowed")
            if path == "/truth":
                self._check_token(given)
            body = await self._intake.read(receive, int(given.get(b"content-length", 0)))
            if body is None:  # the client has gone
                return
            status, content = answer(body, request, _ROLES.get(given.get(b"x-role", b""), self._role))
        except TurnedAwayError as away:
            status, content = away.status, self._encode(Complaint(str(away)))
        headers = [JSON, (b"content-length", str(len(content)).encode()), *EXTRA.get(status, ())]
        headers.append((b"x-request-id", request[:MAX_ID_LENGTH].encode("latin-1")))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})
        if path == "/predict":
            self._metrics.count(status, perf_counter() - started)

    def predict(self, body: bytes, request: str, role: str) -> tuple[int, bytes]:
        """HTTP status and JSON for the body of the request of that name, answered in a role."""
        came, started = time(), perf_counter()
        features = outputs = None
        try:
            if len(request) > MAX_ID_LENGTH:  # cut, it would meet no label, or that of another
                raise RowError([LONG_ID])
            features = self._codec.decode(body)
            outputs = self._model.run(features)
            answers = Predictions(self._model.metadata.version, self._model.predictions(outputs))
            status, content = 200, self._encode(answers)
            self._metrics.rows += len(features)
        except RowError as error:
            status, content = 422, self._encode(Refusal(error.problems, error.note))
        except OutputError as error:
            LOG.error("request %s failed: %s", request, error)
            status, content = 500, self._encode(Complaint(str(error)))
            features = outputs = None
        except Exception:  # whatever it is: the client gets an answer, and the next one too
            LOG.exception("request %s failed", request)
            status, content = 500, self._encode(Complaint(f"failed; the log tells why, under {request}"))
            features = outputs = None
        seconds = perf_counter() - started
        self._events.record(Answered(request[:MAX_ID_LENGTH], role, came, seconds, features, outputs, status))
        return status, content

    def record(self, body: bytes, *_: str) -> tuple[int, bytes]:
        """HTTP status and JSON for a body that tells the truth."""
        try:
            return 202, self._encode(Recorded(self._truths.tell(body)))
        except RowError as error:
            return 422, self._encode(Refusal(error.problems, error.note))

    def _check_token(self, headers: dict[bytes, bytes]) -> None:
        """Let only those tell the truth who may.

        Without a token, that is whoever reaches the server itself: what comes through the gateway has a role.

        Raises:
            TurnedAwayError: the token is missing, wrong, or not set though it is needed.
        """
        if not self._token:
            if b"x-role" in headers:
                raise TurnedAwayError(403, UNSET)
            return
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._token):
            raise TurnedAwayError(401, UNPROVEN)


def create_app() -> Server:
    """What uvicorn starts. Of the environment's variables,

    - `BUNDLE` names the bundle's folder,
    - `EVENTS` and `TRUTH` where predictions, and the truth about them, are kept,
    - `MAX_STORE_GB` how much of each there may be in a folder,
    - `FEEDBACK_TOKEN` the token of those who may tell the truth,
    - `ROLE` the role of a server that no gateway stands before,
    - `PRICE_PER_HOUR` what it costs, for metrics.
    """
    given = os.environ.get
    model = Model(Path(given("BUNDLE") or "models/bundle"))
    events = (given("EVENTS") or "events").rstrip("/")
    truth = given("TRUTH") or f"{events}/truth"
    token, max_gb = (given("FEEDBACK_TOKEN") or "").strip(), float(given("MAX_STORE_GB") or MAX_STORE_GB)
    price = float(given("PRICE_PER_HOUR") or 0)
    return Server(model, events, truth, given("ROLE") or CHAMPION, price, token, max_gb)
