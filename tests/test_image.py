"""The image, really built and run: small, without rights, and gone when asked to go."""

import json
import time
from http.client import HTTPConnection
from pathlib import Path

import pytest
from images import BASE, Engine
from project import Project

MOST_BYTES = 150_000_000


def test_it_is_small(engine: Engine, image: str) -> None:
    """All that stands on top of the base image: the run-time and the bundle."""
    assert engine.size(image) - engine.size(BASE) <= MOST_BYTES


def test_it_answers_as_the_bundle_does(engine: Engine, image: str, project: Project) -> None:
    """One row, and one that the contract forbids."""
    with engine.serve(image) as server:
        example = project.json("models/bundle/example.json")
        assert len(server.predictions(example)) == 1
        assert server.problems(example | {"tenure": -1})[0]["column"] == "tenure"
        version = server.get("/ready").json["version"]
    assert version == project.json("models/bundle/metadata.json")["version"]


def test_it_holds_no_training_and_no_rights(engine: Engine, image: str) -> None:
    """What is not there cannot be broken into, and need not be patched."""
    run = ("podman", "run", "--rm", "--read-only", "--entrypoint", "python", image, "-c")
    absent = "from importlib.util import find_spec as f; print([n for n in {!r} if f(n)])"
    names = ["sklearn", "pandas", "duckdb", "dvc", "mlflow", "pip", "pytest"]
    assert engine.call(*run, absent.format(names)) == "[]"
    assert engine.call(*run, "import os; print(os.getuid())") == "10001"


def test_its_health_check_tells_a_server_from_none(engine: Engine, image: str) -> None:
    """The check is asked for as an engine would."""
    check = engine.call("podman", "image", "inspect", image, "--format", "{{index .HealthCheck.Test 3}}")
    asked = ("podman", "run", "--rm", "--entrypoint", "python", image, "-c")
    with pytest.raises(AssertionError, match="refused"):
        engine.call(*asked, check)
    with engine.serve(image) as server:
        engine.call(*asked, check.replace(":8000", f":{server.port}"))


def test_a_request_is_answered_before_it_goes(engine: Engine, image: str, project: Project) -> None:
    """SIGTERM, as an engine sends it, in the middle of a request."""
    row = json.dumps(project.json("models/bundle/example.json")).encode()
    with engine.serve(image) as server:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.putrequest("POST", "/predict")
        connection.putheader("content-length", str(len(row)))
        connection.endheaders(row[:10])
        time.sleep(0.2)
        server.process.terminate()
        time.sleep(0.5)
        with pytest.raises(ConnectionError):
            server.get("/health")
        connection.send(row[10:])
        assert connection.getresponse().status == 200
    assert server.process.returncode == 0


def test_without_a_bundle_it_does_not_start(engine: Engine, image: str) -> None:
    """It ends with the reason, instead of answering with errors."""
    served = engine.serve(image, "--env", "BUNDLE=/nowhere")
    with pytest.raises(AssertionError, match="no usable bundle in /nowhere"), served:
        raise RuntimeError("it started")


def test_an_unlocked_project_is_not_built(engine: Engine, project: Project, tmp_path: Path) -> None:
    """What an image holds is decided by uv.lock, not by the day it is built."""
    copy = project.copy(tmp_path / "project")
    (copy.folder / "uv.lock").unlink()
    with pytest.raises(AssertionError, match=r"uv\.lock"):
        engine.build(copy.folder, "unlocked")
