"""Health, metrics and documentation, by FastAPI; its OpenAPI document describes the other routes too."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType
from typing import Any

import msgspec
from fastapi import FastAPI, Response
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST

from ..contract.rows import Problem, RowCodec, RowReader
from ..model.bundle import PREDICTIONS, Model
from .intake import BUSY, TOO_LARGE, TOO_LATE
from .metrics import Metrics

TOKEN = {401: "The token of FEEDBACK_TOKEN is missing or wrong", 403: "Set FEEDBACK_TOKEN first"}
PLACE = "#/components/schemas/{name}"


class Predictions(msgspec.Struct):
    """The answers, in the order of the rows, and the bundle that gave them."""

    model_version: str
    predictions: list[Any]


class Recorded(msgspec.Struct):
    """How many rows were recorded."""

    rows: int


class Refusal(msgspec.Struct, omit_defaults=True):
    """What is wrong with the rows; a note, if there may be more."""

    detail: list[Problem]
    note: str = ""


class Complaint(msgspec.Struct):
    """Why there is no answer."""

    detail: str


def create_api(
    model: Model,
    codec: RowCodec,
    truth: RowReader,
    metrics: Metrics,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
) -> FastAPI:
    """Everything but the routes that the server answers by itself."""
    title = f"Prediction of {model.contract.target}"
    api = FastAPIOffline(title=title, version=model.metadata.version, lifespan=lifespan)

    @api.get("/health", summary="The process is alive")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @api.get("/ready", summary="A model is loaded: which one, and where it comes from")
    async def ready() -> dict[str, Any]:
        return msgspec.to_builtins(model.metadata)

    @api.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def page() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    answer: Any = PREDICTIONS[model.contract.task]
    predictions = msgspec.defstruct("Predictions", [("model_version", str), ("predictions", list[answer])])
    describe(api, "/predict", "Answer one row, or a list of rows", codec, 200, predictions)
    describe(api, "/truth", "Tell what predictions should have been", truth, 202, Recorded, TOKEN)
    document = api.openapi()["paths"]
    document["/predict"]["post"]["requestBody"]["content"]["application/json"]["example"] = model.example
    return api


def describe(
    api: FastAPI,
    path: str,
    summary: str,
    reader: RowReader,
    good: int,
    answer: type[msgspec.Struct],
    others: Mapping[int, str] = MappingProxyType({}),
) -> None:
    """Add a route to the OpenAPI document, its schemas taken from the contract.

    Args:
        api: The application whose document it is.
        path: Of the route.
        summary: What the route does.
        reader: Of the body.
        good: Status of the usual answer.
        answer: Type of the usual answer.
        others: Statuses that this route alone has, and why.
    """
    document = api.openapi()
    types = (reader.body_type, answer, Refusal, Complaint)
    (body, *answers), components = msgspec.json.schema_components(types, ref_template=PLACE)
    document.setdefault("components", {}).setdefault("schemas", {}).update(components)
    accepted, refused, complaint = ({"content": {"application/json": {"schema": it}}} for it in answers)
    complaints = {
        405: "Only POST is allowed",
        408: TOO_LATE,
        413: TOO_LARGE,
        500: "Failed",
        503: BUSY,
        **others,
    }
    document["paths"][path] = {
        "post": {
            "summary": summary,
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            "responses": {
                str(good): {"description": answer.__doc__ or summary, **accepted},
                "422": {"description": "Rows that the contract forbids", **refused},
                **{str(status): {"description": why, **complaint} for status, why in complaints.items()},
            },
        }
    }
