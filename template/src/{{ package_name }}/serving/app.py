"""The API: one row or many in, answers out; 422 names each column and rule that is broken.

`/predict` is answered before FastAPI sees it: parsing, contract and model are compiled code and
take less time than a web framework's routing. Documentation, health and metrics are FastAPI's.
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter, time
from typing import Any

import msgspec
from fastapi import FastAPI, Response
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest
from starlette.types import Receive, Scope, Send

from ..contract.rows import Problem, RowCodec, RowError
from .events import Answered, Events
from .model import ANSWERS, Model

REQUESTS = Counter("predict_requests", "Prediction requests by HTTP status", ["status"])
ROWS = Counter("predict_rows", "Rows answered")
BUCKETS = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1]
LATENCY = Histogram("predict_seconds", "Time to answer a prediction request", buckets=BUCKETS)
MODEL = Gauge("model_info", "The model that answers", ["version"])
JSON = (b"content-type", b"application/json")
# A gateway says for each request whether its answer counts, so a model changes its role without a restart.
ROLES = {role.encode(): role for role in ("champion", "challenger", "stand-in")}


class Predictions(msgspec.Struct):
    """The answers, in the order of the rows, and the bundle that gave them."""

    model_version: str
    predictions: list[Any]


class Refusal(msgspec.Struct):
    """What is wrong with the rows."""

    detail: list[Problem]


class Server:
    """The ASGI application around one bundle."""

    def __init__(self, model: Model, events: Events, role: str = "champion") -> None:
        """Answer with a model, which plays a `role` unless a request says otherwise."""
        self._model, self._events, self._role = model, events, role
        self._codec = RowCodec(model.contract)
        self._encode = msgspec.json.Encoder().encode
        self._by_status = {status: REQUESTS.labels(str(status)) for status in (200, 405, 422)}
        self.api = create_api(model, self._codec, events)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/predict":
            await self.api(scope, receive, send)
            return
        started = perf_counter()
        body = await read(receive)
        given = dict(scope["headers"])
        request = given.get(b"x-request-id", b"")[:64].decode("latin-1") or self._events.new_id()
        role = ROLES.get(given.get(b"x-role", b""), self._role)
        status, content = self.predict(body, request, role) if scope["method"] == "POST" else (405, b"{}")
        headers = [JSON, (b"content-length", str(len(content)).encode()), (b"allow", b"POST")]
        headers.append((b"x-request-id", request.encode("latin-1")))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})
        self._by_status[status].inc()
        LATENCY.observe(perf_counter() - started)

    def predict(self, body: bytes, request: str, role: str) -> tuple[int, bytes]:
        """HTTP status and JSON for the body of the request of that name, answered in a role."""
        came, started = time(), perf_counter()
        try:
            features = self._codec.decode(body)
        except RowError as error:
            return 422, self._encode(Refusal(error.problems))
        ROWS.inc(len(features))
        outputs = self._model.run(features)
        answers = Predictions(self._model.metadata.version, self._model.answers(outputs))
        content = self._encode(answers)
        self._events.record(Answered(request, role, came, perf_counter() - started, features, outputs))
        return 200, content


async def read(receive: Receive) -> bytes:
    """The whole body of a request."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


def create_api(model: Model, codec: RowCodec, events: Events) -> FastAPI:
    """Everything but the hot route, which its OpenAPI document describes too."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        events.start()
        yield
        await asyncio.to_thread(events.close)

    title = f"Prediction of {model.contract.target}"
    api = FastAPIOffline(title=title, version=model.metadata.version, lifespan=lifespan)

    @api.get("/health", summary="The process is alive")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @api.get("/ready", summary="A model is loaded: which one, and where it comes from")
    async def ready() -> dict[str, Any]:
        return msgspec.to_builtins(model.metadata)

    @api.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    describe(api, model, codec)
    return api


def describe(api: FastAPI, model: Model, codec: RowCodec) -> None:
    """Add `/predict` to the OpenAPI document, its schemas taken from the contract."""
    document = api.openapi()
    answer: Any = ANSWERS[model.contract.task]
    predictions = msgspec.defstruct("Predictions", [("model_version", str), ("predictions", list[answer])])
    types = (codec.body_type, predictions, Refusal)
    place = "#/components/schemas/{name}"
    schemas, components = msgspec.json.schema_components(types, ref_template=place)
    rows, good, bad = ({"content": {"application/json": {"schema": s}}} for s in schemas)
    rows["content"]["application/json"]["example"] = model.example
    document.setdefault("components", {}).setdefault("schemas", {}).update(components)
    document["paths"]["/predict"] = {
        "post": {
            "summary": "Answer one row, or a list of rows",
            "requestBody": {"required": True, **rows},
            "responses": {
                "200": {"description": "One answer for each row, in order", **good},
                "422": {"description": "Rows that the contract forbids", **bad},
            },
        }
    }


def create_app() -> Server:
    """What uvicorn starts: `BUNDLE` names the bundle's folder, `EVENTS` where predictions are recorded,
    and `ROLE` the role of a server that no gateway stands before.
    """
    model = Model(Path(os.environ.get("BUNDLE", "models/bundle")))
    role = os.environ.get("ROLE", "champion")
    MODEL.labels(model.metadata.version).set(1)
    return Server(model, Events(model, os.environ.get("EVENTS", "events")), role)
