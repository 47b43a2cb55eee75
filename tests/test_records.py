"""What git and the remote record of a model: only what is so, and whole."""

import shutil
from pathlib import Path

import pytest
from helpers import commit, git
from project import Project


def clone(work: Project, folder: Path) -> Project:
    """Clone a project as a colleague would, who reaches the same remote."""
    git("clone", "--quiet", work.folder, folder, cwd=work.folder.parent)
    return Project(folder, work.package, installed=False).using(work)


@pytest.fixture
def colleague(work: Project, tmp_path: Path) -> Project:
    """Push the first model, and clone it."""
    work.good("dvc", "push")
    return clone(work, tmp_path / "clone")


def test_tag_production_rejects_model_missing_in_the_remote(work: Project, tmp_path: Path) -> None:
    """Nobody else could compare a model with it. Where the remote cannot be asked, that is said."""
    assert "the remote lacks models/bundle" in work.refusal("model.registry")
    assert git("tag", cwd=work.folder) == ""
    work.good("dvc", "push")
    other = clone(work, tmp_path / "clone")
    assert " as production/" in other.stages("model.registry")
    remote = tmp_path / "customer-churn-remote"
    for folder in (work.folder / ".dvc/cache", other.folder / ".dvc/cache"):
        shutil.rmtree(folder, ignore_errors=True)
    remote.rename(tmp_path / "away")
    output = other.stages("model.registry")
    assert "warning: cannot check that the remote has the model: there is no folder" in output


def test_gate_rejects_bundle_that_differs_from_the_tag(colleague: Project) -> None:
    """Who exchanges a whole bundle, its metadata included, is found out."""
    tag = colleague.stages("model.registry").split()[-1]
    colleague.good("dvc", "pull")
    colleague.stages("declarations", "evaluation.gate")
    (fetched,) = colleague.folder.glob(".production/*")
    reference = fetched / "reference.json"
    reference.write_text(reference.read_text() + "\n")
    code = (
        "import json, sys; from pathlib import Path; from {0}.model.bundle import content_version as v;"
        "f = Path(sys.argv[1]); m = json.loads((f / 'metadata.json').read_text());"
        "(f / 'metadata.json').write_text(json.dumps(m | {{'version': v(f)}}))"
    )
    colleague.script(code.format(colleague.package), fetched)
    assert f"the model in production ({tag}) is " in colleague.refusal("evaluation.gate")


def objects(work: Project) -> list[Path]:
    """What the project's remote holds."""
    return [path for path in (work.folder.parent / "customer-churn-remote").rglob("*") if path.is_file()]


def test_dvc_push_uploads_no_pickle(work: Project, colleague: Project) -> None:
    """Loaded, it runs code: who can write to the remote would run it in `train`."""
    estimator = (work.folder / "models/estimator.joblib").read_bytes()
    assert estimator not in [path.read_bytes() for path in objects(work)]
    assert "in sync" in work.good("dvc", "status", "--cloud")
    assert "WARNING" not in colleague.good("dvc", "pull")
    assert not (colleague.folder / "models/estimator.joblib").exists()


@pytest.mark.parametrize("index", [0, -1], ids=["smallest", "largest"])
def test_dvc_pull_rejects_objects_changed_in_the_remote(
    work: Project, colleague: Project, index: int
) -> None:
    """Also where a file cannot be written, which DVC takes for a sign that nobody did."""
    files = [path for path in objects(work) if path.suffix != ".dir"]
    victim = sorted(files, key=lambda path: path.stat().st_size)[index]
    victim.chmod(0o644)
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    victim.chmod(0o444)
    assert colleague.run("dvc", "pull").returncode != 0


def test_clone_rebuilds_the_bundle_after_a_code_change(colleague: Project) -> None:
    """The estimator is trained again for it, to the same bundle; one of another branch is not taken."""
    colleague.good("dvc", "pull")
    bundle = colleague.problem.parent / "model/build.py"
    bundle.write_text(bundle.read_text() + "# another word\n")
    output = colleague.make("stages")
    assert "Running stage 'train'" in output
    assert "Running stage 'bundle'" in output
    commit(colleague.folder, "another word")
    estimator = colleague.folder / "models/estimator.joblib"
    estimator.write_bytes(estimator.read_bytes() + b"of another branch")
    assert "Running stage" not in colleague.make("stages").replace("Running stage 'params'", "")
    assert not estimator.exists()
    assert git("status", "--porcelain", cwd=colleague.folder) == ""
