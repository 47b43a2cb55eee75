"""A project keeps its data in S3, Azure or Google Cloud, of which emulators run here.

The emulator of Google Cloud accepts any credentials, so rejected credentials are not tested for it.
"""

import json
import os
import re
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import Renderer, files, git, require, run, until
from project import Project, rendered
from serving import base_environment, free_port, running, serving

BUCKET = "customer-churn-data"  # as copier.yml proposes it
MAKE = "import fsspec, sys; fsspec.filesystem(sys.argv[1]).mkdir(sys.argv[2])"
LIST = """
    import fsspec, sys
    store = fsspec.filesystem(sys.argv[1])
    print(*(store.find(sys.argv[2]) if store.exists(sys.argv[2]) else ()))
"""
PUT = """
    import duckdb, fsspec, sys
    scheme, folder = sys.argv[1:]
    for part in (0, 1):
        rows = duckdb.from_parquet("data/raw/*.parquet").filter(f"customer_id % 2 = {part}")
        rows.write_parquet("part.parquet")
        fsspec.filesystem(scheme).put("part.parquet", f"{folder}/{part}.parquet")
"""


@dataclass(frozen=True)
class Store:
    """An object store's stand-in, and what a user's shell says to reach it."""

    scheme: str
    """What fsspec calls it: ingestion reads through fsspec."""
    tool: str
    """What installs it, apart from everything, and runs a command that sees it."""
    command: str
    variables: dict[str, str]
    credentials: dict[str, str]
    no_bucket: str
    """What DVC says when the bucket is not there."""
    no_credentials: str = ""


STORES = {
    "s3": Store(
        "s3",
        "uvx --from moto[server]==5.2.5",
        "moto_server -H 127.0.0.1 -p {port}",
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:{port}", "AWS_EC2_METADATA_DISABLED": "true"},
        {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secret"},
        "The specified bucket does not exist",  # which one, it does not say
        "Unable to locate credentials",
    ),
    "azure": Store(
        "abfs",
        "npm exec --yes --package=azurite@3.35.0 --",
        "azurite-blob --blobPort {port} --inMemoryPersistence --skipApiVersionCheck --disableTelemetry",
        {"AZURITE_ACCOUNTS": "tester:c2VjcmV0"},
        {
            "AZURE_STORAGE_CONNECTION_STRING": "DefaultEndpointsProtocol=http;AccountName=tester;"
            "AccountKey=c2VjcmV0;BlobEndpoint=http://127.0.0.1:{port}/tester;"
        },
        "No such container: 'nobodys-data'",
        "requires either account_name or connection_string",
    ),
    "gcs": Store(
        "gs",
        "uvx --from gcp-storage-emulator==2026.7.19",
        "gcp-storage-emulator start --host 127.0.0.1 --port {port} --in-memory",
        # The last one keeps it from asking Google what the bucket is.
        {"STORAGE_EMULATOR_HOST": "http://127.0.0.1:{port}", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"},
        {"GOOGLE_CLOUD_PROJECT": "tests"},
        "b/nobodys-data/o",
    ),
}


@contextmanager
def storing(store: Store, folder: Path) -> Generator[None]:
    """Run an empty store until the block ends, with credentials in the environment for it alone."""
    port = free_port()
    name, *words = store.command.format(port=port).split()
    path = run(*store.tool.split(), "sh", "-c", 'command -v "$0"', name, cwd=folder).strip()
    with pytest.MonkeyPatch.context() as patch:
        for inherited in [key for key in os.environ if key.startswith(("AWS_", "AZURE_", "GOOGLE_"))]:
            patch.delenv(inherited)
        patch.setenv("HOME", str(folder))
        for variable, value in (store.variables | store.credentials).items():
            patch.setenv(variable, value.format(port=port))
        with running(folder, path, *words, port=port):
            yield


@pytest.fixture(scope="module", params=STORES)
def stored(
    request: pytest.FixtureRequest,
    render: Renderer,
    project: Project,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Project, Store]]:
    """Set up a project for each store, with the default project's results in place of a run. Read-only."""
    folder, store = tmp_path_factory.mktemp(request.param), STORES[request.param]
    require(store.tool.split()[0])
    own = rendered(render, folder / "project", remote=request.param)
    own.make("setup")
    own.take_results(project)
    with storing(store, folder):
        own.script(MAKE, store.scheme, BUCKET)
        yield own, store


@pytest.fixture
def storage(stored: tuple[Project, Store], tmp_path: Path) -> tuple[Project, Store]:
    """Copy such a project, to be broken."""
    return stored[0].copy(tmp_path / "project"), stored[1]


def contents(folder: Path, *names: str) -> dict[str, bytes]:
    """Read all below some folders, without DVC's notes to git."""
    paths = [path for name in names for path in files(folder / name) if path.name != ".gitignore"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_dvc_pull_restores_data_and_models(storage: tuple[Project, Store], project: Project) -> None:
    """The committed configuration suffices: endpoint and credentials come from the environment."""
    work, store = storage
    work.good("dvc", "push")
    pushed = work.script(LIST, store.scheme, f"{BUCKET}/dvc/files").split()
    for folder in ("data", "models", ".dvc/cache"):
        shutil.rmtree(work.folder / folder)
    work.good("dvc", "pull")
    pulled = contents(work.folder, "data", "models")
    assert len(pulled) > 9
    assert pulled == contents(project.folder, "data", "models/bundle")  # the estimator does not travel
    objects = contents(work.folder / ".dvc/cache", "files")
    assert {name.removeprefix(f"{BUCKET}/dvc/") for name in pushed} == set(objects)
    assert git("status", "--porcelain", cwd=work.folder) == ""


def test_ingest_reads_from_an_object_store(
    storage: tuple[Project, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file, then all files that match a pattern: in the end each row is present once."""
    monkeypatch.setenv("INGEST", "keep")  # as KEEP=1 does, for the source changes
    work, store = storage
    work.script(PUT, store.scheme, f"{BUCKET}/rows")
    work.raw.rename(tmp_path / "before.parquet")
    for name in ("0", "*"):
        work.params(f"ingest: {{source: '{store.scheme}://{BUCKET}/rows/{name}.parquet'}}")
        output = work.stages("data.ingest")
    assert re.search("7,043 rows fetched, 3,5.. of them new or changed", output)
    assert work.rows(f"FROM 'data/raw/*.parquet' EXCEPT FROM '{tmp_path}/before.parquet'") == []


def stored_files(work: Project, store: Store) -> list[str]:
    """List the files with events and labels in the store."""
    return work.script(LIST, store.scheme, f"{BUCKET}/events").split()


def kind(name: str) -> str:
    """Return what a file in the store holds: events or labels."""
    return "labels" if "/truth/" in name or "/labels/" in name else "events"


def test_events_are_written_to_an_object_store(storage: tuple[Project, Store], tmp_path: Path) -> None:
    """The dependencies of an image suffice to write them; the monitor reads events and labels there."""
    work, store = storage
    events = f"{store.scheme}://{BUCKET}/events"
    row = work.json("models/bundle/example.json")
    with serving(work, base_environment(work, tmp_path / "env"), tmp_path, EVENTS=events) as server:
        server.predictions([row] * 700)
        label = {"id": "an unknown request", "churn": "No"}
        assert server.ask("POST", "/feedback", json.dumps(label)).status == 202
        # Waits for the files, because a server that stops gives a slow store only seconds.
        until(lambda: {kind(name) for name in stored_files(work, store)} == {"events", "labels"})
    error = work.refusal("monitoring.monitor", "--events", events)
    assert "drift, tenure" in error
    assert work.json("reports/monitoring.json")["rows"] == 700
    assert [kind(name) for name in stored_files(work, store)].count("labels") == 1


def test_missing_bucket_is_an_error(storage: tuple[Project, Store]) -> None:
    """DVC creates no bucket: a misspelt address must not become a second store."""
    work, store = storage
    config = work.folder / ".dvc/config"
    config.with_suffix(".local").write_text(config.read_text().replace(BUCKET, "nobodys-data"))
    result = work.run("dvc", "push")
    assert result.returncode != 0
    assert store.no_bucket in result.stderr


@pytest.mark.parametrize("stored", ["s3", "azure"], indirect=True)
def test_missing_credentials_are_an_error(
    storage: tuple[Project, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is the first error that a new colleague meets."""
    work, store = storage
    for name in store.credentials:
        monkeypatch.delenv(name)
    result = work.run("dvc", "push")
    assert result.returncode != 0
    assert store.no_credentials in result.stderr
