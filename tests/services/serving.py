"""A project's server as a process, and a client for it."""

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple, TypeVar

import pytest
from helpers import PATIENCE, once
from project import Done, Json, Project

from benchmarks.demo import free_port

CLIENTS, PAUSE, MOST = 4, 0.03, 4000  # of a load: threads, seconds between their requests, requests of each
T = TypeVar("T")


class Answer(NamedTuple):
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Json:
        """The body, which must be JSON."""
        return json.loads(self.body)


@dataclass
class Server:
    """A server on this machine's own address."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    def ask(self, method: str, path: str, body: Json = None, **headers: str) -> Answer:
        """Send one request over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def get(self, path: str) -> Answer:
        """Get a page that must exist."""
        answer = self.ask("GET", path)
        assert answer.status == 200, answer
        return answer

    def predict(self, rows: Json) -> Answer:
        """Post a request for predictions: bytes as they are, other values as JSON."""
        return self.ask("POST", "/predict", rows if isinstance(rows, bytes) else json.dumps(rows))

    def predictions(self, rows: Json) -> list[Json]:
        """Return predictions; the request must succeed."""
        answer = self.predict(rows)
        assert answer.status == 200, answer.body[:2000]
        return answer.json["predictions"]

    def problems(self, rows: Json) -> list[dict[str, Json]]:
        """Return the errors of a request that must be rejected."""
        answer = self.predict(rows)
        assert answer.status == 422, answer.body[:2000]
        return answer.json["detail"]

    def wait(self) -> None:
        """Wait until the server answers."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.get("/health")
            except ConnectionError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError(f"the server did not start:\n{self.log.read_text()}")

    def stop(self) -> None:
        """Send SIGTERM and wait until the server has stopped."""
        self.process.terminate()
        self.process.wait(PATIENCE)


def refuses(server: Server) -> bool:
    """Return whether the server refuses connections."""
    try:
        server.get("/health")
    except ConnectionError:
        return True
    return False


def schemathesis(server: Server, *options: str) -> Done:
    """Check a server's responses against its own OpenAPI document."""
    tool = Path(sys.executable).with_name("schemathesis")
    address = f"http://127.0.0.1:{server.port}/openapi.json"
    # JSON schema cannot express a time without offset, so some requests that it allows are rejected.
    fixed = ("--seed", "1", "--generation-database", "none", "--exclude-checks", "positive_data_acceptance")
    command = (tool, "run", address, *fixed, *options)
    return subprocess.run(command, cwd=server.log.parent, capture_output=True, text=True, check=False)


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a process listens on the port."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"no process listens on port {port}")


@contextmanager
def running(folder: Path, *command: str | Path, port: int) -> Generator[None]:
    """Run a program that listens on a port until the block ends."""
    with (folder / f"{port}.log").open("w") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
    try:
        wait_for(port, process)
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)


@contextmanager
def started(command: list[str | Path], cwd: Path, env: dict[str, str], port: int) -> Generator[Server]:
    """Run a server until the block ends."""
    log = cwd / f"server-{port}.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=output, stderr=output, text=True)
    server = Server(process, port, log)
    try:
        server.wait()
        yield server
    finally:
        server.stop()


@contextmanager
def serving(project: Project, slim: Path, cwd: Path, app: str = "", **variables: str) -> Generator[Server]:
    """Serve a project's bundle in another folder, with the base dependencies only."""
    port = free_port()
    paths = {"PYTHONPATH": f"{project.folder}/src:{cwd}", "BUNDLE": f"{project.folder}/models/bundle"}
    app = app or f"{project.package}.serving.app:create_app"
    command = [slim / "bin/python", "-m", "uvicorn", "--factory", app, "--port", str(port)]
    with started(command, cwd, project.environment() | paths | variables, port) as server:
        yield server


@contextmanager
def load(ask: Callable[[], T]) -> Generator[list[T]]:
    """Send requests from several threads until the block ends; collect the results."""
    results: list[T] = []
    stop = Event()

    def run() -> None:
        for _ in range(MOST):
            results.append(ask())
            if stop.wait(PAUSE):
                return

    threads = [Thread(target=run) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield results
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.fixture(scope="session")
def slim(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the environment of an image: the base dependencies only."""
    return once(tmp_path_factory, "slim", partial(base_environment, project))


def base_environment(project: Project, folder: Path) -> Path:
    """Make an environment of the base dependencies only."""
    return environment(project, folder, "--no-default-groups", "--no-install-project")


def environment(project: Project, folder: Path, *options: str) -> Path:
    """Make an environment in another folder."""
    result = subprocess.run(
        ["uv", "sync", "--quiet", *options],
        cwd=project.folder,
        env=project.environment() | {"UV_PROJECT_ENVIRONMENT": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return folder
