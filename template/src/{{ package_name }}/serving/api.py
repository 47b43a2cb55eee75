"""Health, metrics and documentation, by FastAPI. Its OpenAPI document describes all other routes, too."""

from typing import Any

import msgspec
from fastapi import FastAPI, Response
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import Lifespan

from ..contract.rows import Problem, RowReader, time_schema
from ..model.bundle import PREDICTIONS, Model
from .metrics import Metrics
from .request_limits import BUSY, TOO_LARGE, TOO_LATE

PREDICT, FEEDBACK, FEEDBACK_0_2 = "/predict", "/feedback", "/truth"
INVOCATIONS, SCORE, PING, READY = "/invocations", "/score", "/ping", "/ready"
"""What SageMaker and Azure ML call `/predict` and SageMaker calls `/health`."""
_ERRORS = {
    401: "The token is missing or wrong",
    403: "Pages of this origin may not send requests",
    405: "Only POST is allowed",
    408: TOO_LATE,
    413: TOO_LARGE,
    415: "The body is encoded, or a browser has not sent it as JSON",
    500: "Internal error",
    503: BUSY,
}
_LABEL_ERRORS = _ERRORS | {403: f"{_ERRORS[403]}, or the server has no FEEDBACK_TOKEN"}


class Predictions(msgspec.Struct):
    """Predictions in the order of the rows, and the version of the model."""

    model_version: str
    predictions: list[Any]


class FeedbackResponse(msgspec.Struct):
    """Number of labels that were recorded."""

    rows: int


class ValidationErrorResponse(msgspec.Struct, omit_defaults=True):
    """The rules that the rows break, and a note if the list is cut."""

    detail: list[Problem]
    note: str = ""


class ErrorResponse(msgspec.Struct):
    """Why the request failed."""

    detail: str


def create_api(
    model: Model, rows: RowReader, labels: RowReader, metrics: Metrics, lifespan: Lifespan[FastAPI]
) -> FastAPI:
    """Create the routes that FastAPI serves, and describe those that `Server` handles.

    Args:
        model: The model that is served.
        rows: Reads the body of `/predict`.
        labels: Reads the body of `/feedback`.
        metrics: What `/metrics` shows.
        lifespan: Runs while the server does.

    Returns:
        The application.
    """
    title = f"Prediction of {model.contract.target}"
    api = FastAPIOffline(title=title, version=model.metadata.version, lifespan=lifespan)

    @api.get(PING, include_in_schema=False)
    @api.get("/health", summary="Check that the process is alive")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @api.get(READY, summary="Check that the model is loaded; show its version and origin")
    async def ready() -> dict[str, Any]:
        return msgspec.to_builtins(model.metadata)

    @api.get("/metrics", summary="Show Prometheus metrics", response_class=Response)
    async def show_metrics() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    prediction: Any = PREDICTIONS[model.contract.task]
    response = msgspec.defstruct("Predictions", [("model_version", str), ("predictions", list[prediction])])
    predict = _describe(api, PREDICT, "Predict one row or a list of rows", rows, 200, response, _ERRORS)
    predict["description"] = f"Also at {INVOCATIONS} and {SCORE}, but not behind the gateway."
    predict["requestBody"]["content"]["application/json"]["example"] = model.example
    summary = "Record ground-truth labels of earlier predictions"
    _describe(api, FEEDBACK, summary, labels, 202, FeedbackResponse, _LABEL_ERRORS)
    summary = f"Former name of {FEEDBACK}, until 0.5"
    _describe(api, FEEDBACK_0_2, summary, labels, 202, FeedbackResponse, _LABEL_ERRORS)["deprecated"] = True
    return api


def _content(schema: Any) -> dict[str, Any]:
    """JSON with a schema, as OpenAPI describes it."""
    return {"content": {"application/json": {"schema": schema}}}


def _describe(
    api: FastAPI,
    path: str,
    summary: str,
    reader: RowReader,
    status: int,
    response: type[msgspec.Struct],
    errors: dict[int, str],
) -> dict[str, Any]:
    """Add a POST route to the OpenAPI document, with the schemas of its body, response and errors."""
    document = api.openapi()
    types = (reader.body_type, response, ValidationErrorResponse, ErrorResponse)
    schemas, components = msgspec.json.schema_components(
        types, schema_hook=time_schema, ref_template="#/components/schemas/{name}"
    )
    document.setdefault("components", {}).setdefault("schemas", {}).update(components)
    body, success, invalid, error = map(_content, schemas)
    operation: dict[str, Any] = {
        "summary": summary,
        "operationId": path.strip("/"),
        "requestBody": {"required": True, **body},
        "responses": {
            str(status): {"description": response.__doc__ or summary, **success},
            "422": {"description": "Rows that break the contract", **invalid},
            **{str(code): {"description": text, **error} for code, text in errors.items()},
        },
    }
    document["paths"][path] = {"post": operation}
    return operation
