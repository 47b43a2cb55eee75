"""The image, really built and run: small, without rights, and gone when asked to go."""

import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException
from uuid import uuid4

import pytest
from helpers import PATIENCE, until
from images import BASE, MOST_BYTES, Docker
from project import Project
from serving import refuses
from test_events import metric


def test_image_is_small(docker: Docker, image: str) -> None:
    """Measured on top of the base image: the runtime and the bundle."""
    assert docker.size(image) - docker.size(BASE) <= MOST_BYTES


def test_container_serves_the_bundle(docker: Docker, image: str, project: Project) -> None:
    """It predicts one row, and rejects one that the contract forbids."""
    with docker.serve(image) as (server, _):
        example = project.json("models/bundle/example.json")
        assert len(server.predictions(example)) == 1
        assert server.problems(example | {"tenure": -1})[0]["column"] == "tenure"
        version = server.get("/ready").json["version"]
    assert version == project.json("models/bundle/metadata.json")["version"]


def test_image_has_no_training_libraries_and_no_privileges(docker: Docker, image: str) -> None:
    """What is absent cannot be exploited and needs no patches."""
    run = ("run", "--rm", "--read-only", "--entrypoint", "python", image, "-c")
    absent = "from importlib.util import find_spec as f; print([n for n in {!r} if f(n)])"
    names = ["sklearn", "pandas", "duckdb", "dvc", "mlflow", "pip", "pytest"]
    assert docker.good(*run, absent.format(names)) == "[]"
    assert docker.good(*run, "import os; print(os.getuid())") == "10001"


def test_health_check_fails_without_a_server(docker: Docker, image: str) -> None:
    """Docker runs the check itself; where no server runs, the same check fails."""
    check = json.loads(docker.good("image", "inspect", image))[0]["Config"]["Healthcheck"]["Test"]
    alone = docker.call("run", "--rm", "--entrypoint", check[1], image, *check[2:])
    assert alone.returncode == 1
    assert "refused" in alone.stderr
    with docker.serve(image) as (_, name):
        becomes_healthy(docker, name)


@pytest.mark.parametrize(
    ("variables", "port"),
    [({"PORT": "9000"}, 9000), ({"PORT": "9000", "SAGEMAKER_BIND_TO_PORT": "8080"}, 8080)],
)
def test_image_fulfils_the_contract_of_hosting_platforms(
    docker: Docker, image: str, project: Project, variables: dict[str, str], port: int
) -> None:
    """SageMaker starts `IMAGE serve` and calls /ping and /invocations; Azure ML calls /score."""
    row = project.json("models/bundle/example.json")
    options = [f"--env={name}={value}" for name, value in variables.items()]
    rights = ("--security-opt", "no-new-privileges", "--tmpfs", "/events:uid=10001")
    with docker.serve(image, *rights, *options, arguments=("serve",), inner_port=port) as (server, name):
        expected = server.predict(row).body
        assert server.get("/ping").json == {"status": "alive"}
        for path in ("/invocations", "/score"):
            assert server.ask("POST", path, json.dumps(row)).body == expected
            assert server.ask("POST", path, json.dumps(row | {"tenure": -1})).status == 422
            assert server.ask("GET", path).status == 405
        header = "X-Amzn-SageMaker-Custom-Attributes"
        answer = server.ask("POST", "/invocations", json.dumps(row), **{header: "mine"})
        assert answer.headers[header.lower()] == "mine"
        becomes_healthy(docker, name)
        docker.good("stop", "--time", "30", name)
        assert docker.good("inspect", "--format", "{{.State.ExitCode}}", name) == "0"


@pytest.mark.proof("In 1 GiB of memory, nothing that clients send kills the server")
def test_attacks_do_not_kill_the_container(
    docker: Docker, image: str, project: Project, record_property: Callable[[str, object], None]
) -> None:
    """Random labels, large bodies, half bodies, bodies of braces, endless headers; eight at a time."""
    row, bound = project.json("models/bundle/example.json"), 16 * 2**20
    rows = [json.dumps([row] * 10_000), json.dumps([row] * 39_000), "[" * bound, '[{"":' * (bound // 5)]

    def label() -> None:
        labels = [{"id": uuid4().hex, "row": index, "churn": "No"} for index in range(10_000)]
        server.ask("POST", "/feedback", json.dumps(labels))

    def send(*parts: bytes) -> None:
        with (
            suppress(OSError),
            closing(socket.create_connection(("127.0.0.1", server.port), PATIENCE)) as client,
        ):
            for part in parts:
                client.sendall(part)
            client.recv(100)

    def attack(number: int) -> None:
        with suppress(OSError, HTTPException):
            server.ask("POST", "/predict", rows[number % len(rows)])
            label()
            head = b"POST /predict HTTP/1.1\r\nhost: here\r\ncontent-length: 16777216\r\n"
            send(head + b"\r\n", b" " * (bound - 1))
            send(head, b"name: ", *[b"x" * 2**20] * 200)

    options = ("--memory=1g", "--memory-swap=1g", "--tmpfs=/events:uid=10001")
    with docker.serve(image, *options) as (server, name), ThreadPoolExecutor(8) as pool:
        assert [*pool.map(attack, range(40))] == [None] * 40
        until(lambda: server.predict(row).status == 200)
        memory = metric(server, "process_resident_memory_bytes") / 2**20
        state = json.loads(docker.good("inspect", "--format", "{{json .State}}", name))
    assert (state["Running"], state["OOMKilled"]) == (True, False)
    record_property("found", f"{memory:.0f} MiB afterwards")


def test_gateway_predicts_on_one_route_only(docker: Docker, image: str, project: Project) -> None:
    """It copies /predict alone to a shadow, so the routes of other platforms are closed behind it."""
    text = (project.folder / "deploy/compose/nginx.conf").read_text().replace("LIVE", "blue")
    folder = docker.folder / "gateway"
    folder.mkdir()
    (folder / "nginx.conf").write_text(
        "".join(line for line in text.splitlines(True) if "# only:" not in line)
    )
    row = json.dumps(project.json("models/bundle/example.json"))
    docker.good("network", "create", "gateway")
    docker.good("run", "--detach", "--name", "blue", "--network", "gateway", image)
    command = ("nginx", "-c", "/etc/gateway/nginx.conf", "-g", "daemon off;")
    options = ["--cap-add=CHOWN", "--cap-add=SETGID", "--cap-add=SETUID"]  # nginx's workers are another user
    options += ["--network=gateway", "--tmpfs=/run", "--tmpfs=/tmp", f"--volume={folder}:/etc/gateway:ro"]
    try:
        becomes_healthy(docker, "blue")
        with docker.serve("nginx:1.28", *options, arguments=command, inner_port=8080) as (gateway, _):
            assert gateway.ask("POST", "/predict", row).status == 200
            for path in ("/invocations", "/score"):
                answer = gateway.ask("POST", path, row)
                assert (answer.status, "/predict" in answer.json["detail"]) == (404, True)
            assert gateway.get("/ping").body == gateway.get("/health").body
            assert gateway.ask("GET", "/metrics").status == 404
    finally:
        docker.call("rm", "--force", "blue")
        docker.call("network", "rm", "gateway")


def becomes_healthy(docker: Docker, name: str) -> None:
    """Wait until Docker's own health check succeeds."""
    end = time.monotonic() + PATIENCE
    while docker.good("inspect", "--format", "{{.State.Health.Status}}", name) != "healthy":
        assert time.monotonic() < end
        time.sleep(0.5)


def test_container_answers_running_request_before_it_stops(
    docker: Docker, image: str, project: Project
) -> None:
    """SIGTERM, as an engine sends it, arrives in the middle of a request."""
    row = json.dumps(project.json("models/bundle/example.json")).encode()
    with docker.serve(image) as (server, name):
        connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        connection.putrequest("POST", "/predict")
        connection.putheader("content-length", str(len(row)))
        connection.putheader("expect", "100-continue")
        connection.endheaders()
        expected = b"HTTP/1.1 100 Continue\r\n\r\n"  # sent when the server starts to read the body
        assert connection.sock.recv(len(expected)) == expected
        connection.send(row[:10])
        docker.good("kill", "--signal", "TERM", name)
        until(lambda: refuses(server))
        connection.send(row[10:])
        assert connection.getresponse().status == 200
        assert docker.good("wait", name) == "0"


def test_container_without_bundle_does_not_start(docker: Docker, image: str) -> None:
    """It exits with the reason instead of serving errors."""
    served = docker.serve(image, "--env", "BUNDLE=/nowhere")
    with pytest.raises(AssertionError, match="no usable bundle in /nowhere"), served:
        raise RuntimeError("it started")


def test_image_starts_whatever_the_umask(docker: Docker, work: Project) -> None:
    """Its user is not the owner of the files that were built in."""
    for path in (work.folder / "models", work.folder / "src"):
        work.good("chmod", "--recursive", "go=", path)
    docker.good("build", "--tag", "narrow", work.folder)
    with docker.serve("narrow") as (server, _):
        assert len(server.predictions(work.json("models/bundle/example.json"))) == 1


def test_build_fails_without_lock_file(docker: Docker, work: Project) -> None:
    """uv.lock decides what an image contains, not the day on which it is built."""
    (work.folder / "uv.lock").unlink()
    result = docker.call("build", work.folder)
    assert result.returncode
    assert "uv.lock" in result.stderr
