"""Deployments of each target, with the images that the conformance suite rolls out.

A target joins the suite by a class here, in TARGETS: how its images are made, which environment its commands
need, how its connection is lost, how a server is killed, and how everything is taken away.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from http.client import HTTPConnection, HTTPException
from itertools import cycle
from pathlib import Path
from typing import ClassVar, NamedTuple
from uuid import uuid4

from helpers import PATIENCE, until
from images import Docker
from project import Done, Json, Project

LATE = 2  # seconds that the late challenger takes, beside its model
FAULTS = ("fails", "slow", "shifted", "late", "exits", "unready")
# The server, which writes its events sooner, and has the FAULT that it is told.
WRAPPER = """
import asyncio, os, random, sys, time
from {package}.model import bundle
from {package}.serving import app, writer

writer.INTERVAL = 0.5
fault, load, call = os.environ.get("FAULT"), bundle.Model.__init__, app.Server.__call__
if fault == "exits":
    sys.exit("no licence for this machine")
if fault == "unready":
    print("waiting for a database", flush=True)
    time.sleep(3600)

def load_faulty(self, folder):
    load(self, folder)
    run, place = self.run, self.contract.feature_names.index("internet_service")

    def faulty(features):
        if fault == "fails" and random.random() < 0.5:
            raise RuntimeError("no luck")
        if fault == "slow":
            time.sleep(0.05)
        outputs = run(features).copy()
        if fault == "shifted":
            outputs[features[:, place] == 1] += (-0.2, 0.2)
        return outputs

    self.run = faulty

async def late(self, scope, receive, send):
    if fault == "late" and scope["type"] == "http" and scope["path"] == "/predict":
        await asyncio.sleep({late})
    await call(self, scope, receive, send)

bundle.Model.__init__, app.Server.__call__, create_app = load_faulty, late, app.create_app
"""
LAST_WORDS = {"exits": "no licence for this machine", "unready": "waiting for a database"}
PARAMS = """
rollout: {steps: [20, 60], min_requests: 80, minutes: 0.5, poll_seconds: 0.5, event_delay_seconds: 2}
gate: {min_segment_rows: 30, max_latency_ms: 30}
"""
# Runs deploy/rollout.py and kills it once the STOP-th act of the target is done.
KILLED_AFTER = """
import os, signal, sys
sys.path.insert(0, "deploy")
import rollout

target, left = rollout.load_target(), int(os.environ["STOP"])

def counted(act):
    def run(*words):
        global left
        act(*words)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return run

for name in ("save", "start", "route", "stop", "remove"):
    setattr(target, name, counted(getattr(target, name)))
rollout.load_target = lambda: target
rollout.main()
"""


class Said(NamedTuple):
    """One request of a load, and what came of it."""

    began: float
    seconds: float
    status: int
    version: str
    id: str


@dataclass
class Production:
    """A deployment of a project on a target, whose images have the names of their model's version."""

    project: Project
    champion: str
    other: str
    port: int
    state: Path
    extra: dict[str, str] = field(default_factory=dict)
    services: Iterator[str] = field(default_factory=lambda: cycle(("DSL", "Fiber optic")))
    rollback_seconds: ClassVar[float]
    """What docs name, on an idle machine."""
    lost: ClassVar[dict[str, str]]
    """Variables with which the platform cannot be reached."""

    def environment(self) -> dict[str, str]:
        """Return the environment of the target's commands."""
        own = {"STATE": str(self.state), "PORT": str(self.port)}
        return self.project.environment() | own | self.extra

    def run(self, *command: str | Path, **variables: str) -> Done:
        """Run a command where the target's commands run."""
        return subprocess.run(
            command,
            cwd=self.project.folder,
            env=self.environment() | variables,
            capture_output=True,
            text=True,
            check=False,
        )

    def deploy(self, *words: str, **variables: str) -> Done:
        """Run deploy/rollout.py."""
        return self.run(self.python, "deploy/rollout.py", *words, **variables)

    def cut_off(self, n_acts: int, *words: str) -> Done:
        """Run deploy/rollout.py and kill it after so many acts."""
        return self.run(self.python, "-c", KILLED_AFTER, *words, STOP=str(n_acts))

    @property
    def python(self) -> str | Path:
        """The interpreter of deploy/rollout.py."""
        return self.project.python

    @property
    def rollout(self) -> tuple[str | Path, ...]:
        """The command that rolls out an image."""
        return self.project.python, "-m", f"{self.project.package}.deployment.rollout"

    def good(self, *words: str) -> str:
        """Run a command that must succeed, and return its output."""
        result = self.deploy(*words)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout.removeprefix("deploy: ").rstrip("\n")

    def status(self) -> list[str]:
        """Return the active image and the standby slot."""
        return self.good("status").splitlines()[:2]

    @cached_property
    def promises(self) -> dict[str, Json]:
        """What the target promises."""
        return json.loads(self.good("status", "--json"))["promises"]

    def ask(self, connection: HTTPConnection | None = None, /, **headers: str) -> Said:
        """Ask for a prediction as a client of one's own, over a connection of its own unless one is given."""
        client = connection or HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        row = self.row | {"internet_service": next(self.services)}
        body, began, status, version, name = json.dumps(row), time.monotonic(), 0, "", ""
        try:
            client.request("POST", "/predict", body=body, headers={"x-client-id": uuid4().hex} | headers)
            answer = client.getresponse()
            content, status = answer.read(), answer.status
            name, version = answer.headers["x-request-id"], json.loads(content).get("model_version", "")
        except (OSError, HTTPException, ValueError) as error:
            version = repr(error)
        finally:
            if connection is None:
                client.close()
        return Said(began, time.monotonic() - began, status, version, name)

    @cached_property
    def row(self) -> dict[str, Json]:
        """A row that the contract allows."""
        return self.project.json("models/bundle/example.json")

    def events(self, columns: str) -> list[dict[str, Json]]:
        """Read what was recorded."""
        if not any(self.state.glob("events/*/*.parquet")):
            return []
        return self.project.rows(f"FROM '{self.state}/events/*/*.parquet' SELECT {columns}")

    def kill(self, image: str) -> None:
        """Kill the server of an image."""
        raise NotImplementedError

    def stop(self) -> None:
        """Take everything away."""
        self.good("remove", "--yes")


@dataclass(frozen=True)
class Bundles:
    """What images are made of.

    Attributes:
        folder: Has the module `wrapper` and the bundle `other`.
        champion: The version of the project's bundle, and the name of its image.
        other: The version of the other bundle, and the name of its image.
    """

    folder: Path
    champion: str
    other: str

    @classmethod
    def make(cls, project: Project, folder: Path) -> "Bundles":
        """Copy the project's bundle and change its version: its reference ends with a blank line."""
        bundle, champion = folder / "other", version(project)
        shutil.copytree(project.folder / "models/bundle", bundle)
        with (bundle / "reference.json").open("a") as file:
            file.write("\n")
        parts = (bundle / name for name in ("model.onnx", "contract.json", "reference.json"))
        sha256 = hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()
        metadata, other = bundle / "metadata.json", sha256[:12]
        facts = json.loads(metadata.read_text())
        metadata.write_text(json.dumps(facts | {"version": other, "sha256": sha256}))
        (folder / "wrapper.py").write_text(WRAPPER.format(package=project.package, late=LATE))
        return cls(folder, champion, other)


IMAGE = """\
FROM {image}
COPY wrapper.py /app/wrapper/
ENV PYTHONPATH=/app/wrapper
HEALTHCHECK --interval=1s --retries=10 {check}
ENTRYPOINT ["uvicorn", "--factory", "wrapper:create_app", "--host", "0.0.0.0", "--port", "8000"]
"""


@dataclass
class Compose(Production):
    """Docker Compose, with real containers and nginx."""

    docker: Docker = field(kw_only=True)
    rollback_seconds: ClassVar[float] = 10
    lost: ClassVar[dict[str, str]] = {"DOCKER_HOST": "unix:///nowhere"}

    def environment(self) -> dict[str, str]:
        """Return the environment of the tests' own daemon."""
        daemon = {name: self.docker.environment()[name] for name in ("DOCKER_HOST", "DOCKER_CONFIG")}
        return super().environment() | daemon | self.extra

    @property
    def python(self) -> str:
        """The server has no libraries."""
        return sys.executable

    @classmethod
    def make_images(cls, docker: Docker, image: str, project: Project, bundles: Bundles) -> None:
        """Build an image of each bundle; those named after FAULTS are the other one, and have these."""
        (check,) = re.findall(r"^ +(CMD .*)", (project.folder / "Dockerfile").read_text(), re.MULTILINE)
        for name, text in {
            bundles.champion: IMAGE.format(image=image, check=check),
            bundles.other: f"FROM {bundles.champion}\nCOPY other /app/bundle\n",
            **{fault: f"FROM {bundles.other}\nENV FAULT={fault}\n" for fault in FAULTS},
        }.items():
            (bundles.folder / "Dockerfile").write_text(text)
            docker.good("build", "--tag", name, bundles.folder)

    def container(self, image: str) -> str:
        """Find the slot with an image."""
        return self.docker.good("ps", "--quiet", "--filter", f"ancestor={image}")

    def kill(self, image: str) -> None:
        """Kill the container."""
        self.docker.good("kill", self.container(image))


class Processes(Production):
    """The toy: processes of this machine."""

    rollback_seconds: ClassVar[float] = 10
    lost: ClassVar[dict[str, str]] = {"IMAGES": "/nowhere"}

    @classmethod
    def make_images(cls, project: Project, bundles: Bundles) -> Path:
        """Write the environment of each image's server; return their folder."""
        images = bundles.folder / "images"
        images.mkdir(exist_ok=True)
        path = f"{bundles.folder}{os.pathsep}{project.folder / 'src'}"
        champion = {"BUNDLE": str(project.folder / "models/bundle"), "PYTHONPATH": path}
        other = champion | {"BUNDLE": str(bundles.folder / "other")}
        faulty = {fault: other | {"FAULT": fault} for fault in FAULTS}
        for name, variables in {bundles.champion: champion, bundles.other: other, **faulty}.items():
            (images / f"{name}.json").write_text(json.dumps(variables))
        return images

    @staticmethod
    def install(project: Project) -> None:
        """Make it the project's target, as a question would."""
        shutil.rmtree(project.folder / "deploy/compose")
        shutil.copytree(Path(__file__).with_name("processes"), project.folder / "deploy/processes")

    def kill(self, image: str) -> None:
        """Kill the process."""
        for slot in ("blue", "green"):
            path = self.state / f"{slot}.json"
            if path.exists() and json.loads(path.read_text())["image"] == f"{image}.json":
                os.kill(json.loads(path.read_text())["pid"], 9)


def statuses(responses: list[Said]) -> set[tuple[int, str]]:
    """Which answers there were."""
    return {(response.status, response.version) for response in responses}


def since(responses: list[Said], began: float) -> set[str]:
    """Which versions answered what was asked later."""
    return {response.version for response in responses if response.began > began}


def wait_for_requests(responses: list[Said], n_requests: int) -> None:
    """Wait until so many requests that begin from now on are answered."""
    now = time.monotonic()
    until(lambda: sum(response.began > now for response in list(responses)) >= n_requests)


def blocked(output: str) -> set[tuple[str, str]]:
    """Return check and subject of each failure."""
    rows = ([cell.strip() for cell in line.split("|")] for line in output.splitlines() if "**fail**" in line)
    return {(row[2], row[3]) for row in rows}


def version(project: Project) -> str:
    """Read which model the project's bundle holds."""
    return project.json("models/bundle/metadata.json")["version"]
