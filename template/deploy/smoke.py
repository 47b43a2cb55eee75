#!/usr/bin/env python3
"""Smoke test of a server: alive, ready, one prediction, one rejected body. Needs Python alone.

deploy/smoke.py http://127.0.0.1:8000 --version 0123456789ab  # or the bundle's whole SHA-256

If the server asks for tokens, they are taken from PREDICT_TOKEN and OPERATIONS_TOKEN. A gateway shows
strangers no documentation, which has an example of a row: without OPERATIONS_TOKEN, pass one with --row.
"""

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

WAIT = 30  # seconds until the server must be ready
VERSION = "x-model-version"
LOOPBACK = re.compile(r"localhost|127\.[\d.]+|::1")


class Response(NamedTuple):
    """HTTP status, the JSON of a success or the text of an error, and the header x-model-version."""

    status: int
    content: Any
    version: str | None


def request(address: str, body: object = None) -> Response:
    """Send a request, past any proxy if the address is this machine.

    Args:
        address: The full address.
        body: Sent as JSON by POST; None for GET.

    Returns:
        The response.
    """
    is_local = LOOPBACK.fullmatch(urlsplit(address).hostname or "")
    opener = build_opener(ProxyHandler({})) if is_local else build_opener()
    data = None if body is None else json.dumps(body).encode()
    token = os.environ.get("OPERATIONS_TOKEN" if body is None else "PREDICT_TOKEN")
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        with opener.open(Request(address, data=data, headers=headers), timeout=10) as response:
            return Response(response.status, json.load(response), response.headers[VERSION])
    except HTTPError as error:
        with error:
            return Response(error.code, error.read().decode(errors="replace"), error.headers[VERSION])


def expect(check: str, status: int, address: str, body: object = None) -> Response:
    """Send a request that must be answered with a status.

    Args:
        check: Name of the check, for the output.
        status: The expected HTTP status.
        address: The full address.
        body: Sent as JSON by POST; None for GET.

    Returns:
        The response.

    Raises:
        ValueError: The status is another.
    """
    response = request(address, body)
    if response.status != status:
        content = str(response.content)[:300]
        raise ValueError(f"{check}: expected status {status}, got {response.status}: {content}")
    print(f"smoke: {check}: {status}")
    return response


def matches(version: str | None, model: dict[str, Any]) -> bool:
    """Compare the expected version or SHA-256 with what is known about a model.

    Args:
        version: The expected one; None for any.
        model: Its `version`, and perhaps its `sha256`.

    Returns:
        True unless they differ.
    """
    if version is None:
        return True
    return version.startswith(model["version"]) and (model.get("sha256") or version).startswith(version)


def wait_until_ready(url: str, version: str | None) -> dict[str, Any]:
    """Wait until the server is ready.

    Args:
        url: Address of the server.
        version: The expected model version or SHA-256; None for any.

    Returns:
        What the server shows of its model: `version`, and unless it hides them, facts about it.

    Raises:
        ValueError: It is not ready with that version after `WAIT` seconds.
    """
    end, last = time.monotonic() + WAIT, "no attempt"
    while time.monotonic() < end:
        try:
            status, model, _ = request(f"{url}/ready")
            if status == 200 and "version" not in model:
                model = {"version": request(f"{url}/predict", "no row").version}
            last = f"version {model['version']}" if status == 200 else f"status {status}"
            if status == 200 and model["version"] and matches(version, model):
                return model
        except (URLError, ConnectionError, TimeoutError) as error:
            last = str(error)
        time.sleep(0.2)
    raise ValueError(f"{url}/ready: not ready with {version or 'any version'} within {WAIT} s, last: {last}")


def read_example(url: str) -> object:
    """Read an example of a row from the server's documentation.

    Args:
        url: Address of the server.

    Returns:
        The row.
    """
    api = expect("documentation", 200, f"{url}/openapi.json").content
    return api["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["example"]


def predict(url: str, row: object, version: str) -> None:
    """Predict a row.

    Args:
        url: Address of the server.
        row: The row.
        version: The version of the model that must predict it.

    Raises:
        ValueError: It fails, or another model predicts it.
    """
    response = expect("one row", 200, f"{url}/predict", row).content
    if response["model_version"] != version:
        raise ValueError(f"model {version} is ready, but {response['model_version']} predicts")
    print(f"smoke: model {version} predicts {response['predictions'][0]}")


def main() -> None:
    """Run the checks."""
    parser = argparse.ArgumentParser(description="Smoke test of a server.")
    parser.add_argument("url", help="address of the server, such as http://127.0.0.1:8000")
    parser.add_argument("--version", help="the expected model version, or the SHA-256 of its bundle")
    parser.add_argument("--row", type=Path, help="a JSON file with a row, such as example.json of the bundle")
    arguments = parser.parse_args()
    url = arguments.url
    try:
        model = wait_until_ready(url, arguments.version)
        expect("alive", 200, f"{url}/health")
        expect("invalid body", 422, f"{url}/predict", "no row")
        if arguments.row:
            predict(url, json.loads(arguments.row.read_text()), model["version"])
        elif "commit" in model:
            predict(url, read_example(url), model["version"])
        else:
            raise ValueError("the documentation is closed: pass --row FILE, or set OPERATIONS_TOKEN")
    except (ValueError, OSError) as error:
        sys.exit(f"smoke: {error}")


if __name__ == "__main__":
    main()
