"""What was asked and answered is kept: each row once, whatever happens to the server or to the store."""

import json
import signal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import PATIENCE, until
from project import Json, Project
from serving import Server, serving

FIRST = "SELECT count(*) AS rows, count(DISTINCT (id, row)) AS keys FROM '{}/*/*.parquet'"


@contextmanager
def recording(project: Project, slim: Path, folder: Path, events: Path) -> Generator[Server]:
    """Serve with events in a folder of their own."""
    with serving(project, slim, folder, EVENTS=str(events)) as server:
        yield server


def told(project: Project, events: Path) -> list[Json]:
    """Read what the server was told."""
    return project.rows(f"FROM '{events}/labels/*/*.parquet' ORDER BY received_at, id, row")


def metric(server: Server, name: str) -> float:
    """Read a metric."""
    lines = server.get("/metrics").body.decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


def written(server: Server) -> bool:
    """Whether all that was to be kept is in the store: a server that ends gives that only seconds."""
    return metric(server, "event_buffered_rows") == metric(server, "label_buffered_rows") == 0


def example(project: Project) -> Json:
    """Give a row that the contract allows."""
    return project.json("models/bundle/example.json")


def test_every_prediction_is_written_as_an_event(project: Project, slim: Path, tmp_path: Path) -> None:
    """One row, many rows and a rejected row; the server is stopped and writes its buffer."""
    row, events = example(project), tmp_path / "events"
    with recording(project, slim, tmp_path, events) as server:
        many = server.predict([row | {"tenure": tenure} for tenure in range(500)])
        named = server.ask("POST", "/predict", b'{"tenure": 1}', **{"x-request-id": "refused"})
        assert (named.status, named.headers["x-request-id"]) == (422, "refused")
        away = server.ask("GET", "/predict", **{"x-request-id": "nothing to be read"})
        assert away.status == 405
        headers = {"x-request-id": "my own", "x-role": "stand-in"}
        server.ask("POST", "/predict", json.dumps(row), **headers)
    *events_written, refused = project.rows(
        f"FROM '{events}/*/*.parquet' ORDER BY status, id = 'my own', row"
    )
    assert [event["id"] for event in events_written] == [many.headers["x-request-id"]] * 500 + ["my own"]
    assert [event["feature:tenure"] for event in events_written[:500]] == list(range(500))
    probabilities = [event["probabilities"]["Yes"] for event in many.json["predictions"]]
    assert [event["output:Yes"] for event in events_written[:500]] == pytest.approx(probabilities)
    assert {event["model_version"] for event in events_written} == {many.json["model_version"]}
    assert [event["role"] for event in events_written] == ["champion"] * 500 + ["fallback"]
    assert {event["status"] for event in events_written} == {200}
    assert (refused["id"], refused["row"], refused["status"]) == ("refused", 0, 422)
    assert {value for name, value in refused.items() if ":" in name} == {None}
    assert not any("customer_id" in name or "churn" in name for name in events_written[0])


@pytest.mark.proof("While the event store is down, events are buffered and requests are not delayed")
def test_unavailable_store_delays_no_request(project: Project, slim: Path, tmp_path: Path) -> None:
    """Rows are buffered, and metrics and log report it; when the store is back, no row is missing."""
    events = tmp_path / "events"
    events.write_text("A file, where a folder has to be.\n")
    with recording(project, slim, tmp_path, events) as server:
        for _ in range(20):
            server.predictions(example(project))
        until(lambda: metric(server, "event_write_failures_total") > 0)
        assert metric(server, "event_buffered_rows") == 20
        events.unlink()
        until(lambda: metric(server, "event_buffered_rows") == 0)
        assert server.log.read_text().count("cannot be written") == 1
    assert project.rows(FIRST.format(events)) == [{"rows": 20, "keys": 20}]


@pytest.mark.proof("A killed server loses no written event and duplicates none")
def test_written_events_survive_a_kill(project: Project, slim: Path, tmp_path: Path) -> None:
    """Files are complete or absent: no partial file, and no duplicate after the next start."""
    events = tmp_path / "events"
    with recording(project, slim, tmp_path, events) as server:
        server.predictions([example(project)] * 100)
        until(lambda: metric(server, "event_buffered_rows") == 0)
        server.predictions([example(project)] * 10)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(PATIENCE)
    with recording(project, slim, tmp_path, events) as server:
        server.predictions([example(project)] * 100)
    assert project.rows(FIRST.format(events)) == [{"rows": 200, "keys": 200}]


def test_buffer_is_bounded(project: Project, slim: Path, tmp_path: Path) -> None:
    """The oldest rows are dropped and counted."""
    events = tmp_path / "events"
    events.write_text("A file, where a folder has to be.\n")
    with recording(project, slim, tmp_path, events) as server:
        for _ in range(6):
            server.predictions([example(project)] * 10_000)
        assert metric(server, "event_buffered_rows") == 50_000
        assert metric(server, "event_dropped_rows_total") == 10_000


def test_labels_are_stored_by_request_id(project: Project, slim: Path, tmp_path: Path) -> None:
    """One label or many; labels that the contract forbids are not stored."""
    events = tmp_path / "events"
    with recording(project, slim, tmp_path, events) as server:

        def tell(*rows: Json) -> tuple[int, Json]:
            answer = server.ask("POST", "/feedback", json.dumps(rows if len(rows) > 1 else rows[0]))
            return answer.status, answer.json

        assert tell({"id": "a", "churn": "Yes"}) == (202, {"rows": 1})
        many = [{"id": "b", "row": row, "churn": "No"} for row in (0, 1, 1)]
        assert tell(*many) == (202, {"rows": 2})
        status, refusal = tell({"id": 1, "row": 0.5, "churn": "Perhaps"}, {"churn": "No", "tenure": 1})
        assert status == 422
        assert [(label["row"], label["column"]) for label in refusal["detail"]] == [
            *((0, name) for name in ("id", "row", "churn")),
            *((1, name) for name in ("id", "tenure")),
        ]
    stored = [(label["id"], label["row"], label["churn"]) for label in told(project, events)]
    assert stored == [("a", 0, "Yes"), ("b", 0, "No"), ("b", 1, "No")]
