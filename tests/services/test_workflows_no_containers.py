"""The project's workflows, as far as they need no containers."""

import shutil
from pathlib import Path

import pytest
from actions import GitHub
from helpers import Renderer, git
from images import Docker
from test_workflows import Fault, edit, red

BROKEN: dict[str, Fault] = {
    "a failing test": (
        ("tests/test_problem.py", "assert ", "assert not "),
        ("check", "make test"),
        "AssertionError",
    ),
    "a type that is wrong": (
        ("src/{package}/problem.py", 'PREPARE = "', 'PREPARE: int = "'),
        ("check", "make check"),
        "invalid-assignment",
    ),
    "a lock that is out of date": (
        ("pyproject.toml", '"fastapi>=0.160,<1"', '"fastapi>=0.160,<2"'),
        ("check", "./.github/actions/setup"),
        "needs to be updated",
    ),
    "a gate that blocks": (
        ("params.yaml", "gate:", "gate:\n  max_size_mb: 0.001"),
        ("e2e", "make e2e"),
        "the gate blocks model",
    ),
}


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Docker:
    """Where no daemon runs."""
    return Docker(tmp_path_factory.mktemp("docker"))


@pytest.mark.parametrize("name", BROKEN)
def test_ci_fails_in_the_right_step(fork: GitHub, name: str) -> None:
    """What can be seen without."""
    red(fork, BROKEN[name])


def test_train_proposes_nothing_for_the_same_model(fork: GitHub) -> None:
    """Monitoring may trigger it often: the same rows and code give the same model."""
    payload = {"action": "train", "client_payload": {"reason": "drift of tenure"}}
    run = fork.act("repository_dispatch", "train", payload=payload)
    assert run.jobs == {"train": "success"}, run.log
    assert "make ingest" in run.ran("train")
    assert "propose: nothing new" in run.log
    assert not (fork.folder / "pull-request").exists()


def test_train_fails_when_the_gate_blocks(fork: GitHub) -> None:
    """Nothing is pushed or proposed; the summary lists the reasons, and MLflow records the model."""
    edit(fork, "params.yaml", "gate:", "gate:\n  max_size_mb: 0.001")
    run = fork.act("workflow_dispatch", "train", payload={"inputs": {"reason": "to see it blocked"}})
    assert run.failed == [("train", "make gate")], run.log
    *_, summary, upload = run.ran("train")
    assert (summary.split()[0], upload) == ("tee", "make sync-mlflow")
    assert "# Gate: block" in run.log
    assert not any("make propose" in step for step in run.ran("train"))
    assert not (fork.folder / "pull-request").exists()
    assert "model/main" not in git("branch", "--list", cwd=fork.origin)


@pytest.mark.parametrize(
    ("remote", "message"),
    [
        ("local", "::error::This runner has no folder ../customer-churn-remote"),
        ("s3", "Set the variables AWS_ROLE_ARN and AWS_REGION"),
        ("gcs", "Set the variables GCP_WORKLOAD_IDENTITY_PROVIDER and GCP_SERVICE_ACCOUNT"),
        ("azure", "Set the variables AZURE_CLIENT_ID, AZURE_TENANT_ID"),
    ],
)
@pytest.mark.parametrize("workflow", ["train", "deploy"])
def test_unreachable_remote_is_reported_first(
    fork: GitHub, render: Renderer, tmp_path: Path, remote: str, message: str, workflow: str
) -> None:
    """Before the environment is set up."""
    actions = fork.project.folder / ".github/actions"
    shutil.copytree(render(remote=remote) / ".github/actions", actions, dirs_exist_ok=True)
    fork.push(remote)
    run = fork.act("push", workflow)
    job = {"train": "train", "deploy": "image"}[workflow]
    assert run.failed == [(job, "./.github/actions/remote")], run.log
    assert "./.github/actions/setup" not in run.ran(job)
    log = run.log
    if message not in log.replace("❗", "::error::"):  # once, act did not show it
        log = fork.act("push", workflow).log
    assert message in log.replace("❗", "::error::")
