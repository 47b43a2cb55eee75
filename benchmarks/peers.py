"""Other ways to answer `/predict`, for uvicorn. They run in the rendered project's environment."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from fastapi import FastAPI, Request  # ty: ignore[import-not-found]
from starlette.types import ASGIApp, Receive, Scope, Send  # ty: ignore[import-not-found]

JSON = [(b"content-type", b"application/json"), (b"content-length", b"2")]


def empty_asgi() -> ASGIApp:
    """The server alone: an application that reads the request and answers nothing."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            while (await receive()).get("more_body"):
                pass
            await send({"type": "http.response.start", "status": 200, "headers": JSON})
            await send({"type": "http.response.body", "body": b"{}"})

    return app


def empty_fastapi() -> ASGIApp:
    """The framework alone."""
    api = FastAPI()

    @api.post("/predict")
    async def predict() -> dict[str, Any]:
        return {}

    return api


def fastapi_sklearn() -> ASGIApp:
    """The estimator in memory, one pandas row at a time; it is spared decoding and checking a row."""
    import joblib  # ty: ignore[import-not-found]
    import pandas as pd  # ty: ignore[import-not-found]

    package = os.environ["PACKAGE"]
    contract = import_module(f"{package}.problem").CONTRACT
    codec = import_module(f"{package}.contract.rows").RowCodec(contract)
    estimator = joblib.load("models/estimator.joblib")
    names = list(contract.feature_names)
    api = FastAPI()

    @api.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        row = pd.DataFrame(codec.decode(await request.body()), columns=names)
        return {"probabilities": estimator.predict_proba(row)[0].tolist()}

    return api


def bare() -> ASGIApp:
    """The project's server, which checks no row, counts nothing and keeps nothing of what it answers."""
    package = os.environ["PACKAGE"]
    serving, rows = (import_module(f"{package}.{name}") for name in ("serving.app", "contract.rows"))
    serving.EventWriter.add = serving.Metrics.count_request = lambda *_: None
    rows.annotation = lambda _: Any  # ty: ignore[missing-attribute]
    rows.text_type = lambda text, _: text  # ty: ignore[missing-attribute]
    return serving.create_app()
