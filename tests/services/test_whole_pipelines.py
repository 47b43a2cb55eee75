"""Pipelines that run from the first stage to the last, in unusual places and with unusual names."""

from dataclasses import replace
from pathlib import Path

from helpers import Renderer, files
from project import Project, rendered
from test_project import REPORTS, clone, contents, ran

ROWS = ("data/clean.parquet", "data/splits")  # the name of a raw file holds the time of its ingest


def test_same_commit_gives_the_same_model(demand_project: Project, tmp_path: Path) -> None:
    """In another folder, from nothing: equal metrics, bundle and data, to the byte."""
    other = clone(demand_project, tmp_path / "somewhere else")
    assert "train" in ran(other.make("pipeline"))
    for path in (*ROWS, "models/estimator.joblib", "models/bundle/model.onnx", *REPORTS):
        assert contents(demand_project, path) == contents(other, path), path
    original, repeated = (run.json("models/bundle/metadata.json") for run in (demand_project, other))
    # The pipeline's own results were committed since.
    assert original.pop("commit") != repeated.pop("commit")
    assert original == repeated


def test_pipeline_runs_with_hostile_names(project: Project, render: Renderer, tmp_path: Path) -> None:
    """Accents, spaces and quotes, in name and path, change nothing but the name."""
    name = 'L\'été « 100 % » : "sûr" #1 & co'
    extra_answers = {"project_name": name, "project_description": name, "owner": "a-b/c.d_e"}
    folder = tmp_path / "L'été (sûr) & co"
    hostile = rendered(render, folder, remote_address="../team store/dvc", **extra_answers)
    hostile = replace(hostile, installed=False).using(project)
    assert "evaluate" in ran(hostile.make("pipeline"))
    for path in (*ROWS, "models/bundle/model.onnx", *REPORTS):
        assert contents(hostile, path) == contents(project, path), path
    hostile.good("dvc", "push")
    assert files(folder.parent / "team store/dvc")


def test_pipeline_accepts_any_column_name(work: Project) -> None:
    """Quotes, spaces, other alphabets, and the words that the stages use."""
    names = ["say 'hi'", "l'été", "客户", "reasons", "features", "select", "a.b", "x = 1 -- y", "100%"]
    work.declare(*(f"Column({name!r}, 'number')" for name in names))
    quoted = [name.replace('"', '""') for name in names]
    added = [f'customer_id % {at + 2} AS "{name}"' for at, name in enumerate(quoted)]
    work.bring(f"SELECT *, {', '.join(added)} FROM raw")  # noqa: S608
    assert "evaluate" in work.make("pipeline")
