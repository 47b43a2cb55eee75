"""A challenger on a server, under load: shadow, canary, promotion and rollback harm no client."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from http.client import HTTPConnection, HTTPException
from itertools import cycle, product
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import pytest
from helpers import PATIENCE, until
from images import Docker
from project import Done, Json, Project
from serving import free_port, load

LATE = 2  # seconds that the late challenger takes, beside its model
# The server, which writes its events and is seen to be healthy sooner, and has the FAULT that it is told.
WRAPPER = """
import asyncio, os, random, time
from {package}.model import bundle
from {package}.serving import app, writer

writer.INTERVAL = 0.5
fault, load, call = os.environ.get("FAULT"), bundle.Model.__init__, app.Server.__call__

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
IMAGE = """\
FROM {image}
COPY wrapper.py /app/wrapper/
ENV PYTHONPATH=/app/wrapper
HEALTHCHECK --interval=1s {check}
ENTRYPOINT ["uvicorn", "--factory", "wrapper:create_app", "--host", "0.0.0.0", "--port", "8000"]
"""
FAULTS = ("fails", "slow", "shifted", "late")
PARAMS = """
rollout: {steps: [20, 60], min_requests: 80, minutes: 0.5, poll_seconds: 0.5, event_delay_seconds: 2}
gate: {min_segment_rows: 30, max_latency_ms: 30}
"""
# Stands before Docker's command line, and ends who called it for the STOP-th time, once that is done.
CUT = """\
#!/bin/sh
{docker} "$@"
code=$?
echo >> {calls}
[ "$(wc -l < {calls})" = "$STOP" ] && kill -9 "$PPID"
exit $code
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
    """The server, with its own command, gateway and slots."""

    docker: Docker
    project: Project
    port: int
    state: Path
    extra: dict[str, str] = field(default_factory=dict)
    services: Iterator[str] = field(default_factory=lambda: cycle(("DSL", "Fiber optic")))

    def environment(self) -> dict[str, str]:
        """Return the environment of the server's commands."""
        own = {"STATE": str(self.state), "PORT": str(self.port)} | self.extra
        return self.project.environment() | self.docker.environment() | own

    def run(self, *command: str | Path) -> Done:
        """Run a command on the server."""
        return subprocess.run(
            command,
            cwd=self.project.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    def deploy(self, *words: str) -> Done:
        """Run deploy.py."""
        return self.run(sys.executable, "deploy/rollout.py", *words)

    @property
    def rollout(self) -> tuple[str | Path, ...]:
        """The command that rolls out an image."""
        return self.project.python, "-m", f"{self.project.package}.deployment.rollout"

    def good(self, *words: str) -> str:
        """Run a command of deploy.py that must succeed, and return its output."""
        result = self.deploy(*words)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout.removeprefix("deploy: ").rstrip("\n")

    def stop(self) -> None:
        """Remove the server's containers."""
        services = "deploy/compose/compose.yaml"
        result = self.run("docker", "compose", "--file", services, "down", "--volumes", "--timeout", "1")
        assert result.returncode == 0, result.stderr

    def status(self) -> list[str]:
        """Return the active image and the standby slot."""
        return self.good("status").splitlines()[:2]

    def ask(self, connection: HTTPConnection | None = None, /, **headers: str) -> Said:
        """Ask for a prediction as a client of one's own, over a connection of its own unless one is given."""
        client = connection or HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        row = self.row | {"internet_service": next(self.services)}
        body, began, status, version, name = json.dumps(row), time.monotonic(), 0, "", ""
        try:
            client.request("POST", "/predict", body=body, headers={"x-client-id": uuid4().hex} | headers)
            answer = client.getresponse()
            content, status = answer.read(), answer.status
            name, version = answer.headers["x-request-id"], json.loads(content)["model_version"]
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

    def container(self, image: str) -> str:
        """Find the slot with an image."""
        return self.docker.good("ps", "--quiet", "--filter", f"ancestor={image}")

    def events(self, columns: str) -> list[dict[str, Json]]:
        """Read what was recorded."""
        if not any(self.state.glob("events/*/*.parquet")):
            return []
        return self.project.rows(f"FROM '{self.state}/events/*/*.parquet' SELECT {columns}")


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


@pytest.fixture(scope="module")
def server(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Copy the project to the server, where rollouts are short."""
    copy = project.copy(tmp_path_factory.mktemp("server") / "project")
    copy.params(PARAMS)
    return copy


@pytest.fixture(scope="module")
def champion(docker: Docker, image: str, project: Project, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build the image that answers at first, under the name of its version."""
    folder = tmp_path_factory.mktemp("champion")
    (folder / "wrapper.py").write_text(WRAPPER.format(package=project.package, late=LATE))
    (check,) = re.findall(r"^ +(CMD .*)", (project.folder / "Dockerfile").read_text(), re.MULTILINE)
    (folder / "Dockerfile").write_text(IMAGE.format(image=image, check=check))
    docker.good("build", "--tag", version(project), folder)
    return version(project)


@pytest.fixture(scope="module")
def other(docker: Docker, champion: str, project: Project, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build an image of another version: its reference ends with a blank line.

    Images named after FAULTS are the same, and have these.
    """
    folder = tmp_path_factory.mktemp("other")
    bundle = folder / "bundle"
    shutil.copytree(project.folder / "models/bundle", bundle)
    with (bundle / "reference.json").open("a") as file:
        file.write("\n")
    parts = (bundle / name for name in ("model.onnx", "contract.json", "reference.json"))
    digest = hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()[:12]
    metadata = bundle / "metadata.json"
    metadata.write_text(metadata.read_text().replace(version(project), digest))
    for name, text in {
        digest: f"FROM {champion}\nCOPY bundle /app/bundle\n",
        **{fault: f"FROM {digest}\nENV FAULT={fault}\n" for fault in FAULTS},
    }.items():
        (folder / "Dockerfile").write_text(text)
        docker.good("build", "--tag", name, folder)
    return digest


@pytest.fixture
def production(docker: Docker, server: Project, champion: str, tmp_path: Path) -> Iterator[Production]:
    """Put the project's model in production."""
    production = Production(docker, server, free_port(), tmp_path / "state")
    assert production.good("promote", champion) == f"{champion} is active"
    yield production
    production.stop()


def test_shadow_receives_every_request(production: Production, champion: str, other: str) -> None:
    """One server answers each request and both record it, under the id that the client received."""
    assert production.good("shadow", other) == f"{champion} is active, {other} is its shadow"
    responses = [
        production.ask(),
        *(production.ask(None, **{"x-request-id": f"own-{n}"}) for n in range(200)),
    ]
    assert statuses(responses) == {(200, champion)}
    assert [entry.id for entry in responses[1:]] == [f"own-{n}" for n in range(200)]
    until(lambda: len(production.events("id")) == 2 * len(responses))
    events = production.events("id, role, model_version AS version")
    for role, answered in (("champion", champion), ("challenger", other)):
        of_role = [entry for entry in events if entry["role"] == role]
        assert {entry["version"] for entry in of_role} == {answered}
        assert {entry["id"] for entry in of_role} == {entry.id for entry in responses}


@pytest.mark.proof("A shadow that is slow and then dies affects no client")
@pytest.mark.usefixtures("other")
def test_slow_and_dying_shadow_harms_no_client(
    production: Production, champion: str, record_property: Callable[[str, object], None]
) -> None:
    """No request fails or waits for it, also over a reused connection; the gateway starts without it."""
    production.good("shadow", "late")
    with load(production.ask) as responses:
        connection = HTTPConnection("127.0.0.1", production.port, timeout=PATIENCE)
        again = [production.ask(connection) for _ in range(5)]
        wait_for_requests(responses, 400)  # during which the shadow answers the first ones
        production.docker.good("kill", production.container("late"))
        wait_for_requests(responses, 400)
    assert statuses(responses + again) == {(200, champion)}
    times = sorted(response.seconds for response in responses + again)
    assert times[len(times) // 2] < LATE  # all would wait so long if they waited for the shadow
    slow = times[int(0.99 * len(times))]
    record_property("found", f"{len(times):,} requests, 99th percentile {1000 * slow:.0f} ms")
    gateway = production.docker.good("ps", "--quiet", "--filter", "name=gateway")
    production.docker.good("restart", gateway)
    until(lambda: production.ask().status == 200)


@pytest.mark.proof(
    "A canary serves its share of the clients, always the same ones; if it dies, the champion serves them"
)
def test_canary_serves_its_share_of_the_clients(
    production: Production, champion: str, other: str, record_property: Callable[[str, object], None]
) -> None:
    """Each client keeps its model when the share grows; if the canary dies, the champion serves."""

    def answering() -> list[str]:
        served = [production.ask(None, **{"x-client-id": f"client-{n}"}) for n in range(500)]
        assert {response.status for response in served} == {200}
        return [response.version for response in served]

    refused = production.deploy("canary", "20")
    assert (refused.returncode, "no challenger" in refused.stderr) == (1, True)
    production.good("shadow", other)
    assert production.good("canary", "20").startswith(f"{other} serves 20 % of the clients")
    first = answering()
    share, error = Counter(first)[other] / 500, (0.2 * 0.8 / 500) ** 0.5
    assert abs(share - 0.2) < 4 * error
    record_property("found", f"{share:.1%} of 500 clients at a share of 20 %")
    assert set(first) == {champion, other}
    assert answering() == first
    assert production.status()[1] == f"canary at 20 %: {other}"
    production.good("canary", "60")
    more = answering()
    assert abs(Counter(more)[other] / 500 - 0.6) < 4 * (0.6 * 0.4 / 500) ** 0.5
    assert all(after == other for before, after in zip(first, more, strict=True) if before == other)
    until(lambda: len(production.events("id")) == 1500)
    production.docker.good("kill", production.container(other))
    assert set(answering()) == {champion}
    until(lambda: len(production.events("id")) == 2000)
    roles = production.events("role, model_version AS version, count(*) AS rows GROUP BY ALL ORDER BY ALL")
    served = Counter(first + first + more)
    assert roles == [
        {"role": "challenger", "version": other, "rows": served[other]},
        {"role": "champion", "version": champion, "rows": served[champion] + Counter(more)[champion]},
        {"role": "fallback", "version": champion, "rows": Counter(more)[other]},
    ]
    result = production.run(*production.rollout, other)
    assert (result.returncode, blocked(result.stdout)) == (2, {("errors", "failed")}), result.stderr
    assert set(answering()) == {champion}
    assert production.status() == [f"active: {champion}", "previous: none"]


@pytest.mark.proof("Promotion and rollback lose no request, and switch all clients")
def test_no_command_loses_a_request(
    production: Production, champion: str, other: str, record_property: Callable[[str, object], None]
) -> None:
    """Each way to another model and back, each command twice; after it, no other model serves."""
    steps: list[tuple[tuple[str, ...], str | None]] = [
        (("shadow", other), champion),
        (("promote",), other),
        (("rollback",), champion),
        (("promote", other), other),
        (("shadow", champion), other),
        (("canary", "50"), None),
        (("promote",), champion),
        (("shadow", other), champion),
        (("rollback",), champion),
    ]
    wrong = {}
    with load(production.ask) as responses:
        for words, version in steps:
            production.good(*words)
            if words != ("rollback",):
                production.good(*words)
            finished = time.monotonic()
            wait_for_requests(responses, 20)
            if version and (versions := since(list(responses), finished)) != {version}:
                wrong[words] = versions
    assert {entry.status for entry in responses} == {200}, Counter(statuses(responses))
    assert wrong == {}
    record_property("found", f"{len(responses):,} requests during {2 * len(steps) - 2} commands")
    assert production.deploy("rollback").returncode == 1  # nothing is left to go back to
    ids = {
        entry.id for entry in responses
    }  # and each answer is recorded, also those of slots that were emptied
    until(lambda: ids <= {entry["id"] for entry in production.events("id")})


@pytest.mark.proof("A command of deploy.py that is killed at any step is completed by running it again")
def test_interrupted_command_is_completed_by_repeating_it(
    production: Production, champion: str, other: str, tmp_path: Path
) -> None:
    """Killed after any of its steps; clients notice nothing, and the same command completes the work."""
    calls, tool = tmp_path / "calls", tmp_path / "bin/docker"
    tool.parent.mkdir()
    tool.write_text(CUT.format(docker=shutil.which("docker"), calls=calls))
    tool.chmod(0o755)
    cut, killed = {"PATH": f"{tool.parent}{os.pathsep}{os.environ['PATH']}"}, Counter[str]()
    steps = (
        (("shadow", other), {champion}),
        (("canary", "50"), {champion, other}),
        (("promote",), {other}),
        (("rollback",), {champion}),
    )
    with load(production.ask) as responses:
        for stop, (words, versions) in product((1, 2, 4, 6), steps):  # those between only look
            calls.unlink(missing_ok=True)
            if replace(production, extra=cut | {"STOP": str(stop)}).deploy(*words).returncode == -9:
                killed[words[0]] += 1
                production.good(*words)
            now = time.monotonic()
            wait_for_requests(responses, 10)
            assert since(list(responses), now) <= versions, (stop, words)
    assert min(killed[words[0]] for words, _ in steps) >= 3
    assert {response.status for response in responses} == {200}, Counter(statuses(responses))
    assert production.status() == [f"active: {champion}", "previous: none"]


def test_interrupted_challenger_is_not_promoted_by_rollback(
    production: Production, champion: str, other: str
) -> None:
    """A challenger that never served is removed by a rollback."""
    production.good("shadow", other)
    assert production.good("rollback", "--from", other) == f"{champion} is still active"
    state = production.state / "state.json"
    production.good("shadow", other)
    state.write_text(state.read_text().replace('"shadow"', '"promote"'))
    assert production.status()[1] == f"promote, interrupted: {other}"
    assert production.good("rollback") == f"{champion} is still active"
    assert statuses([production.ask()]) == {(200, champion)}


def test_each_command_has_help_and_rejects_invalid_arguments(production: Production) -> None:
    """Invalid arguments change nothing."""
    for words in ((), ("shadow",), ("canary",), ("promote",), ("rollback",), ("status",)):
        assert production.good(*words, "--help").startswith("usage: deploy.py")
    for share in ("0", "100", "-3", "x"):
        assert production.deploy("canary", share).returncode == 2


def test_gateway_limits_size_and_hides_metrics(production: Production) -> None:
    """It passes bodies up to the server's limit, and no metrics, which concern all clients."""
    for method, path, rows, status in (
        ("GET", "/ready", 0, 200),
        ("GET", "/metrics", 0, 404),
        ("POST", "/predict", 5_000, 200),
        ("POST", "/predict", 50_000, 413),
    ):
        connection = HTTPConnection("127.0.0.1", production.port, timeout=PATIENCE)
        connection.request(method, path, body=json.dumps([production.row] * rows))
        assert connection.getresponse().status == status, (path, rows)
        connection.close()


@pytest.mark.proof("The gateway accepts labels only with the token")
def test_feedback_needs_a_token(production: Production, champion: str) -> None:
    """Without a configured token no label is accepted; then only with it. Other deployments keep it."""

    def tell(**headers: str) -> int:
        with closing(HTTPConnection("127.0.0.1", production.port, timeout=PATIENCE)) as connection:
            connection.request("POST", "/feedback", body='{"id": "a", "churn": "No"}', headers=headers)
            return connection.getresponse().status

    authorization = {"authorization": "Bearer mine"}
    assert [tell(), tell(**authorization), tell(**{"x-role": ""})] == [403, 403, 403]
    (production.state / "slots.env").write_text("FEEDBACK_TOKEN=mine\n")
    production.good("promote", champion)
    assert [tell(), tell(authorization="Bearer yours"), tell(**authorization)] == [401, 401, 202]
    production.extra |= {"FEEDBACK_TOKEN": "yours"}
    production.good("promote", champion)
    assert [tell(), tell(authorization="Bearer yours"), tell(**authorization)] == [401, 202, 401]


# ── rollouts ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.proof("A rollout promotes a good image step by step, also if it is killed and repeated")
def test_rollout_promotes_a_good_image_step_by_step(
    production: Production, champion: str, other: str
) -> None:
    """Also when the rollout is killed half-way: the next one continues."""
    with load(production.ask) as responses:
        began = subprocess.Popen(
            (*production.rollout, other),
            cwd=production.project.folder,
            env=production.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for line in began.stderr or ():
            if "20 % of the clients" in line:
                began.kill()
        began.communicate()
        assert production.status()[1] == f"canary at 20 %: {other}"
        result = production.run(*production.rollout, other)
    assert result.returncode == 0, result.stdout + result.stderr
    steps = [line for line in result.stdout.splitlines() if line.startswith("###")]
    assert steps == ["### canary 20: promote", "### canary 60: promote"]
    assert result.stdout.endswith(f"deploy: {other} is active\n")
    assert statuses(responses) == {(200, champion), (200, other)}
    assert production.status() == [f"active: {other}", f"previous: {champion}"]


@pytest.mark.proof(
    "A rollout blocks an image that fails, is slow or shifts the scores of a segment, and names the reason"
)
def test_rollout_stops_a_bad_image(production: Production, champion: str, other: str) -> None:
    """The reason is its fault, as a shadow or as a canary; no client sees an error."""
    for mode, fault, reason in (
        ("shadow", "fails", ("errors", "failed")),
        ("shadow", "slow", ("latency", "median")),
        ("canary", "fails", ("errors", "failed")),
        ("canary", "shifted", ("shift", "Yes, internet_service = DSL")),
    ):
        with load(production.ask) as responses:
            if mode == "canary":
                production.good("shadow", fault)
                production.good("canary", "50")
            result = production.run(*production.rollout, fault)
        assert result.returncode == 2, result.stdout + result.stderr
        assert reason in blocked(result.stdout)
        assert f"{fault}: blocked\n\ndeploy: {champion} is still active\n" in result.stdout
        assert {response.status for response in responses} == {200}
        share = sum(response.version == other for response in responses) / len(responses)
        assert share <= (0.6 if mode == "canary" else 0)
        assert production.status() == [f"active: {champion}", "previous: none"]


def test_rollout_removes_an_image_without_traffic(production: Production, champion: str, other: str) -> None:
    """Without requests there is no evidence; with zero minutes, an image is promoted directly."""
    params = production.project.folder / "params.yaml"
    for minutes, code, now in (("0.01", 3, champion), ("0", 0, other)):
        params.write_text(PARAMS.replace("minutes: 0.5", f"minutes: {minutes}"))
        result = production.run(*production.rollout, other)
        assert result.returncode == code, result.stderr
        assert production.status()[0] == f"active: {now}"
    params.write_text(PARAMS)
