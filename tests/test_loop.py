"""The loop closes: drift is seen, a model is trained on newer rows and deployed, and drift is gone.

All of it on real rows of the starter: a company that had few customers with fibre, and then gets many.
"""

import json
import random
import re
import shutil
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from uuid import uuid4

import pytest
from actions import DEPLOYED, GitHub
from project import Project
from serving import PATIENCE, load

FEW = "customer_id <= 2000 AND (internet_service <> 'Fiber optic' OR customer_id % 5 = 0)"
MANY = "customer_id BETWEEN 2001 AND 6000"
LATER = "customer_id > 6000"
A_REQUEST = 50  # rows
WRITTEN = 6  # seconds after which an answer is an event


@pytest.fixture
def live(fork: GitHub) -> Iterator[GitHub]:
    """Copy the repository, and end what it deploys."""
    yield fork
    fork.stop()


def deliver(github: GitHub, source: Project, population: str) -> None:
    """Put real rows where the project fetches its own from."""
    (github.folder / "inbox").mkdir(exist_ok=True)
    file = github.folder / f"inbox/{len(list(github.folder.glob('inbox/*')))}.parquet"
    shutil.copy2(source.folder / "data/raw.parquet", file)
    source.edit(f"FROM raw WHERE {population}", str(file))


def train_first(github: GitHub, source: Project) -> None:
    """Push a model of the first population, as a person would who has no production yet."""
    project = github.project.using(source)
    deliver(github, source, FEW)
    params = project.folder / "params.yaml"
    project.replace("source: sample", f"source: {github.folder}/inbox/*.parquet", params)
    # Where the world changes, a model that fits answers otherwise.
    project.replace("minutes: 1", "minutes: 1\n  max_shift: 0.5\n  min_agreement: 0.5", params)
    project.make("pipeline")
    project.good("dvc", "push")
    github.push("a model of the first customers")


def customers(source: Project, population: str) -> list[bytes]:
    """Requests for the answers to real rows of a population."""
    names = source.json("models/bundle/example.json")
    found = source.rows(f"FROM 'data/raw.parquet' WHERE {population} ORDER BY customer_id")
    rows = [{name: row[name] for name in names} for row in found]
    return [json.dumps(rows[at : at + A_REQUEST]).encode() for at in range(0, len(rows), A_REQUEST)]


def ask(github: GitHub, requests: list[bytes]) -> set[str]:
    """Ask production; give the versions that answered."""
    versions = set()
    for body in requests:
        connection = HTTPConnection("127.0.0.1", int(github.variables["PORT"]), timeout=PATIENCE)
        connection.request("POST", "/predict", body, {"X-Client-Id": uuid4().hex})
        answer = connection.getresponse()
        assert answer.status == 200
        versions.add(json.loads(answer.read())["model_version"])
        connection.close()
    return versions


def accused(issue: str) -> set[str]:
    """Columns that the issue is about."""
    return set(re.findall(r"^- ALERT drift, (\w+):", issue, re.M))


def test_the_loop_closes(live: GitHub, project: Project) -> None:
    """Alert → issue and training → gate → pull request → merge → deployment → ok, and the issue is closed."""
    assert live.act("schedule", "monitor").jobs == {"model": "success"}  # nothing is in production
    train_first(live, project)
    run = live.act("push", "deploy")
    assert run.jobs == dict.fromkeys(DEPLOYED, "success"), run.said

    (old,) = ask(live, customers(project, MANY))
    time.sleep(WRITTEN)
    run = live.act("schedule", "monitor")
    ((job, step),) = run.failed
    assert (job, step.split(" EVENTS")[0]) == ("monitor", "make monitor"), run.said
    assert accused(live.issue) == {"internet_service", "monthly_charges"}
    assert live.issue.startswith("create\n--label\nmonitoring\n")
    assert "@your-org/ml-team for drift: please look. Seen in https://github.com/" in live.issue
    assert (live.artifacts / "monitoring/monitoring.html").exists()

    deliver(live, project, MANY)
    run = live.act("repository_dispatch", "train", payload=live.dispatch)
    assert run.jobs == {"train": "success"}, run.said
    assert "Why: drift, internet_service; " in live.pull_request
    assert json.loads(live.show("reports/gate.json", "model/main"))["verdict"] == "promote"
    live.merge("model/main")
    requests = customers(project, LATER)
    with load(lambda: ask(live, [random.choice(requests)])):  # noqa: S311
        run = live.act("push", "deploy")
    assert run.jobs == dict.fromkeys(DEPLOYED, "success"), run.said

    (new,) = ask(live, requests)
    time.sleep(WRITTEN)
    run = live.act("schedule", "monitor")
    assert run.jobs == {"model": "success", "monitor": "success"}, run.said
    assert new != old
    assert "# Monitoring: ok" in run.said
    assert live.issue.startswith("close\n7\n--comment\nProduction is ok: ")
