"""The server answers what the estimator would, refuses in words, and needs little to run."""

import json
import math
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from project import Json, Project
from serving import Server, free_port, schemathesis, serving, started

ESTIMATE = """
    import importlib, json, sys
    import joblib, numpy as np
    package = sys.argv[1]
    of = lambda name: importlib.import_module(f"{package}.{name}")
    contract = of("problem").CONTRACT
    features = of("contract.tables").read_features("data/splits/test.parquet", contract)
    estimator = joblib.load("models/estimator.joblib")
    if contract.task == "regression":
        json.dump(estimator.predict(features)[:, None].tolist(), sys.stdout)
    else:
        json.dump(estimator.predict_proba(features).tolist(), sys.stdout)
"""

Row = dict[str, Json]


@pytest.fixture(scope="module")
def server(project: Project, slim: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve the churn model."""
    with serving(project, slim, tmp_path_factory.mktemp("churn")) as running:
        yield running


@pytest.fixture(scope="module")
def demand_server(
    demand_project: Project, slim: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Serve the demand model."""
    with serving(demand_project, slim, tmp_path_factory.mktemp("demand")) as running:
        yield running


@pytest.fixture(params=["churn", "demand"])
def both(request: pytest.FixtureRequest) -> tuple[Project, Server]:
    """Give each project with its server in turn."""
    names = {"churn": ("project", "server"), "demand": ("demand_project", "demand_server")}
    project, server = (request.getfixturevalue(name) for name in names[request.param])
    return project, server


def smoke(project: Project, address: str, proxy: int) -> str:
    """Run the smoke test, which must succeed, where all goes through a proxy at this port."""
    proxies = ("no_proxy=", f"http_proxy=http://127.0.0.1:{proxy}")
    return project.good("env", *proxies, "deploy/smoke.py", address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_smoke_bypasses_the_proxy_for_localhost(project: Project, server: Server, host: str) -> None:
    """The proxy does not exist, so a request through it would fail."""
    assert "smoke: one row: 200" in smoke(project, f"http://{host}:{server.port}", proxy=free_port())


def test_smoke_uses_the_proxy_for_other_hosts(project: Project, server: Server) -> None:
    """The server itself takes the proxy's place."""
    assert "smoke: one row: 200" in smoke(project, "http://model.example", proxy=server.port)


def columns(project: Project) -> list[Row]:
    """List the columns that a request consists of, from the bundle's contract."""
    contract = project.json("models/bundle/contract.json")
    return [
        column
        for column in contract["columns"]
        if column.get("feature", True)
        and column["kind"] != "text"
        and not column.get("personal")
        and column["name"] != contract["target"]
    ]


def requests(project: Project, limit: int = 10_000) -> list[Row]:
    """Read rows of the test split as requests."""
    names = ", ".join(column["name"] for column in columns(project))
    return project.rows(f"SELECT {names} FROM 'data/splits/test.parquet' LIMIT {limit}")  # noqa: S608


@pytest.fixture
def row(project: Project) -> Row:
    """Give a customer that the churn model answers."""
    (example,) = requests(project, 1)
    return example


def numbers(answer: Row) -> list[float]:
    """An answer's numbers, in the order of the labels."""
    return [*answer["probabilities"].values()] if "label" in answer else [answer["value"]]


def farthest(left: list[list[float]], right: list[list[float]]) -> float:
    """Largest difference of two lists of answers, relative to the largest number in them."""
    assert len(left) == len(right) > 1000
    pairs = [pair for rows in zip(left, right, strict=True) for pair in zip(*rows, strict=True)]
    return max(abs(a - b) for a, b in pairs) / max(1.0, *(abs(a) for a, _ in pairs))


def batch(project: Project, source: str | Path, target: str | Path) -> list[Row]:
    """Answer a file, and read the answers."""
    project.batch(source, target)
    return project.rows(f"FROM {reading(target)}")


def reading(path: str | Path) -> str:
    """SQL for a file's rows: those of CSV as the texts that they are."""
    csv = str(path).endswith(".csv")
    return f"read_csv('{path}', all_varchar=true)" if csv else f"'{path}'"


def batched(row: Row) -> list[float]:
    """A batch answer's numbers, in the order of the labels."""
    return [float(row[name]) for name in row if name.startswith(("probability_", "value"))]


def export(project: Project, target: Path) -> None:
    """Write the test split as a CSV file."""
    code = "import sys, duckdb; duckdb.from_parquet(sys.argv[1]).write_csv(sys.argv[2])"
    project.script(code, "data/splits/test.parquet", target)


def test_api_batch_and_estimator_agree(both: tuple[Project, Server], tmp_path: Path) -> None:
    """Compared row by row on the whole test split."""
    project, server = both
    by_api = server.predictions(requests(project))
    by_file = batch(project, "data/splits/test.parquet", tmp_path / "out.parquet")
    export(project, tmp_path / "in.csv")
    by_text = batch(project, tmp_path / "in.csv", tmp_path / "out.csv")
    estimated = json.loads(project.script(ESTIMATE, project.package))
    predictions = [numbers(answer) for answer in by_api]
    assert farthest(predictions, estimated) < 1e-6
    assert farthest(predictions, [batched(row) for row in by_file]) < 1e-7
    assert farthest(predictions, [batched(row) for row in by_text]) < 1e-7
    labels = [answer.get("label") for answer in by_api]
    assert labels == [row.get("label") for row in by_file] == [row.get("label") for row in by_text]
    assert not any(row["error"] for row in (*by_file, *by_text))


def test_prediction_does_not_depend_on_other_rows(both: tuple[Project, Server]) -> None:
    """One row alone and among others gets the same prediction."""
    project, server = both
    rows = requests(project, 20)
    together = server.predictions(rows)
    assert together == [server.predictions(row)[0] for row in rows]
    assert together == [server.predictions([row])[0] for row in rows]
    assert len({str(answer) for answer in together}) > 10


def test_response_names_the_model_version(both: tuple[Project, Server]) -> None:
    """So a prediction can be traced to its model."""
    project, server = both
    version = project.json("models/bundle/metadata.json")["version"]
    assert server.predict(requests(project, 1)).json["model_version"] == version
    assert server.get("/ready").json == project.json("models/bundle/metadata.json")


def test_label_is_the_most_probable_class(server: Server, project: Project) -> None:
    """The probabilities add up to 1."""
    for answer in server.predictions(requests(project, 200)):
        assert math.isclose(sum(answer["probabilities"].values()), 1, abs_tol=1e-6)
        assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].__getitem__)
        assert answer["probabilities"].keys() == {"No", "Yes"}


TENURE = "must be an integer from 0 to 600"
CONTRACT = "must be one of 'Month-to-month', 'One year', 'Two year'"
CHARGES = "must be a number from 0 to 1000"
MISSING = ...  # the column is left out

FORBIDDEN = [
    ("tenure", "12", TENURE),
    ("tenure", -1, TENURE),
    ("tenure", 601, TENURE),
    ("tenure", 3.5, TENURE),
    ("tenure", True, TENURE),
    ("tenure", None, TENURE),
    ("tenure", [1], TENURE),
    ("tenure", {"years": 1}, TENURE),
    ("tenure", 10**30, TENURE),
    ("tenure", 2**63, TENURE),
    ("tenure", -(2**64), TENURE),
    ("tenure", 1e300, TENURE),
    ("tenure", "💥" * 1000, TENURE),
    ("tenure", MISSING, f"missing; {TENURE}"),
    ("contract", "Weekly", CONTRACT),
    ("contract", "one year", CONTRACT),
    ("contract", "", CONTRACT),
    ("contract", 1, CONTRACT),
    ("contract", None, CONTRACT),
    ("contract", MISSING, f"missing; {CONTRACT}"),
    ("monthly_charges", "29.85", CHARGES),
    ("monthly_charges", -0.01, CHARGES),
    ("monthly_charges", 1000.01, CHARGES),
    ("monthly_charges", False, CHARGES),
    ("monthly_charges", 10**30, CHARGES),
    ("total_charges", "many", "must be a number of at least 0"),
    ("total_charges", 1e300, "must be a number of at least 0"),
    ("customer_id", 7, "must be a text"),
    ("churn", "No", "not a column of the contract"),
    ("", 1, "not a column of the contract"),
    ("großes Übel \u0000", [[{}]], "not a column of the contract"),
]

ALLOWED = [
    ("tenure", 0),
    ("tenure", 600),
    ("tenure", 34.0),
    ("monthly_charges", 0),
    ("monthly_charges", 1000),
    ("monthly_charges", 29.85000001),
    ("total_charges", None),
    ("total_charges", MISSING),
    ("total_charges", 3e38),
]


def changed(row: Row, column: str, value: Json) -> Row:
    """Replace, add or take away one value of a row."""
    rest = {name: present for name, present in row.items() if name != column}
    return rest if value is MISSING else {**row, column: value}


@pytest.mark.parametrize(("column", "value", "rule"), FORBIDDEN, ids=lambda part: repr(part)[:30])
def test_predict_rejects_invalid_value_with_column_and_rule(
    server: Server, row: Row, column: str, value: Json, rule: str
) -> None:
    """The error names this column only, with the value, shortened."""
    (error,) = server.problems(changed(row, column, value))
    assert (error["row"], error["column"], error["rule"]) == (0, column, rule)
    assert len(error.get("got", "")) <= 60
    assert bool(error.get("got")) == (value is not MISSING and rule[:3] != "not")


@pytest.mark.parametrize(("column", "value"), ALLOWED, ids=lambda part: repr(part)[:30])
def test_predict_accepts_values_at_the_limits(server: Server, row: Row, column: str, value: Json) -> None:
    """The limits belong to the range, and an integer may be written with a decimal point."""
    assert server.predictions(changed(row, column, value))


def test_predict_reports_all_errors_at_once(server: Server, row: Row) -> None:
    """Valid values are not reported."""
    wrong = {**row, "tenure": 3.0, "contract": "Weekly", "monthly_charges": -1, "extra": 1}
    del wrong["tech_support"]
    errors = server.problems([row, wrong, row, changed(row, "tenure", -1)])
    assert {(error["row"], error["column"]) for error in errors} == {
        (1, "contract"),
        (1, "monthly_charges"),
        (1, "tech_support"),
        (1, "extra"),
        (3, "tenure"),
    }
    assert len(errors) == 5


def test_predict_limits_the_number_of_errors(server: Server, row: Row) -> None:
    """The response lists the first hundred invalid rows."""
    errors = server.problems([changed(row, "tenure", -1)] * 10_000)
    assert [error["row"] for error in errors] == list(range(100))


def test_predict_reports_an_error_in_the_last_row(server: Server, row: Row) -> None:
    """Among ten thousand rows."""
    (error,) = server.problems([row] * 9_999 + [changed(row, "tenure", -1)])
    assert error["row"] == 9_999


def test_predict_accepts_the_documented_number_of_rows(server: Server, row: Row) -> None:
    """Ten thousand are accepted; one more is rejected with the limit."""
    assert len(server.predictions([row] * 10_000)) == 10_000
    (error,) = server.problems([row] * 10_001)
    assert "10000 rows" in error["rule"].replace(",", "")


MALFORMED = {
    "nothing": b"",
    "space": b"  \n",
    "cut short": b'{"tenure": 1',
    "no JSON": b"tenure=1",
    "single quotes": b"{'tenure': 1}",
    "two documents": b"{} {}",
    "a number": b"5",
    "a text": b'"tenure"',
    "null": b"null",
    "true": b"true",
    "no rows": b"[]",
    "an empty row": b"{}",
    "rows of numbers": b"[1, 2]",
    "rows of lists": b"[[], []]",
    "NaN": b'{"tenure": NaN}',
    "infinity": b'[{"monthly_charges": Infinity}]',
    "minus infinity": b'[{"monthly_charges": -Infinity}]',
    "too large a number": b'{"monthly_charges": 1e999}',
    "too many digits": b'{"tenure": ' + b"9" * 5000 + b"}",
    "zero byte": b"\x00",
    "no UTF-8": b'{"tenure": "\xff\xfe"}',
    "no UTF-8 at all": b"\xff\xfe{\x00}\x00",
    "half a surrogate": b'{"contract": "\\ud800"}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"tenure": ' * 100_000,
    "deep and closed": b'{"tenure": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "deep and unknown": b'{"extra": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "a key twice": b'{"tenure": "x", "tenure": 1}',
    "long key": b'{"' + b"k" * 1_000_000 + b'": 1}',
}


@pytest.mark.parametrize("case", MALFORMED)
def test_predict_rejects_malformed_bodies(server: Server, row: Row, case: str) -> None:
    """The response has the form of a validation error, and the next request is served."""
    errors = server.problems(MALFORMED[case])
    assert all(error["rule"] for error in errors)
    assert len(json.dumps(errors)) < 20_000
    assert server.predictions(row)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
def test_predict_rejects_nan_and_infinity(server: Server, row: Row, value: str) -> None:
    """Python's own JSON encoder writes them."""
    text = json.dumps({**row, "monthly_charges": 12345.5}).replace("12345.5", value)
    assert server.problems(text.encode())


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_predict_allows_post_only(server: Server, method: str) -> None:
    """The response lists the allowed methods in its header."""
    answer = server.ask(method, "/predict")
    assert answer.status == 405
    assert {name.lower(): value for name, value in answer.headers.items()}["allow"] == "POST"


def test_unknown_paths_are_404(server: Server) -> None:
    """Also with a trailing slash."""
    assert server.ask("GET", "/").status == 404
    assert server.ask("POST", "/predict/x", b"{}").status == 404


def test_predict_accepts_chunked_bodies(server: Server, row: Row) -> None:
    """Clients may stream."""
    text = json.dumps([row] * 500).encode()
    pieces = (text[at : at + 1000] for at in range(0, len(text), 1000))
    answer = server.ask("POST", "/predict", pieces)
    assert answer.status == 200
    assert len(answer.json["predictions"]) == 500


def test_disconnecting_client_does_not_disturb_others(server: Server, row: Row) -> None:
    """It sends half a request and disconnects."""
    before = server.log.read_text().count("Traceback")
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n[{")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""  # the server has noticed, and closed the connection
    assert server.predictions(row)
    assert server.log.read_text().count("Traceback") == before


def test_concurrent_clients_get_their_own_predictions(server: Server, project: Project) -> None:
    """Each gets its own answer."""
    rows = requests(project, 40)
    expected = server.predictions(rows)
    received: dict[int, Json] = {}
    clients = [
        threading.Thread(target=lambda at=at: received.update({at: server.predictions(rows[at])[0]}))
        for at in range(40)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert [received[at] for at in range(40)] == expected


def counted(server: Server, name: str) -> float:
    """Read one number from the metrics."""
    text = server.get("/metrics").body.decode()
    (value,) = re.findall(rf"^{re.escape(name)} ([\d.e+]+)$", text, re.M)
    return float(value)


def test_metrics_count_requests_rows_and_durations(server: Server, row: Row) -> None:
    """Requests are counted by status."""
    names = [
        'predict_requests_total{status="200"}',
        'predict_requests_total{status="422"}',
        'predict_requests_total{status="405"}',
        "predict_rows_total",
        "predict_duration_seconds_count",
    ]
    before = [counted(server, name) for name in names]
    server.predictions([row] * 7)
    server.problems({})
    server.ask("GET", "/predict")
    after = [counted(server, name) for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1, 7, 3]
    assert counted(server, 'predict_duration_seconds_bucket{le="+Inf"}') == after[-1]


def test_health_answers(server: Server) -> None:
    """An orchestrator calls it every few seconds."""
    assert server.get("/health").json == {"status": "alive"}
    assert server.get("/metrics").headers["content-type"].startswith("text/plain")


def references(part: Json) -> Iterator[str]:
    """Find every reference in a document."""
    if isinstance(part, dict):
        yield from (value for name, value in part.items() if name == "$ref")
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from references(inner)


def test_openapi_describes_every_column(both: tuple[Project, Server]) -> None:
    """Clients are generated from it: every column with its rule, and no dead reference."""
    project, server = both
    document = server.get("/openapi.json").json
    assert document["openapi"].startswith("3.")
    schemas = document["components"]["schemas"]
    linked = {*references(document)}
    assert linked
    assert linked <= {f"#/components/schemas/{name}" for name in schemas}
    post = document["paths"]["/predict"]["post"]
    assert {"200", "422"} <= post["responses"].keys()
    body = post["requestBody"]["content"]["application/json"]["schema"]
    (name,) = {link.rsplit("/", 1)[1] for link in references(body)}
    expected, key = columns(project), project.json("models/bundle/contract.json")["key"]
    names = [column["name"] for column in expected]
    assert [*schemas[name]["properties"]] == names + [key] * (key not in names)
    required = {column["name"] for column in expected if not column.get("nullable")}
    assert {*schemas[name]["required"]} == required
    assert schemas[name]["additionalProperties"] is False
    for column in expected:
        described = schemas[name]["properties"][column["name"]]
        assert "ust be " in described["description"]
        assert {*described.get("enum", ())} == {*column.get("categories", ())}
        if not column.get("nullable"):
            assert described.get("maximum") == column.get("max")


@pytest.mark.proof("schemathesis finds no 5xx and no undocumented response, for both starters")
def test_api_conforms_to_its_openapi_document(both: tuple[Project, Server]) -> None:
    """Whatever is sent, valid or not: no failure and no undocumented response."""
    result = schemathesis(both[1], "--max-examples", "25")
    assert result.returncode == 0, result.stdout
    assert "Tested: 6" in result.stdout


def test_docs_page_works_offline(server: Server) -> None:
    """It loads nothing from other hosts."""
    page = server.get("/docs").body.decode()
    assert "/openapi.json" in page
    for address in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert address.startswith("/"), address
        assert server.get(address).body


def test_server_works_behind_a_path_prefix(project: Project, slim: Path, tmp_path: Path, row: Row) -> None:
    """A proxy strips the prefix: each page and its parts are found, and requests are counted."""
    with serving(project, slim, tmp_path, UVICORN_ROOT_PATH="/churn", EVENTS=str(tmp_path / "e")) as server:
        for path in ("/health", "/ready", "/metrics", "/docs", "/openapi.json"):
            server.get(path)
        answer = server.ask("POST", "/predict", json.dumps(row))
        label = {"id": answer.headers["x-request-id"], "churn": "No"}
        response = server.ask("POST", "/feedback", json.dumps(label))
        assert (answer.status, response.status) == (200, 202)
        assert server.ask("GET", "/predict").status == 405
        assert counted(server, 'predict_requests_total{status="200"}') == 1
        page = server.get("/docs").body.decode()
        for address in re.findall(r'(?:src|href)="([^"]+)"', page):
            assert server.get(address.removeprefix("/churn")).body


def test_server_runs_without_training_libraries(project: Project, slim: Path, server: Server) -> None:
    """The server of these tests ran without any of what training takes."""
    heavy = ["pandas", "sklearn", "scipy", "duckdb", "pyarrow", "matplotlib", "dvc", "skl2onnx"]
    code = f"""
import importlib.util
print([name for name in {heavy} if importlib.util.find_spec(name)])
"""
    assert project.good(slim / "bin/python", "-c", code).strip() == "[]"
    assert Path(f"/proc/{server.process.pid}/exe").exists()
    size = sum(p.stat().st_size for p in slim.rglob("*") if p.is_file() and not p.is_symlink())
    assert size < 400e6


def test_server_stops_on_sigterm(project: Project, slim: Path, tmp_path: Path) -> None:
    """It exits without an error in the log."""
    with serving(project, slim, tmp_path) as server:
        server.predictions(requests(project, 5))
        server.stop()
    assert server.process.returncode in (0, -signal.SIGTERM)
    log = server.log.read_text()
    assert "Traceback" not in log
    assert "Finished server process" in log


def test_make_serve_starts_a_server(project: Project, tmp_path: Path) -> None:
    """The README's command, on another port."""
    port = free_port()
    command = ["make", "--directory", project.folder, "serve", f"PORT={port}"]
    with started(command, tmp_path, project.environment(), port) as server:
        assert server.predictions(requests(project, 1))
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
        for child in children.read_text().split():
            os.kill(int(child), signal.SIGTERM)
        server.process.wait(10)
        with pytest.raises(OSError, match="refused"):  # also the server has stopped
            socket.create_connection(("127.0.0.1", port), 1)


@pytest.mark.parametrize("spoiled", ["", "model.onnx", "contract.json", "metadata.json"])
def test_server_without_valid_bundle_exits_with_advice(
    project: Project, slim: Path, tmp_path: Path, spoiled: str
) -> None:
    """It exits at once, and the last line says what is missing and what to do."""
    work = project.copy(tmp_path / "project")
    bundle = work.folder / "models/bundle"
    if spoiled:
        (bundle / spoiled).write_bytes((bundle / spoiled).read_bytes()[:-100])
    else:
        bundle.rename(bundle.with_name("elsewhere"))
    app = f"{work.package}.serving.app:create_app"
    result = work.run(slim / "bin/python", "-m", "uvicorn", "--factory", app, "--port", "0")
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert "no usable bundle" in last
    assert "make pipeline" in last


# ── Batch ────────────────────────────────────────────────────────────────────────────────────────


def spoiled_split(project: Project, tmp_path: Path, kind: str, where: str) -> Path:
    """Write the test split with an impossible tenure in some rows."""
    path = tmp_path / f"in.{kind}"
    code = """
        import sys, duckdb
        rows = duckdb.sql(f"SELECT * REPLACE (if({sys.argv[1]}, -5, tenure) AS tenure) "
                          "FROM 'data/splits/test.parquet'")
        getattr(rows, f"write_{sys.argv[2].rsplit('.')[-1]}")(sys.argv[2])
    """
    project.script(code, where, path)
    return path


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_batch_rejects_bad_rows_and_predicts_the_others(project: Project, tmp_path: Path, kind: str) -> None:
    """One bad row among millions must not cost the whole run."""
    source = spoiled_split(project, tmp_path, kind, "customer_id::INTEGER % 10 = 0")
    rows = batch(project, source, tmp_path / f"out.{kind}")
    good = batch(project, "data/splits/test.parquet", tmp_path / "good.parquet")
    bad = [int(row["customer_id"]) % 10 == 0 for row in rows]
    assert 100 < sum(bad) < 200
    for row, expected, refused in zip(rows, good, bad, strict=True):
        assert str(row["customer_id"]) == expected["customer_id"]
        if refused:
            assert row["error"] == f"tenure: {TENURE}, got -5"
            assert row["label"] is None
        else:
            assert row["error"] is None
            assert batched(row) == pytest.approx(batched(expected), abs=1e-7)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_batch_accepts_a_file_without_valid_rows(project: Project, tmp_path: Path, kind: str) -> None:
    """The model is not called."""
    rows = batch(project, spoiled_split(project, tmp_path, kind, "true"), tmp_path / f"o.{kind}")
    assert len(rows) > 1000
    assert all(row["error"] and row["label"] is None for row in rows)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_batch_accepts_an_empty_file(project: Project, tmp_path: Path, kind: str) -> None:
    """The output is an empty file with its columns."""
    source, target = tmp_path / f"in.{kind}", tmp_path / f"out.{kind}"
    code = """
        import sys, duckdb
        rows = duckdb.sql("FROM 'data/splits/test.parquet' LIMIT 0")
        getattr(rows, f"write_{sys.argv[1].rsplit('.')[-1]}")(sys.argv[1])
    """
    project.script(code, source)
    assert batch(project, source, target) == []
    names = [row["column_name"] for row in project.rows(f"DESCRIBE FROM {reading(target)}")]
    assert {"customer_id", "label", "probability_Yes", "error"} <= {*names}


def test_batch_copies_other_columns(project: Project, tmp_path: Path) -> None:
    """They stay unchanged: a key with leading zeros, and columns with names that batch uses."""
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    first, *rest = requests(project, 3)
    names = ["id", "note", "features", "scores", *first]
    lines = [
        ",".join(["007", '"a, ""b"""', "f", "s", *("" if v is None else str(v) for v in row.values())])
        for row in (first, *rest)
    ]
    source.write_text("\n".join([",".join(names), *lines]) + "\n")
    project.batch(source, target)
    (copied, *_) = project.rows(f"FROM {reading(target)}")
    assert [copied[name] for name in names[:4]] == ["007", 'a, "b"', "f", "s"]
    assert copied["label"] in ("No", "Yes")


@pytest.mark.parametrize("name", ["error", "label", "probability_Yes"])
def test_batch_rejects_or_replaces_existing_output_columns(
    project: Project, tmp_path: Path, name: str
) -> None:
    """A file answered before, or a column of that name: replace it or say so."""
    work = project.copy(tmp_path / "project")
    work.edit(f"SELECT *, 'old' AS \"{name}\" FROM raw", "data/splits/test.parquet")  # noqa: S608
    result = work.stage("serving.batch", "data/splits/test.parquet", tmp_path / "out.parquet")
    if result.returncode:
        assert "Traceback" not in result.stderr
        assert name in result.stderr
    else:
        rows = work.rows(f"FROM '{tmp_path}/out.parquet'")
        assert "old" not in [row[name] for row in rows]
        assert all(row["label"] in ("No", "Yes") and row["error"] is None for row in rows)


@pytest.mark.parametrize(
    ("source", "target", "named"),
    [
        ("missing.csv", "out.csv", "missing.csv"),
        ("in.json", "out.csv", "in.json"),
        ("in.csv", "out.json", "out.json"),
        ("in.csv", "nowhere/out.csv", "nowhere"),
        ("broken.parquet", "out.csv", "broken.parquet"),
        ("less.csv", "out.csv", "tenure"),
    ],
)
def test_batch_reports_impossible_inputs_first(
    project: Project, tmp_path: Path, source: str, target: str, named: str
) -> None:
    """Before it starts to work."""
    export(project, tmp_path / "in.csv")
    (tmp_path / "in.json").write_text("[]")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no more")
    lines = (tmp_path / "in.csv").read_text().replace("tenure", "months", 1)
    (tmp_path / "less.csv").write_text(lines)
    assert named in project.refusal("serving.batch", tmp_path / source, tmp_path / target)
    assert not (tmp_path / target).exists()


def verdicts(project: Project, server: Server, column: str, values: list[Json], kind: str) -> None:
    """Put each value to the API and, as a file, to batch: both take it or both refuse it."""
    (row,) = requests(project, 1)
    by_api = {repr(value): server.predict({**row, column: value}).status for value in values}
    code = """
        import json, sys, duckdb
        values, column, kind, target = sys.argv[1:]
        con = duckdb.connect()
        con.sql("CREATE TABLE given (i INTEGER, x " + kind + ")")
        con.executemany("INSERT INTO given VALUES (?, ?)", list(enumerate(json.loads(values))))
        con.sql("COPY (SELECT r.* REPLACE (x AS " + column + "), i FROM given, (FROM "
                "'data/splits/test.parquet' LIMIT 1) r ORDER BY i) TO '" + target + "'")
    """
    source = server.log.parent / f"{column}.parquet"
    project.script(code, json.dumps(values), column, kind, source)
    rows = batch(project, source, source.with_name(f"{column}-out.parquet"))
    by_file = {repr(value): 422 if r["error"] else 200 for value, r in zip(values, rows, strict=True)}
    assert by_file == by_api
    assert {*by_api.values()} == {200, 422}


@pytest.mark.parametrize(
    ("column", "values", "kind"),
    [
        ("tenure", [0, 600, 601, -1, 3.0, 3.5, 599.9999999, 1e30, -0.0, None], "DOUBLE"),
        ("monthly_charges", [0, 1000, 1000.0000001, -1e-9, 5e-324, 1e300, None], "DOUBLE"),
        ("total_charges", [0, 3.4e38, 3.5e38, -1, None], "DOUBLE"),
        ("contract", ["One year", "one year", "One year ", "", "Oné year", None], "VARCHAR"),
    ],
)
def test_api_and_batch_reject_the_same_rows(
    server: Server, project: Project, column: str, values: list[Json], kind: str
) -> None:
    """One contract has two readers: of JSON and of tables."""
    verdicts(project, server, column, values, kind)


def test_api_and_batch_read_the_same_times(demand_server: Server, demand_project: Project) -> None:
    """A time is a text in both, in several notations."""
    values = [
        "2014-10-20T00:30:00",
        "2014-10-20 00:30:00",
        "2014-10-20T00:30:00.250",
        "2014-10-20T00:30:00Z",
        "2014-10-20T00:30:00+02:00",
        "2014-10-20 00:30:00+02",
        "2014-10-20",
        "2014-10-20T00:30",
        "2014-02-30T00:00:00",
        "2014-10-20T24:00:00",
        "2014-10-20T00:61:00",
        "infinity",
        "epoch",
        "now",
        "0000-01-01T00:00:00",
        "12014-10-20T00:30:00",
        "",
        None,
    ]
    verdicts(demand_project, demand_server, "time", values, "VARCHAR")
