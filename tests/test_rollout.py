"""A challenger on a server, under load: shadow, canary, promotion and rollback harm no client."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple

import pytest
from images import Docker
from project import Done, Json, Project
from serving import PATIENCE, free_port

CLIENTS, PAUSE, MOST = 4, 0.03, 4000  # of a load: threads, seconds between their requests, requests of each
SLOW = 2  # seconds that the slow challenger takes
WRAPPER = f"""
import asyncio
from {{package}}.serving import app

class Slow(app.Server):
    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and scope["path"] == "/predict":
            await asyncio.sleep({SLOW})
        await super().__call__(scope, receive, send)

app.Server = Slow
create_app = app.create_app
"""
LATE = """\
FROM {image}
COPY late.py /app/late/
ENV PYTHONPATH=/app/late
ENTRYPOINT ["uvicorn", "--factory", "late:create_app", "--host", "0.0.0.0", "--port", "8000"]
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

    def verb(self, *words: str) -> Done:
        """Run deploy.py."""
        own = {"STATE": str(self.state), "PORT": str(self.port)} | self.extra
        command = (sys.executable, self.project.folder / "deploy/compose/deploy.py", *words)
        environment = self.docker.environment() | own
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def good(self, *words: str) -> str:
        """Run a verb that must succeed; give what it said."""
        done = self.verb(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.removeprefix("deploy: ").rstrip("\n")

    def status(self) -> list[str]:
        """Say what answers, and what else there is."""
        return self.good("status").splitlines()[:2]

    def ask(self, connection: HTTPConnection | None = None, /, **headers: str) -> Said:
        """Ask for a prediction, over a connection of its own unless one is given."""
        made = connection or HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        body, began, status, version, name = self.row, time.monotonic(), 0, "", ""
        try:
            made.request("POST", "/predict", body=body, headers=headers)
            answer = made.getresponse()
            content, status = answer.read(), answer.status
            name, version = answer.headers["x-request-id"], json.loads(content)["model_version"]
        except (OSError, HTTPException, ValueError) as error:
            version = repr(error)
        finally:
            if connection is None:
                made.close()
        return Said(began, time.monotonic() - began, status, version, name)

    @property
    def row(self) -> str:
        """A row that the contract allows."""
        return (self.project.folder / "models/bundle/example.json").read_text()

    def container(self, image: str) -> str:
        """Find the slot with an image."""
        return self.docker.good("ps", "--quiet", "--filter", f"ancestor={image}")

    def events(self, what: str) -> list[dict[str, Json]]:
        """Read what was recorded."""
        volume = self.docker.good(
            "volume", "inspect", "--format", "{{.Mountpoint}}", "customer-churn-production_events"
        )
        if not any(Path(volume).glob("*/*.parquet")):
            return []
        return self.project.rows(f"FROM '{volume}/*/*.parquet' SELECT {what}")


@contextmanager
def load(production: Production) -> Generator[list[Said]]:
    """Ask all the time, from some threads, until the block ends; each request has its connection."""
    said: list[Said] = []
    stop = Event()

    def run() -> None:
        for _ in range(MOST):
            said.append(production.ask())
            if stop.wait(PAUSE):
                return

    threads = [Thread(target=run) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield said
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def statuses(said: list[Said]) -> set[tuple[int, str]]:
    """Which answers there were."""
    return {(it.status, it.version) for it in said}


def since(said: list[Said], began: float) -> set[str]:
    """Which versions answered what was asked later."""
    return {it.version for it in said if it.began > began}


def until(true: Callable[[], bool]) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.2)


def version(project: Project) -> str:
    """Read which model the project's bundle holds."""
    return project.json("models/bundle/metadata.json")["version"]


@pytest.fixture(scope="module")
def other(docker: Docker, image: str, project: Project, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build an image of another version, which is the image's name: its reference ends with a blank line."""
    folder = tmp_path_factory.mktemp("other")
    bundle = folder / "bundle"
    shutil.copytree(project.folder / "models/bundle", bundle)
    with (bundle / "reference.json").open("a") as file:
        file.write("\n")
    parts = (bundle / name for name in ("model.onnx", "contract.json", "reference.json"))
    made = hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()[:12]
    metadata = bundle / "metadata.json"
    metadata.write_text(metadata.read_text().replace(version(project), made))
    (folder / "Dockerfile").write_text(f"FROM {image}\nCOPY bundle /app/bundle\n")
    docker.good("build", "--tag", made, folder)
    return made


@pytest.fixture(scope="module")
def slow(docker: Docker, other: str, project: Project, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build an image that takes its time."""
    folder = tmp_path_factory.mktemp("slow")
    (folder / "late.py").write_text(WRAPPER.format(package=project.package))
    (folder / "Dockerfile").write_text(LATE.format(image=other))
    docker.good("build", "--tag", "slow", folder)
    return "slow"


@pytest.fixture
def production(docker: Docker, project: Project, image: str, tmp_path: Path) -> Iterator[Production]:
    """Put the project's model in production."""
    made = Production(docker, project, free_port(), tmp_path / "state")
    assert made.good("promote", image) == f"{image} answers"
    yield made
    services = project.folder / "deploy/compose/compose.yaml"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STATE", str(made.state))
        docker.good("compose", "--file", services, "down", "--volumes", "--timeout", "1")


def test_a_shadow_is_asked_the_same(production: Production, image: str, other: str) -> None:
    """Each request is answered by one and recorded by both, under the name that the client was told."""
    champion = version(production.project)
    assert production.good("shadow", other) == f"{image} answers, {other} is its shadow"
    said = [production.ask(), *(production.ask(None, **{"x-request-id": f"own-{n}"}) for n in range(200))]
    assert statuses(said) == {(200, champion)}
    assert [it.id for it in said[1:]] == [f"own-{n}" for n in range(200)]
    until(lambda: len(production.events("id")) == 2 * len(said))
    found = production.events("id, role, model_version AS version")
    for role, answered in (("champion", champion), ("challenger", other)):
        mine = [it for it in found if it["role"] == role]
        assert {it["version"] for it in mine} == {answered}
        assert {it["id"] for it in mine} == {it.id for it in said}


def test_a_slow_and_dying_shadow_harms_nobody(production: Production, slow: str) -> None:
    """No request fails or waits for it, also over a connection used again; the gateway starts without it."""
    champion = version(production.project)
    production.good("shadow", slow)
    with load(production) as said:
        connection = HTTPConnection("127.0.0.1", production.port, timeout=PATIENCE)
        again = [production.ask(connection) for _ in range(5)]
        time.sleep(2 * SLOW)
        production.docker.good("kill", production.container(slow))
        time.sleep(2 * SLOW)
    assert statuses(said + again) == {(200, champion)}
    times = sorted(it.seconds for it in said + again)
    assert times[int(0.99 * len(times))] < SLOW / 2
    gateway = production.docker.good("ps", "--quiet", "--filter", "name=gateway")
    production.docker.good("restart", gateway)
    until(lambda: production.ask().status == 200)


def test_a_canary_answers_its_share_of_the_clients(production: Production, image: str, other: str) -> None:
    """Each client has one model, and keeps it when the share grows; when the canary dies, the other."""
    champion = version(production.project)

    def answering() -> list[str]:
        asked = [production.ask(None, **{"x-client-id": f"client-{n}"}) for n in range(500)]
        assert {it.status for it in asked} == {200}
        return [it.version for it in asked]

    refused = production.verb("canary", "20")
    assert (refused.returncode, "no challenger" in refused.stderr) == (1, True)
    production.good("shadow", other)
    assert production.good("canary", "20").startswith(f"{other} answers 20 % of the clients")
    first = answering()
    share, error = Counter(first)[other] / 500, (0.2 * 0.8 / 500) ** 0.5
    assert abs(share - 0.2) < 4 * error
    assert set(first) == {champion, other}
    assert answering() == first
    assert production.status()[1] == f"canary of 20 %: {other}"
    production.good("canary", "60")
    more = answering()
    assert abs(Counter(more)[other] / 500 - 0.6) < 4 * (0.6 * 0.4 / 500) ** 0.5
    assert all(after == other for before, after in zip(first, more, strict=True) if before == other)
    until(lambda: len(production.events("id")) == 1500)
    roles = production.events("DISTINCT role, model_version AS version")
    expected = [{"role": "challenger", "version": other}, {"role": "champion", "version": champion}]
    assert sorted(roles, key=lambda it: it["role"]) == expected
    production.docker.good("kill", production.container(other))
    assert set(answering()) == {champion}
    assert production.good("rollback") == f"{image} answers, as before"
    assert set(answering()) == {champion}
    assert production.status() == [f"answers: {image}", "before: None"]


def test_no_request_is_lost(production: Production, image: str, other: str) -> None:
    """Each way to another model and back, each verb twice; after a verb, no other model answers."""
    champion = version(production.project)
    steps: list[tuple[tuple[str, ...], str | None]] = [
        (("shadow", other), champion),
        (("promote",), other),
        (("rollback",), champion),
        (("promote", other), other),
        (("shadow", image), other),
        (("canary", "50"), None),
        (("promote",), champion),
        (("shadow", other), champion),
        (("rollback",), champion),
    ]
    wrong = {}
    with load(production) as said:
        for words, answers in steps:
            production.good(*words)
            if words != ("rollback",):
                production.good(*words)
            done = time.monotonic()
            time.sleep(0.5)
            if answers and (found := since(list(said), done)) != {answers}:
                wrong[words] = found
    assert {it.status for it in said} == {200}, Counter(statuses(said))
    assert wrong == {}
    assert production.verb("rollback").returncode == 1  # nothing is left to go back to
    asked = {it.id for it in said}  # and each answer is recorded, also those of slots that were emptied
    until(lambda: asked <= {it["id"] for it in production.events("id")})


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5, 6])
def test_a_verb_that_was_cut_off_is_completed(
    production: Production, image: str, other: str, tmp_path: Path, stop: int
) -> None:
    """Killed after any of its commands; clients notice nothing, and the same verb again does the rest."""
    champion, calls = version(production.project), tmp_path / "calls"
    tool = tmp_path / "bin/docker"
    tool.parent.mkdir()
    tool.write_text(CUT.format(docker=shutil.which("docker"), calls=calls))
    tool.chmod(0o755)
    cut = {"PATH": f"{tool.parent}{os.pathsep}{os.environ['PATH']}", "STOP": str(stop)}
    fragile, killed = replace(production, extra=cut), []
    with load(production) as said:
        for words, answers in (
            (("shadow", other), {champion}),
            (("canary", "50"), {champion, other}),
            (("promote",), {other}),
            (("rollback",), {champion}),
        ):
            calls.unlink(missing_ok=True)
            done = fragile.verb(*words)
            killed.append(done.returncode == -9)
            if killed[-1]:
                production.good(*words)
            now = time.monotonic()
            time.sleep(0.3)
            assert since(list(said), now) <= answers, words
    assert any(killed)
    assert {it.status for it in said} == {200}, Counter(statuses(said))
    assert production.status() == [f"answers: {image}", "before: None"]


def test_what_was_cut_off_is_no_model_to_go_back_to(production: Production, image: str, other: str) -> None:
    """A challenger that never answered is taken away by a rollback, not promoted."""
    production.good("shadow", other)
    assert production.good("rollback", "--from", other) == f"{image} answers, as before"
    state = production.state / "state.json"
    production.good("shadow", other)
    state.write_text(state.read_text().replace('"shadow"', '"promote"'))
    assert production.status()[1] == f"promote, unfinished: {other}"
    assert production.good("rollback") == f"{image} answers, as before"
    assert statuses([production.ask()]) == {(200, version(production.project))}


def test_each_verb_explains_itself(production: Production) -> None:
    """And refuses what makes no sense, without touching anything."""
    for words in ((), ("shadow",), ("canary",), ("promote",), ("rollback",), ("status",)):
        assert production.good(*words, "--help").startswith("usage: deploy.py")
    for share in ("0", "100", "-3", "x"):
        assert production.verb("canary", share).returncode == 2
