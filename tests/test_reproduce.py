"""What a revision recorded can be made again from git and the remote alone, or one is told."""

import shutil

import pytest
from helpers import commit, git
from project import Project


def leftovers(work: Project) -> list[str]:
    """Checkouts besides the project's own, and changes in it."""
    trees = git("worktree", "list", "--porcelain", cwd=work.folder).split("\n\n")[1:]
    return [
        line for line in (*trees, *git("status", "--porcelain", cwd=work.folder).splitlines()) if line.strip()
    ]


def forget(work: Project) -> None:
    """Lose what git does not hold, as on a colleague's machine."""
    for folder in ("data", "models", ".dvc/cache"):
        shutil.rmtree(work.folder / folder)


def test_reproduce_rebuilds_a_revision(work: Project) -> None:
    """With the libraries it named then, from the remote, and whatever the project has become."""
    work.good("uv", "add", "--quiet", "--no-sync", "--group", "pipeline", "tomli-w")
    work.replace("from .contract import", "import tomli_w\n\nfrom .contract import")
    commit(work.folder, "a library that only this revision needs")
    git("tag", "old", cwd=work.folder)
    work.good("dvc", "push")
    forget(work)
    work.problem.write_text("raise RuntimeError('the problem of today')\n")
    work.params("ingest: {source: nowhere.csv}")
    commit(work.folder, "today")
    output = work.make("reproduce", "REV=old")
    version = work.json("reports/evaluation.json")["model_version"]
    assert output.count(version) == 2
    assert "same model and metrics" in output
    assert leftovers(work) == []


def test_reproduce_reports_a_different_result(work: Project) -> None:
    """A metric edited by hand, in a revision without a lock file of libraries."""
    metrics = work.json("reports/metrics.json")
    text = (work.folder / "reports/metrics.json").read_text()
    better = str(metrics["roc_auc"] + 1e-9)
    (work.folder / "reports/metrics.json").write_text(text.replace(str(metrics["roc_auc"]), better))
    (work.folder / "uv.lock").unlink()
    commit(work.folder, "better")
    error = work.refusal("automation.reproduce")
    assert "HEAD is not reproduced; these differ: roc_auc" in error
    assert leftovers(work) == []


def test_reproduce_reports_a_failing_stage(work: Project) -> None:
    """What its stage said is what has to be read."""
    work.problem.write_text(work.problem.read_text() + "\nraise RuntimeError('of its own')\n")
    commit(work.folder, "broken")
    result = work.stage("automation.reproduce", "HEAD")
    assert result.returncode == 1
    assert "error: The pipeline of HEAD fails" in result.stderr
    assert "RuntimeError: of its own" in result.stderr
    assert leftovers(work) == []


@pytest.mark.parametrize(
    ("revision", "named"),
    [
        ("v9", "there is no revision v9"),
        ("HEAD:README.md", "there is no revision HEAD:README.md"),
        ("HEAD~1", "HEAD~1 has no dvc.lock"),
        ("HEAD", "neither in the cache nor in the remote"),
    ],
)
def test_reproduce_names_missing_revision(work: Project, revision: str, named: str) -> None:
    """No such revision; nothing made yet; data that only one machine ever had."""
    forget(work)
    assert named in work.refusal("automation.reproduce", revision)
    assert leftovers(work) == []
