"""The project's workflows, run by a local runner: real git, DVC, images, registry, server and rollback."""

import json
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import uuid4

import pytest
from actions import DEPLOYED, GitHub
from helpers import PATIENCE, git
from project import Done, Project
from serving import load

OLDEST = "--matrix=python:oldest"  # the newest may not be on this machine; test_pythons has it


def edit(github: GitHub, path: str, old: str, new: str) -> None:
    """Change a file and push it."""
    file = github.project.folder / path.format(package=github.project.package)
    github.project.replace(old, new, file)
    github.push(f"change {path}")


# ── ci ───────────────────────────────────────────────────────────────────────────────────────────


def test_ci_passes_from_a_fork(fork: GitHub) -> None:
    """No variable, no secret, no remote, no production tag: all that anybody's pull request has.

    And no environment: each job makes its own from nothing.
    """
    fork.variables.clear()
    fork.runner_environment = None
    run = fork.act("pull_request", "ci", OLDEST)
    assert run.jobs == {"check": "success", "e2e": "success"}, run.log
    assert run.ran("check")[3:] == ["make check", "make test", "make secrets"]
    assert run.ran("e2e")[2:4] == ["make e2e", "make -C .e2e image smoke sbom"]
    uploaded = fork.artifacts / "e2e"
    assert json.loads((uploaded / "reports/gate.json").read_text())["production"] is None
    components = json.loads((uploaded / "sbom.json").read_text())["components"]
    assert {"onnxruntime", "uvicorn"} < {component["name"] for component in components}
    assert "scikit-learn" not in {component["name"] for component in components}
    for line in ("smoke: one row: 200", "smoke: invalid body: 422", "no leaks found", "TOTAL"):
        assert line in run.log


REPOSITORY = "https://github.com/acme/churn"  # as the stand-in for gh says
SECRET = 'TOKEN = "ghp_' + 'B7vX9kQ2mW4tZ8rL1nC6sD3fG5hJ0pYaEuI"'
SMOKE = "make -C .e2e image smoke sbom"
Fault = tuple[tuple[str, str, str], tuple[str, str], str]
"""What is replaced, in a file; job and step that fail; what is said."""
BROKEN: dict[str, Fault] = {
    "a committed secret": (
        ("notebooks/explore.py", "\ntrain =", f"\n{SECRET}\ntrain ="),
        ("check", "make secrets"),
        "leaks found: 1",
    ),
    "an image that does not start": (
        ("Dockerfile", 'CMD ["serve"]', 'CMD ["serve", "--no-such-option"]'),
        ("e2e", SMOKE),
        "No such option",
    ),
}


def red(fork: GitHub, fault: Fault) -> None:
    """Break a project; the job and the step that are for it fail, and say why."""
    change, failed, message = fault
    file = fork.project.folder / change[0].format(package=fork.project.package)
    file.write_text(file.read_text().replace(*change[1:], 1))
    for test in (fork.project.folder / "tests").glob("test_*.py"):
        if test.name != "test_problem.py":
            test.unlink()  # they pass, see above, and take a while
    fork.push(change[0])
    run = fork.act("pull_request", "ci", OLDEST, f"--job={failed[0]}")
    assert run.failed == [failed], run.log
    assert run.jobs == {failed[0]: "failure"}
    assert message in run.log


@pytest.mark.parametrize("name", BROKEN)
def test_ci_fails_in_the_right_step(fork: GitHub, name: str) -> None:
    """What needs containers to be seen."""
    red(fork, BROKEN[name])


# ── deploy ───────────────────────────────────────────────────────────────────────────────────────


def predict(github: GitHub, body: bytes) -> tuple[int, str]:
    """Ask production for a prediction, as a client of one's own; give status and version."""
    address = f"http://127.0.0.1:{github.variables['PORT']}/predict"
    try:
        with urlopen(Request(address, body, {"X-Client-Id": uuid4().hex}), timeout=PATIENCE) as answer:
            return answer.status, answer.headers["x-model-version"]
    except HTTPError as refusal:
        return refusal.code, refusal.headers["x-model-version"]


def ask(github: GitHub, project: Project) -> int:
    """Ask production for a prediction; give the status."""
    return predict(github, (project.folder / "models/bundle/example.json").read_bytes())[0]


def version(github: GitHub) -> str:
    """Ask production which model answers."""
    return predict(github, b"no row")[1]


def deploy(github: GitHub, *words: str) -> Done:
    """Run the server's own command, as a person there would."""
    environment = github.environment() | {"PORT": github.variables["PORT"]}
    command = (github.project.folder / "deploy/rollout.py", *words)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def answering(github: GitHub) -> str:
    """Say which image answers."""
    return deploy(github, "status").stdout.splitlines()[0].removeprefix("active: ")


@pytest.fixture(scope="module")
def released(github: GitHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitHub]:
    """Deploy the first model. What others deploy from copies, the same server answers with."""
    copy = github.fork(tmp_path_factory.mktemp("released"))
    run = copy.act("push", "deploy")
    assert run.jobs == dict.fromkeys(DEPLOYED, "success"), run.log
    yield copy
    copy.stop()


@pytest.fixture
def next_release(released: GitHub, tmp_path: Path) -> GitHub:
    """Copy the repository after its first deployment."""
    return released.fork(tmp_path)


def test_merged_model_is_deployed(released: GitHub) -> None:
    """By digest, under the commit and the model's version; git and the server name the same model."""
    reference = answering(released)
    name, _, digest = reference.partition("@")
    assert name == f"{released.variables['REGISTRY']}/acme/churn"
    assert version(released) == json.loads(released.show("reports/gate.json"))["model_version"]
    (commit_of_tag,) = released.tags().values()
    assert commit_of_tag == git("rev-parse", "main", cwd=released.origin).strip()
    for tag in (commit_of_tag, f"model-{version(released)}"):
        assert digest in released.docker.good("pull", f"{name}:{tag}")


def test_model_is_deployed_and_rolled_back(next_release: GitHub, project: Project) -> None:
    """Parameters → training → pull request → merge → deployment; then the previous model by hand."""
    first, old, (tag, commit_of_tag) = (
        answering(next_release),
        version(next_release),
        *next_release.tags().items(),
    )
    file = next_release.project.folder / "params.yaml"
    next_release.project.replace("superiority #", "non_inferiority #", file)
    next_release.project.replace("minutes: 1", "minutes: 0", file)  # test_loop tests the rollout
    edit(next_release, "params.yaml", "max_iter: 80", "max_iter: 75")
    run = next_release.act("push", "train")
    assert run.jobs == {"train": "success"}, run.log
    assert "make ingest" not in run.ran("train")
    gate = json.loads(next_release.show("reports/gate.json", "model/main"))
    new, proposal = gate["model_version"], next_release.pull_request
    assert (new != old, gate["production"], gate["verdict"]) == (True, tag, "promote")
    assert proposal.startswith("create\n--head\nmodel/main\n--base\nmain\n")
    proposed = git("rev-parse", "model/main", cwd=next_release.origin).strip()
    for part in (
        f"Model {new}: promote",
        "Why: push",
        f"compared with {tag}",
        "docs/model-card.md",
        "docs/data-card.md",
    ):
        assert part in proposal
    assert proposal.count(f"({REPOSITORY}/raw/{proposed}/reports/gate.png)") == 1
    next_release.merge("model/main")
    with load(partial(ask, next_release, project)) as responses:
        run = next_release.act("push", "deploy")
    assert run.jobs == dict.fromkeys(DEPLOYED, "success"), run.log
    assert set(responses) == {200}
    assert (version(next_release), answering(next_release) != first) == (new, True)
    run = next_release.act("workflow_dispatch", "deploy", payload={"inputs": {"tag": tag}})
    assert run.jobs == dict.fromkeys(["model", "redeploy", "record"], "success"), run.log
    assert (version(next_release), answering(next_release)) == (old, first)
    newest = git("rev-parse", "main", cwd=next_release.origin).strip()
    assert list(next_release.tags().values()) == [commit_of_tag, newest, commit_of_tag]


def test_model_that_fails_under_load_is_rolled_back(next_release: GitHub, project: Project) -> None:
    """It passes staging, but fails after some requests: as a shadow, or in production without a rollout."""
    before = answering(next_release)
    old = "        outputs = self._model.run(features)\n"
    fault = "        self.left = getattr(self, 'left', 9) - 1\n        assert self.left > 0\n"
    edit(next_release, "src/{package}/serving/app.py", old, old + fault)
    with load(partial(ask, next_release, project)) as responses:
        run = next_release.act("push", "deploy")
    results = ["success", "success", "success", "failure", "success"]
    assert list(run.jobs.items()) == list(zip([*DEPLOYED[:4], "auto-rollback"], results, strict=True)), (
        run.log
    )
    assert "| **fail** | errors" in run.log
    assert set(responses) == {200}
    edit(next_release, "params.yaml", "minutes: 1", "minutes: 0")
    with load(partial(ask, next_release, project)):
        run = next_release.act("push", "deploy")
    assert run.failed == [
        (
            "production",
            'deploy/smoke.py "http://127.0.0.1:$PORT" --version "$VERSION" --row "$RUNNER_TEMP/row.json"',
        )
    ]
    assert "smoke: one row: expected status 200, got 500" in run.log
    assert f"deploy: {before} is active again" in run.log
    assert answering(next_release) == before
    assert version(next_release)
    assert len(next_release.tags()) == 1


def test_deployment_that_git_cannot_record_is_rolled_back(next_release: GitHub) -> None:
    """A model in production that git does not know would be compared with nothing."""
    before = answering(next_release)
    hook = next_release.origin / "hooks/pre-receive"
    edit(next_release, "src/{package}/serving/api.py", "that the process is alive", "that it lives")
    edit(next_release, "params.yaml", "minutes: 1", "minutes: 0")
    hook.write_text("#!/bin/sh\necho no tags today >&2\nexit 1\n")
    hook.chmod(0o755)
    run = next_release.act("push", "deploy")
    assert [job for job, result in run.jobs.items() if result == "failure"] == ["record"], run.log
    assert "no tags today" in run.log
    assert f"deploy: {before} is active again" in run.log
    assert answering(next_release) == before


def test_model_that_does_not_start_is_not_deployed(next_release: GitHub) -> None:
    """Staging fails, and production is not touched."""
    before = answering(next_release)
    edit(next_release, "Dockerfile", 'CMD ["serve"]', 'CMD ["serve", "--no-such-option"]')
    run = next_release.act("push", "deploy")
    assert run.jobs == {"model": "success", "image": "success", "staging": "failure"}, run.log
    assert "No such option" in run.log
    assert answering(next_release) == before
    commit = git("rev-parse", "main", cwd=next_release.origin).strip()
    image = f"{next_release.variables['REGISTRY']}/acme/churn:{commit}"
    refused = deploy(next_release, "promote", image)
    assert refused.returncode == 1
    assert f"{image} failed, {before} is active" in refused.stderr
    assert "No such option" in refused.stderr
    assert answering(next_release) == before
    assert version(next_release)


def test_model_with_verdict_keep_is_not_deployed(next_release: GitHub) -> None:
    """It may be merged, so that git records it."""
    edit(next_release, "reports/gate.json", '"verdict": "promote",\n "model', '"verdict": "keep",\n "model')
    assert next_release.act("push", "deploy").jobs == {"model": "success"}


def test_without_a_server_the_image_is_built_and_smoke_tested(next_release: GitHub) -> None:
    """The summary says that nothing is deployed."""
    del next_release.variables["SERVER"]
    run = next_release.act("push", "deploy")
    assert run.jobs == dict.fromkeys(["model", "image", "staging"], "success"), run.log
    assert "the variable SERVER is not set" in run.log


def test_deploy_commands_can_be_repeated(released: GitHub) -> None:
    """Also after an interruption: a promotion that had switched the gateway but not recorded it."""
    state = Path(os.environ["STATE"]) / "state.json"
    before, first = state.read_text(), answering(released)
    containers = released.docker.good("ps", "--quiet", "--no-trunc")
    assert deploy(released, "promote", first).stdout == f"deploy: {first} is active\n"
    assert released.docker.good("ps", "--quiet", "--no-trunc") == containers
    (commit_of_tag,) = released.tags().values()
    other = f"{released.variables['REGISTRY']}/acme/churn:{commit_of_tag}"  # the same, by another name
    assert deploy(released, "promote", other).stdout == f"deploy: {other} is active\n"
    state.write_text(before)
    assert deploy(released, "rollback", "--from", other).stdout == f"deploy: {first} is still active\n"
    gateway = (state.parent / "gateway/nginx.conf").read_text()
    assert f"server {json.loads(before)['live']}:8000;" in gateway
    assert version(released)
