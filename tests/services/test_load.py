"""More than a server can take, and things that fail: it says so, answers what it took, and goes on."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from statistics import median

import pytest
from helpers import PATIENCE, ROOT, until
from project import Json, Project
from serving import Server, refuses, schemathesis, serving
from test_events import example, metric, recording

MEBIBYTE = 2**20
MOST = 16 * MEBIBYTE
# A server whose model fails at a row of a certain tenure, as a part of it might at any row.
FAILING = """
from {package}.serving import app

def create_app():
    server = app.create_app()
    run = server._model.run

    def fail(features):
        if 13 in features:
            raise RuntimeError("no luck")
        return run(features)

    server._model.run = fail
    return server
"""


@pytest.fixture(scope="module")
def server(project: Project, slim: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve the churn model."""
    folder = tmp_path_factory.mktemp("load")
    with recording(project, slim, folder, folder / "events") as running:
        yield running


def body(project: Project) -> bytes:
    """Give a row that the contract allows, as it is sent."""
    return json.dumps(example(project)).encode()


def begin(server: Server, row: bytes) -> HTTPConnection:
    """Send the beginning of a request."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    connection.putrequest("POST", "/predict")
    connection.putheader("content-length", str(len(row)))
    connection.endheaders(row[:10])
    return connection


def end(connection: HTTPConnection, row: bytes) -> HTTPResponse:
    """Send the rest, and read the answer."""
    connection.send(row[10:])
    return connection.getresponse()


def pieces(content: bytes) -> Iterator[bytes]:
    """Cut into pieces: sent like this, nothing says how many there will be."""
    yield from (content[at : at + MEBIBYTE] for at in range(0, len(content), MEBIBYTE))


def version(project: Project) -> Json:
    """Read what the bundle says that it is."""
    return project.json("models/bundle/metadata.json")["version"]


def test_request_body_is_limited(server: Server, project: Project) -> None:
    """A body at the limit is accepted, a larger one rejected, announced or not; the server goes on."""
    row = body(project)
    before = metric(server, 'predict_requests_total{status="413"}')
    assert server.ask("POST", "/predict", row.ljust(MOST)).status == 200
    assert server.ask("POST", "/predict", pieces(row.ljust(MOST))).status == 200
    for large in (row.ljust(MOST + 1), pieces(row.ljust(MOST + 1)), pieces(row.ljust(3 * MOST))):
        answer = server.ask("POST", "/predict", large)
        assert (answer.status, answer.json) == (413, {"detail": "the body is larger than 16 MiB"})
    with closing(begin(server, row.ljust(MOST + 1))) as waiting:  # refused before it is sent
        assert waiting.getresponse().status == 413
    assert metric(server, 'predict_requests_total{status="413"}') == before + 4
    assert server.predictions(example(project))


def test_incomplete_body_times_out(server: Server, project: Project) -> None:
    """Meanwhile other requests are served."""
    with closing(begin(server, body(project))) as late:
        assert server.predictions(example(project))
        answer = late.getresponse()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert json.load(answer) == {"detail": "the body did not arrive within 10 seconds"}


@pytest.mark.proof("No request stops others: its work is done beside theirs, however large it is")
def test_large_request_stops_no_other(
    server: Server, project: Project, record_property: Callable[[str, object], None]
) -> None:
    """Valid and invalid bodies of up to 16 MiB; others must not wait for as long as these take."""
    row = example(project)
    most = MOST // (len(json.dumps(row)) + 2)
    worst = 0.0
    for rows in ([row] * 10_000, [row] * 9_999 + [row | {"tenure": -1}], [row] * most):
        content, waits = json.dumps(rows).encode(), [0.0]
        with ThreadPoolExecutor(1) as pool:
            began, large = time.monotonic(), pool.submit(server.ask, "POST", "/predict", content)
            while not large.done():
                sent = time.monotonic()
                server.get("/health")
                waits.append(time.monotonic() - sent)
        seconds = time.monotonic() - began
        assert large.result().status in (200, 422)
        assert len(waits) > 3, "it stopped the others"
        worst = max(worst, *waits)
        assert max(waits) < max(seconds / 2, 0.1), (seconds, waits)
    record_property("found", f"others wait {1000 * worst:.0f} ms at most")


@pytest.mark.proof(
    "A server with a full queue rejects requests with 503 and Retry-After, and answers every queued one"
)
def test_full_queue_answers_503(server: Server, project: Project) -> None:
    """The response is immediate; the queued requests are answered."""
    row = body(project)
    with ExitStack() as stack:
        taken = [stack.enter_context(closing(begin(server, row))) for _ in range(500)]
        until(lambda: server.ask("POST", "/predict", row).status == 503)
        answer = server.ask("POST", "/predict", row)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        server.get("/health")
        assert {end(connection, row).status for connection in taken} == {200}
    assert server.predictions(example(project))


def test_model_error_is_answered_logged_and_counted(project: Project, slim: Path, tmp_path: Path) -> None:
    """A failed request: a response with its id, a traceback in the log, a metric and an event."""
    (tmp_path / "failing.py").write_text(FAILING.format(package=project.package))
    good, events = example(project) | {"tenure": 12}, tmp_path / "events"
    bad = json.dumps(good | {"tenure": 13})
    with serving(project, slim, tmp_path, "failing:create_app", EVENTS=str(events)) as server:
        answer = server.ask("POST", "/predict", bad, **{"x-request-id": "bad luck"})
        assert (answer.status, answer.headers["x-request-id"]) == (500, "bad luck")
        assert "bad luck" in answer.json["detail"]
        assert server.predictions(good)
        assert metric(server, 'predict_requests_total{status="500"}') == 1
        assert metric(server, "predict_rows_total") == 1
    log = server.log.read_text()
    for words in ("Traceback", "request bad luck failed", "RuntimeError: no luck"):
        assert log.count(words) == 1
    written = project.rows(f"FROM '{events}/*/*.parquet' SELECT id, row, status ORDER BY status DESC")
    assert written[0] == {"id": "bad luck", "row": 0, "status": 500}
    assert [event["status"] for event in written] == [500, 200]


def test_schemathesis_detects_a_failing_server(project: Project, slim: Path, tmp_path: Path) -> None:
    """The check of the API against its OpenAPI document detects a server that fails."""
    (tmp_path / "failing.py").write_text(FAILING.format(package=project.package))
    with serving(project, slim, tmp_path, "failing:create_app") as server:
        result = schemathesis(server, "--phases", "examples")
    assert result.returncode == 1
    assert "Server error" in result.stdout


@pytest.mark.proof("On SIGTERM, a server answers every accepted request and writes its event")
def test_accepted_requests_are_answered_after_sigterm(project: Project, slim: Path, tmp_path: Path) -> None:
    """SIGTERM arrives while 50 requests are half sent."""
    events, row = tmp_path / "events", body(project)
    with recording(project, slim, tmp_path, events) as server, ExitStack() as stack:
        taken = [stack.enter_context(closing(begin(server, row))) for _ in range(50)]
        for _ in range(100):
            server.predictions(example(project))
        server.process.send_signal(signal.SIGTERM)
        until(lambda: refuses(server))
        assert {end(connection, row).status for connection in taken} == {200}
        server.process.wait(PATIENCE)
    assert project.rows(f"SELECT count(*) AS n FROM '{events}/*/*.parquet'") == [{"n": 150}]  # noqa: S608


def test_server_keeps_its_model_when_the_folder_changes(work: Project, slim: Path, tmp_path: Path) -> None:
    """The folder from which it was loaded may change."""
    with recording(work, slim, tmp_path, tmp_path / "events") as server:
        row = example(work)
        before = server.predict(row)
        shutil.rmtree(work.folder / "models/bundle")
        assert server.predict(row).json == before.json
        assert server.get("/ready").json["version"] == before.json["model_version"]


@pytest.mark.proof("A stage that is killed leaves no partial bundle")
def test_build_killed_midway_leaves_no_bundle(work: Project) -> None:
    """Killed in the middle, the stage leaves no bundle; run again, it makes the same one as always."""
    before = version(work)
    draft, bundle = (work.folder / "models" / name for name in ("bundle.new", "bundle"))
    command = (work.python, "-m", f"{work.package}.model.build")
    process = subprocess.Popen(command, cwd=work.folder, env=work.environment())
    limit = time.monotonic() + PATIENCE
    while not (draft / "model.onnx").exists():
        assert time.monotonic() < limit
        time.sleep(0.001)
    process.kill()
    process.wait(PATIENCE)
    assert draft.exists()
    assert not bundle.exists()
    work.stages("model.build")
    assert version(work) == before
    assert not draft.exists()


def usage(server: Server) -> tuple[float, int]:
    """Mebibytes in memory, and open files, of a server."""
    folder = Path(f"/proc/{server.process.pid}")
    pages = int((folder / "statm").read_text().split()[1])
    return pages * 4096 / MEBIBYTE, len([*(folder / "fd").iterdir()])


@pytest.mark.proof("A minute of load leaks no memory and no file descriptor")
def test_sustained_load_leaks_no_memory_and_no_files(
    server: Server, project: Project, record_property: Callable[[str, object], None]
) -> None:
    """A minute of one-row requests over 8 connections, refusals and large requests between them."""
    load = [sys.executable, "-m", "benchmarks.load", str(server.port), "/predict", "8", "60"]
    rows, measured = [example(project)] * 1000, []
    with subprocess.Popen(load, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        process.stdin.write(body(project))
        process.stdin.close()
        while process.poll() is None:
            server.predictions(rows)
            server.problems({})
            measured.append(usage(server))
            time.sleep(0.2)
        assert process.wait() == 0
    third = len(measured) // 3
    before, after = (
        [*zip(*part, strict=True)] for part in (measured[third : 2 * third], measured[2 * third :])
    )
    assert third > 20
    assert median(after[0]) < 1.1 * median(before[0]), measured
    assert median(after[1]) <= median(before[1]) + 2, measured
    record_property("found", f"{median(before[0]):.0f} MiB, then {median(after[0]):.0f} MiB")
    assert metric(server, "event_dropped_rows_total") == 0
