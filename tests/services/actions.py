"""GitHub Actions on this machine: a project's workflows, run by act, with git, DVC, Docker and a registry."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from helpers import STAND_INS, Renderer, commit, git, require
from images import Docker
from project import Json, Project, rendered
from serving import environment, free_port, running

ADDRESS = "https://github.com/acme/Churn"  # only its name is used
QUICK = "poll_seconds: 0.5\n  event_delay_seconds: 2"
DEPLOYED = ["model", "image", "staging", "shadow", "production", "record"]


@dataclass
class Run:
    """The result of a workflow run."""

    log: str
    jobs: dict[str, str]
    """Finished jobs and their results: success or failure."""
    steps: list[tuple[str, str, str]]
    """Job, name and result of each step that ran, in order; skipped steps are absent."""

    @classmethod
    def read(cls, lines: list[str]) -> "Run":
        """Parse the JSON output of act."""
        entries = [json.loads(line) for line in lines if line.startswith("{")]
        jobs = {entry["jobID"]: entry["jobResult"] for entry in entries if "jobResult" in entry}
        steps_run = (entry for entry in entries if entry.get("stage") == "Main" and "stepResult" in entry)
        # The id of a step of a composite action has the numbers of both.
        steps = [
            (entry["jobID"], entry["step"], entry["stepResult"])
            for entry in steps_run
            if len(entry["stepID"]) == 1
        ]
        errors = [line for line in lines if not line.startswith("{")]
        return cls("\n".join([*(entry["msg"].rstrip() for entry in entries), *errors]), jobs, steps)

    def ran(self, job: str) -> list[str]:
        """List the steps of a job."""
        return [step for name, step, _ in self.steps if name == job]

    @property
    def failed(self) -> list[tuple[str, str]]:
        """List jobs and steps that failed."""
        return [(job, step) for job, step, result in self.steps if result == "failure"]


@dataclass
class GitHub:
    """A repository with its runners: `origin` is the repository on GitHub, `project` a clone."""

    project: Project
    origin: Path
    folder: Path
    docker: Docker
    variables: dict[str, str] = field(default_factory=dict)
    runner_environment: Path | None = None
    """An environment that its runners keep; without it, each job creates its own."""

    @property
    def artifacts(self) -> Path:
        """The folder of uploaded artifacts."""
        return self.folder / "artifacts"

    @property
    def pull_request(self) -> str:
        """The arguments of the last `gh pr` command."""
        return (self.folder / "pull-request").read_text()

    @property
    def issue(self) -> str:
        """The arguments of the last `gh issue` command."""
        return (self.folder / "issue").read_text()

    @property
    def dispatch(self) -> Json:
        """The event that `gh api` was called to dispatch."""
        words = (self.folder / "dispatch").read_text().splitlines()
        fields = dict(word.split("=", 1) for word in words if "=" in word)
        return {
            "action": fields["event_type"],
            "client_payload": {"reason": fields["client_payload[reason]"]},
        }

    def push(self, message: str) -> None:
        """Commit everything and push it to main."""
        commit(self.project.folder, message)
        git("push", "--quiet", "origin", "HEAD:main", cwd=self.project.folder)

    def merge(self, branch: str) -> None:
        """Merge a pull request and update the clone."""
        git("pull", "--quiet", "--ff-only", "origin", branch, cwd=self.project.folder)
        git("push", "--quiet", "origin", "HEAD:main", cwd=self.project.folder)
        (self.folder / "open").unlink()

    def tags(self) -> dict[str, str]:
        """Return the production tags of origin and their commits."""
        tags = git("for-each-ref", "--format=%(refname:strip=2) %(objectname)", "refs/tags", cwd=self.origin)
        return dict(line.split() for line in tags.splitlines())

    def show(self, path: str, revision: str = "main") -> str:
        """Read a file of origin."""
        return git("show", f"{revision}:{path}", cwd=self.origin)

    def fork(self, folder: Path) -> "GitHub":
        """Copy the repository for a test that changes it."""
        shutil.copytree(self.origin, folder / "origin.git")
        copy = replace(self, origin=folder / "origin.git", folder=folder, variables=dict(self.variables))
        git("clone", "--quiet", copy.origin, folder / "project", cwd=folder)
        git("remote", "add", "github", ADDRESS, cwd=folder / "project")
        return replace(copy, project=replace(self.project, folder=folder / "project"))

    def environment(self) -> dict[str, str]:
        """Return the environment of a runner: Docker, uv, and the stand-in for gh."""
        path = f"{STAND_INS}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"GITHUB_STAND_IN": str(self.folder), "PATH": path}
        own |= {"ORIGIN": f"file://{self.origin}", "ARTIFACTS": str(self.artifacts)}
        own |= {"HOME": str(self.folder / "home"), "XDG_CACHE_HOME": str(self.folder / "cache")}
        own |= {"UV_CACHE_DIR": uv_cache(), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
        own |= {"KEPT": str(self.runner_environment or "")}
        inherited = {
            k: v for k, v in self.docker.environment().items() if k not in ("VIRTUAL_ENV", "PYTHONPATH")
        }
        return inherited | own

    def act(self, event: str, workflow: str, *options: str, payload: Json = None) -> Run:
        """Run a workflow of the project's working tree on the content of origin."""
        event_file, workflow_file = self.folder / "event.json", f".github/workflows/{workflow}.yml"
        event_file.write_text(json.dumps(payload or {}))
        git("fetch", "--quiet", "--tags", "origin", cwd=self.project.folder)  # act copies this folder
        stands = ((uses, STAND_INS / uses.split("/")[1].split("@")[0]) for uses in self.uses())
        command = ["act", event, "--json", "--no-cache-server", "--concurrent-jobs=1", "--remote-name=github"]
        command += [f"--workflows={workflow_file}", f"--eventpath={event_file}", *options]
        command += [f"--platform={label}=-self-hosted" for label in ("ubuntu-latest", "server")]
        command += [f"--local-repository={uses}={folder}" for uses, folder in stands]
        command += [f"--var={name}={value}" for name, value in self.variables.items()]
        result = subprocess.run(
            command,
            cwd=self.project.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        return Run.read((result.stdout + result.stderr).splitlines())

    def stop(self) -> None:
        """Stop the deployed containers."""
        services = self.project.folder / "deploy/compose/compose.yaml"
        self.docker.good("compose", "--file", services, "down", "--volumes")

    def uses(self) -> set[str]:
        """Return the third-party actions that the workflows use, with their pins."""
        texts = (path.read_text() for path in (self.project.folder / ".github").rglob("*.yml"))
        words = (
            line.split("uses:")[1].split()[0]
            for text in texts
            for line in text.splitlines()
            if "uses:" in line
        )
        return {word for word in words if not word.startswith("./")}


def uv_cache() -> str:
    """Return uv's cache, which runs share as on GitHub."""
    return subprocess.run(("uv", "cache", "dir"), capture_output=True, text=True, check=True).stdout.strip()


REGISTRY = """\
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@contextmanager
def registry(folder: Path) -> Generator[str]:
    """Run an image registry until the block ends; yield its address."""
    port = free_port()
    (folder / "registry.yml").write_text(REGISTRY.format(folder=folder / "registry", port=port))
    with running(folder, "docker-registry", "serve", folder / "registry.yml", port=port):
        yield f"127.0.0.1:{port}"


def shorten(project: Project) -> None:
    """Make rollouts, the writing of events and health checks take seconds."""
    project.replace("INTERVAL = 5.0", "INTERVAL = 0.5", project.problem.parent / "serving/writer.py")
    project.replace("--interval=5s", "--interval=2s", project.folder / "Dockerfile")
    params = project.folder / "params.yaml"
    project.replace("steps: [10, 50]", "steps: [50]", params)
    project.replace("minutes: 60", f"minutes: 1\n  min_requests: 50\n  {QUICK}", params)
    # Added before DVC writes git's index, or changes of the same second and size would look unchanged.
    git("add", "--all", cwd=project.folder)
    project.good("dvc", "repro", "params")
    commit(project.folder, "short trials")


@pytest.fixture(scope="session")
def runner_environment(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the environment that runners keep between jobs."""
    return environment(project, tmp_path_factory.mktemp("kept") / "env")


@pytest.fixture(scope="module")
def github(
    render: Renderer,
    project: Project,
    docker: Docker,
    runner_environment: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[GitHub]:
    """Push the default project to a repository whose runners reach its DVC remote. Read-only: see `fork`."""
    require("docker-registry", "jq")
    folder = tmp_path_factory.mktemp("github")
    remote, origin = folder / "remote", folder / "origin.git"
    remote.mkdir()
    local = rendered(render, folder / "project", remote_address=str(remote)).using(project)
    git("add", "--force", "uv.lock", cwd=local.folder)  # runners check it; `using` lets git ignore it
    local.take_results(project)
    shorten(local)
    local.good("dvc", "push")
    git("clone", "--quiet", "--bare", local.folder, origin, cwd=folder)
    git("config", "uploadpack.allowAnySHA1InWant", "true", cwd=origin)
    git("remote", "add", "origin", origin, cwd=local.folder)
    git("remote", "add", "github", ADDRESS, cwd=local.folder)
    with registry(folder) as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STATE", str(folder / "state"))
        patch.setenv("PORT", str(free_port()))
        variables = {"REGISTRY": address, "SERVER": "server", "PORT": str(free_port())}
        yield GitHub(local, origin, folder, docker, variables, runner_environment)


@pytest.fixture
def fork(github: GitHub, tmp_path: Path) -> GitHub:
    """Copy the repository for a test that changes it."""
    return github.fork(tmp_path)
