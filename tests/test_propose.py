"""What is proposed, from where, and what is not: a blocked model, and one that no commit could make again."""

import hashlib
import os
from pathlib import Path

import pytest
from helpers import STAND_INS, commit, git
from project import Project


@pytest.fixture
def origin(work: Project, tmp_path: Path) -> Path:
    """The project's origin, which has its first model."""
    git("clone", "--quiet", "--bare", work.folder, tmp_path / "origin.git", cwd=tmp_path)
    git("remote", "add", "origin", tmp_path / "origin.git", cwd=work.folder)
    for name, value in (("user.name", "Tester"), ("user.email", "tester@example.com")):
        git("config", name, value, cwd=work.folder)
    return tmp_path / "origin.git"


@pytest.fixture
def github(origin: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stand-in for gh, which is on PATH now, keeps what it was told."""
    monkeypatch.setenv("PATH", f"{STAND_INS}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("GITHUB_STAND_IN", str(origin.parent))
    return origin.parent


def dvc_hash(content: bytes) -> str:
    """The hash by which dvc.lock names a file."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def results(work: Project) -> None:
    """Have other results than the last commit."""
    metrics, lock = work.folder / "reports/metrics.json", work.folder / "dvc.lock"
    before = metrics.read_bytes()
    metrics.write_bytes(before.replace(b'"roc_auc": 0.8', b'"roc_auc": 0.7'))
    work.replace(dvc_hash(before), dvc_hash(metrics.read_bytes()), lock)


def state(work: Project) -> str:
    """What is checked out, and what differs from it."""
    branch = git("branch", "--show-current", cwd=work.folder)
    return branch + git("rev-parse", "HEAD", cwd=work.folder) + git("status", "--short", cwd=work.folder)


def branches(origin: Path) -> set[str]:
    """The branches at origin."""
    return set(git("for-each-ref", "--format=%(refname:strip=2)", "refs/heads", cwd=origin).split())


def test_propose_rejects_blocked_model(work: Project) -> None:
    """Its report is there to be read, and no more."""
    work.replace(
        '"verdict": "promote",\n "model', '"verdict": "block",\n "model', work.folder / "reports/gate.json"
    )
    assert "the gate blocks model" in work.refusal("automation.propose")


def test_propose_names_uncommitted_edits(work: Project) -> None:
    """The pull request would hold a model and not the code that made it."""
    work.replace("max_iter: 80", "max_iter: 70", work.folder / "params.yaml")
    (work.folder / "reports/metrics.json").write_text("{}\n")
    error = work.refusal("automation.propose")
    assert "params.yaml" in error
    assert "metrics.json" not in error


@pytest.mark.usefixtures("origin")
def test_propose_does_nothing_without_changes(work: Project) -> None:
    """Also without GitHub's command line, and on a branch."""
    assert "nothing new" in work.stages("automation.propose")
    git("switch", "--quiet", "--create", "other", cwd=work.folder)
    (work.folder / "news.txt").write_text("A word.\n")
    commit(work.folder, "no other model")
    assert "nothing new" in work.stages("automation.propose")


def test_propose_checks_prerequisites_before_pushing(work: Project, tmp_path: Path) -> None:
    """No origin, or an empty one: a sentence each, and nothing has changed."""
    results(work)
    assert "there is no remote `origin`" in work.refusal("automation.propose")
    git("init", "--quiet", "--bare", tmp_path / "empty.git", cwd=tmp_path)
    git("remote", "add", "origin", tmp_path / "empty.git", cwd=work.folder)
    assert "origin has no default branch yet" in work.refusal("automation.propose")
    assert not (tmp_path / "customer-churn-remote").exists()


def test_propose_works_without_gh_and_without_a_branch(
    work: Project, origin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It pushes, and says what to open."""
    results(work)
    git("switch", "--quiet", "--detach", cwd=work.folder)
    before = state(work)
    folders = [folder for folder in os.environ["PATH"].split(":") if not Path(folder, "gh").exists()]
    monkeypatch.setenv("PATH", ":".join(folders))
    head = f"model/{git('rev-parse', '--short=12', 'HEAD', cwd=work.folder).strip()}"
    assert f"open the pull request yourself: {head} into main" in work.stages("automation.propose")
    assert (state(work), branches(origin)) == (before, {"main", head})


def test_the_same_command_finishes_what_failed(work: Project, origin: Path, github: Path) -> None:
    """The push, then the pull request; what is checked out stays as it is."""
    results(work)
    before = state(work)
    hook = origin / "hooks/pre-receive"
    hook.write_text("#!/bin/sh\necho not today >&2\nexit 1\n")
    hook.chmod(0o755)
    assert "not today" in work.stage("automation.propose").stderr
    hook.unlink()
    (github / "pull-request").mkdir()  # the stand-in cannot write there
    (github / "open").mkdir()
    assert "gh pr create" in work.refusal("automation.propose")
    (github / "pull-request").rmdir()
    (github / "open").rmdir()
    work.stages("automation.propose")
    assert (github / "pull-request").read_text().startswith("create\n--head\nmodel/main\n--base\nmain\n")
    assert '"roc_auc": 0.7' in git("show", "model/main:reports/metrics.json", cwd=origin)
    work.stages("automation.propose")
    assert (github / "pull-request").read_text().startswith("edit\n")
    assert (state(work), branches(origin)) == (before, {"main", "model/main"})


@pytest.mark.parametrize("branch", ["more-trees", "model/more-trees"])
def test_propose_accepts_committed_results_of_a_branch(
    work: Project, origin: Path, github: Path, branch: str
) -> None:
    """To the default branch of origin, under one name."""
    git("switch", "--quiet", "--create", branch, cwd=work.folder)
    results(work)
    commit(work.folder, "more trees")
    before = state(work)
    work.stages("automation.propose")
    head = "--head\nmodel/more-trees\n--base\nmain\n"
    assert (github / "pull-request").read_text().startswith(f"create\n{head}")
    assert (state(work), branches(origin)) == (before, {"main", "model/more-trees"})
    assert git("rev-parse", "model/more-trees", cwd=origin) == git("rev-parse", "HEAD", cwd=work.folder)
