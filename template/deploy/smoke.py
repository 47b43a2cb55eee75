#!/usr/bin/env python3
"""Smoke test of a server: alive, ready, one right answer, one refusal. Needs Python alone.

deploy/smoke.py http://127.0.0.1:8000 --version 0123456789ab
"""

import argparse
import json
import re
import sys
import time
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import OpenerDirector, ProxyHandler, Request, build_opener

WAIT = 30  # seconds
LOOPBACK = re.compile(r"localhost|127\.[\d.]+|::1")


def opener(address: str) -> OpenerDirector:
    """Ask this machine directly, because a proxy would ask itself; others as the environment says."""
    direct = LOOPBACK.fullmatch(urlsplit(address).hostname or "")
    return build_opener(ProxyHandler({})) if direct else build_opener()


def ask(address: str, body: object = None) -> tuple[int, Any]:
    """HTTP status and JSON of an answer."""
    request = Request(address, data=None if body is None else json.dumps(body).encode())
    try:
        with opener(address).open(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read().decode(errors="replace")


def wait_until_ready(url: str, version: str | None) -> str:
    """The version that answers; raises `ValueError` when it is not the one, or none, after a while."""
    end, found = time.monotonic() + WAIT, None
    while time.monotonic() < end:
        try:
            status, model = ask(f"{url}/ready")
            found = model["version"] if status == 200 else f"status {status}"
            if status == 200 and version in (None, found):
                return found
        except (URLError, ConnectionError, TimeoutError) as error:
            found = str(error)
        time.sleep(0.2)
    raise ValueError(f"{url}/ready: not ready with {version or 'any model'} in {WAIT} s, but {found}")


def expect(what: str, status: int, found: tuple[int, Any]) -> Any:
    """The content of an answer with this status; raises `ValueError` for another one."""
    if found[0] != status:
        raise ValueError(f"{what}: expected status {status}, found {found[0]}: {str(found[1])[:300]}")
    print(f"smoke: {what}: {status}")
    return found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description="Smoke test of a server.")
    parser.add_argument("url", help="where it is, such as http://127.0.0.1:8000")
    parser.add_argument("--version", help="the model version that must answer")
    asked = parser.parse_args()
    try:
        version = wait_until_ready(asked.url, asked.version)
        expect("alive", 200, ask(f"{asked.url}/health"))
        api = expect("documentation", 200, ask(f"{asked.url}/openapi.json"))
        row = api["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["example"]
        answer = expect("one row", 200, ask(f"{asked.url}/predict", row))
        expect("no row at all", 422, ask(f"{asked.url}/predict", "no row"))
        if answer["model_version"] != version:
            raise ValueError(f"model {version} is ready, but {answer['model_version']} answers")
    except (ValueError, URLError, ConnectionError, TimeoutError) as error:
        sys.exit(f"smoke: {error}")
    print(f"smoke: model {version} answers {answer['predictions'][0]}")


if __name__ == "__main__":
    main()
