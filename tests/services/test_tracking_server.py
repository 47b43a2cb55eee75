"""MLflow as a server of its own, on PostgreSQL: it goes away, comes back, and has everything in the end."""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import require
from project import Project
from serving import Server, free_port, started, wait_for
from test_tracking import (
    STATE,
    TRIALS,
    champion,
    fresh,
    judged,
    logged_files,
    logged_project,
    look,
    retrained,
    script,
    set_to,
    state,
    waiting,
)

__all__ = ["fresh", "logged_project"]  # fixtures

MLFLOW = "mlflow==3.17.2"
QUIET = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
JSON = {"Content-Type": "application/json"}


@contextmanager
def postgres() -> Generator[str]:
    """Run a PostgreSQL of one's own, and give its address. It refuses to be root's."""
    require("postgres")
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    folder, port = Path(tempfile.mkdtemp()), free_port()
    user = "nobody" if os.getuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    make = [binaries[-1].with_name("initdb"), "--auth", "trust", "--username", "mlflow", folder / "db"]
    subprocess.run(make, check=True, capture_output=True, cwd=folder, user=user)
    listen = ["-h", "127.0.0.1", "-p", str(port), "-c", "unix_socket_directories=", "-c", "fsync=off"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [binaries[-1], "-D", folder / "db", *listen], stderr=log, cwd=folder, user=user
        )
    try:
        wait_for(port, process)
        yield f"postgresql+psycopg://mlflow@127.0.0.1:{port}/postgres"
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder)


def uvx(*command: str | Path) -> list[str | Path]:
    """Run the whole of MLflow, which no project needs; fetched before anybody waits for it."""
    tool: list[str | Path] = ["uvx", "--from", MLFLOW, "--with", "psycopg[binary]"]
    subprocess.run([*tool, "mlflow", "--version"], check=True, capture_output=True)
    return [*tool, *command]


@contextmanager
def mlflow_server(store: str, folder: Path, port: int) -> Generator[Server]:
    """Run an MLflow server that keeps runs in a database and files in a folder."""
    folder.mkdir()
    command = uvx("mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    command += [
        "--backend-store-uri",
        store,
        "--serve-artifacts",
        "--artifacts-destination",
        folder / "files",
    ]
    with started(command, folder, dict(os.environ) | QUIET, port) as server:
        yield server


@pytest.fixture
def database() -> Iterator[str]:
    """PostgreSQL, for one test."""
    with postgres() as address:
        yield address


def test_outage_loses_no_upload(fresh: Project, database: str, tmp_path: Path) -> None:
    """Two models, three trials and a deployment during an outage; afterwards all of them are logged."""
    port = free_port()
    with set_to(f"http://127.0.0.1:{port}"):
        first = fresh.json("models/bundle/metadata.json")["version"]
        output = script(fresh, STATE).stderr
        assert re.fullmatch(r"warning: [^\n]+ `make sync-mlflow` [^\n]+\n", output)
        held = [state(fresh)]
        assert script(fresh, TRIALS).stderr.count("\n") == 1
        champion(fresh, first)
        retrained(fresh, 12)
        judged(fresh, "promote", "the second", production=first)
        script(fresh, STATE)
        held.append(state(fresh))
        assert len(waiting(fresh)) == 6
        tried = fresh.run("make", "sync-mlflow")
        assert tried.returncode != 0
        assert "6 entries wait" in tried.stdout
        with mlflow_server(database, tmp_path / "server", port):
            assert "MLflow is up to date" in fresh.make("sync-mlflow")
            assert waiting(fresh) == []
            assert script(fresh, STATE).stderr == ""
            contents = look(fresh, f"http://127.0.0.1:{port}")
    runs = [run for run in contents["runs"] if run["experiment"] == "customer-churn"]
    trials = [run for run in contents["runs"] if run["experiment"] == "customer-churn tuning"]
    trials.sort(key=lambda run: run["tags"]["number"])  # they may have begun in the same millisecond
    assert [logged_files(run) for run in runs] == held
    assert [run["tags"]["reasons"] for run in runs] == ["the first", "the second"]
    assert [run["parameters"] for run in trials] == [{"tree.depth": str(n)} for n in range(3)]
    assert [run["metrics"] for run in trials] == [{"loss": n / 10} for n in range(3)]
    assert {(run["tags"]["study"], run["tags"]["number"]) for run in trials} == {
        ("depth", str(n)) for n in range(3)
    }
    assert contents["aliases"] == {"champion": "1", "challenger": "2"}
    assert not (fresh.folder / "mlruns/mlflow.db").exists()


def test_documented_command_shows_the_runs(logged_project: Project) -> None:
    """The README's command, on another port."""
    (command,) = re.findall(
        r"^uvx mlflow.*? ui [^#\n]*", (logged_project.folder / "README.md").read_text(), re.M
    )
    port = free_port()
    subprocess.run(["uvx", MLFLOW.replace("==", "@"), "--version"], check=True, capture_output=True)
    words: list[str | Path] = [*shlex.split(command), "--port", str(port), "--workers", "1"]
    with started(words, logged_project.folder, logged_project.environment() | QUIET, port) as server:
        assert b"<title>MLflow</title>" in server.get("/").body
        response = server.ask("POST", "/api/2.0/mlflow/runs/search", '{"experiment_ids": ["1"]}', **JSON)
        logged = response.json["runs"][0]
        (version,) = [entry["value"] for entry in logged["data"]["tags"] if entry["key"] == "model_version"]
        assert version == logged_project.json("models/bundle/metadata.json")["version"]
        (folder,) = re.findall(r"[^/]+/artifacts$", logged["info"]["artifact_uri"])
        listed = server.get(f"/api/2.0/mlflow/artifacts/list?run_id={folder.split('/')[0]}").json
    assert [entry["path"] for entry in listed["files"]] == ["reports"]
