#!/usr/bin/env python3
"""Smoke test of a server: alive, ready, one prediction, one rejected body. Needs Python alone.

deploy/smoke.py http://127.0.0.1:8000 --version 0123456789ab  # or the bundle's whole SHA-256

If the server asks for tokens, they are taken from PREDICT_TOKEN and OPERATIONS_TOKEN.
"""

import argparse
import json
import os
import re
import sys
import time
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

WAIT = 30  # seconds until the server must be ready
LOOPBACK = re.compile(r"localhost|127\.[\d.]+|::1")


def request(address: str, body: object = None) -> tuple[int, Any]:
    """Send a request, past any proxy if the address is this machine.

    Args:
        address: The full address.
        body: Sent as JSON by POST; None for GET.

    Returns:
        HTTP status, and the JSON of the response, or its text if it is an error.
    """
    is_local = LOOPBACK.fullmatch(urlsplit(address).hostname or "")
    opener = build_opener(ProxyHandler({})) if is_local else build_opener()
    data = None if body is None else json.dumps(body).encode()
    token = os.environ.get("OPERATIONS_TOKEN" if body is None else "PREDICT_TOKEN")
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        with opener.open(Request(address, data=data, headers=headers), timeout=10) as response:
            return response.status, json.load(response)
    except HTTPError as error:
        with error:
            return error.code, error.read().decode(errors="replace")


def expect(check: str, status: int, address: str, body: object = None) -> Any:
    """Send a request that must be answered with a status.

    Args:
        check: Name of the check, for the output.
        status: The expected HTTP status.
        address: The full address.
        body: Sent as JSON by POST; None for GET.

    Returns:
        The content of the response.

    Raises:
        ValueError: The status is another.
    """
    actual, content = request(address, body)
    if actual != status:
        raise ValueError(f"{check}: expected status {status}, got {actual}: {str(content)[:300]}")
    print(f"smoke: {check}: {status}")
    return content


def wait_until_ready(url: str, version: str | None) -> str:
    """Wait until the server is ready.

    Args:
        url: Address of the server.
        version: The expected model version or SHA-256; None for any.

    Returns:
        The model version.

    Raises:
        ValueError: It is not ready with that version after `WAIT` seconds.
    """
    end, last = time.monotonic() + WAIT, "no attempt"
    while time.monotonic() < end:
        try:
            status, model = request(f"{url}/ready")
            if status == 200 and "version" not in model:
                raise ValueError(f"{url}/ready tells no version without the server's OPERATIONS_TOKEN")
            last = f"version {model['version']}" if status == 200 else f"status {status}"
            if status == 200 and version in (None, model["version"], model.get("sha256")):
                return model["version"]
        except (URLError, ConnectionError, TimeoutError) as error:
            last = str(error)
        time.sleep(0.2)
    raise ValueError(f"{url}/ready: not ready with {version or 'any version'} within {WAIT} s, last: {last}")


def main() -> None:
    """Run the checks."""
    parser = argparse.ArgumentParser(description="Smoke test of a server.")
    parser.add_argument("url", help="address of the server, such as http://127.0.0.1:8000")
    parser.add_argument("--version", help="the expected model version, or the SHA-256 of its bundle")
    arguments = parser.parse_args()
    url = arguments.url
    try:
        version = wait_until_ready(url, arguments.version)
        expect("alive", 200, f"{url}/health")
        api = expect("documentation", 200, f"{url}/openapi.json")
        row = api["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["example"]
        response = expect("one row", 200, f"{url}/predict", row)
        expect("invalid body", 422, f"{url}/predict", "no row")
        if response["model_version"] != version:
            raise ValueError(f"model {version} is ready, but {response['model_version']} predicts")
    except (ValueError, URLError, ConnectionError, TimeoutError) as error:
        sys.exit(f"smoke: {error}")
    print(f"smoke: model {version} predicts {response['predictions'][0]}")


if __name__ == "__main__":
    main()
