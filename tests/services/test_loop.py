"""The loop closes: drift is seen, a model is trained on newer rows and deployed, and drift is gone.

All of it on real rows of the starter: a company that had few customers with fibre, and then gets many.
"""

import json
import os
import re
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from threading import Event
from urllib.request import Request, urlopen
from uuid import uuid4

import pytest
from actions import DEPLOYED, GitHub
from helpers import PATIENCE, until
from project import Project

CUSTOMERS = {
    "first": "customer_id <= 2000 AND (internet_service <> 'Fiber optic' OR customer_id % 5 = 0)",
    "new": "customer_id BETWEEN 2001 AND 6000",
    "newest": "customer_id > 6000",
}
A_REQUEST = 50  # rows
PAUSE = 0.05  # seconds between requests
WRITE = "import duckdb, sys; duckdb.sql(sys.argv[1]).write_parquet(sys.argv[2])"


@pytest.fixture
def live(fork: GitHub) -> Iterator[GitHub]:
    """Copy the repository, and end what it deploys."""
    yield fork
    fork.stop()


def query(source: Project, who: str) -> str:
    """SQL for the real rows of some customers."""
    return f"FROM '{source.folder}/data/raw/*.parquet' WHERE {CUSTOMERS[who]} ORDER BY customer_id"


def deliver(github: GitHub, source: Project, who: str) -> None:
    """Put customers where the project fetches its rows from."""
    (github.folder / "inbox").mkdir(exist_ok=True)
    source.script(WRITE, query(source, who), github.folder / f"inbox/{who}.parquet")


def train_by_hand(github: GitHub, source: Project) -> None:
    """Push the first model, as a person would."""
    project = github.project.using(source)
    params = project.folder / "params.yaml"
    project.replace("source: sample", f"source: {github.folder}/inbox/*.parquet", params)
    # Where the world changes, a model that fits answers otherwise.
    project.replace("minutes: 1", "minutes: 1\n  max_score_shift: 0.5\n  min_agreement: 0.5", params)
    project.make("pipeline")
    project.good("dvc", "push")
    github.push("first model")


def requests(source: Project, who: str) -> list[bytes]:
    """What is asked about some customers."""
    names = source.json("models/bundle/example.json")
    rows = [{name: row[name] for name in names} for row in source.rows(query(source, who))]
    return [json.dumps(rows[at : at + A_REQUEST]).encode() for at in range(0, len(rows), A_REQUEST)]


def ask(github: GitHub, bodies: list[bytes]) -> set[str]:
    """Ask production, which must answer; give the versions that did."""
    address, versions = f"http://127.0.0.1:{github.variables['PORT']}/predict", set()
    for body in bodies:
        client = {"X-Client-Id": uuid4().hex}
        with urlopen(Request(address, body, client), timeout=PATIENCE) as answer:
            versions.add(json.load(answer)["model_version"])
    return versions


@contextmanager
def asking(github: GitHub, bodies: list[bytes]) -> Generator[None]:
    """Ask production over and over, until the block ends."""
    stop, again = Event(), cycle(bodies)

    def run() -> None:
        while not stop.wait(PAUSE):
            ask(github, [next(again)])

    with ThreadPoolExecutor() as pool:
        requests = pool.submit(run)
        try:
            yield
        finally:
            stop.set()
        requests.result()


def ask_and_monitor(github: GitHub, source: Project, who: str) -> tuple[str, list[tuple[str, str]]]:
    """Ask about some customers, and let the answers be judged; give the version that did, and what failed."""
    bodies, events = requests(source, who), Path(os.environ["STATE"], "events")
    (version,) = ask(github, bodies)
    query = f"FROM '{events}/*/*.parquet' SELECT DISTINCT id WHERE model_version = '{version}'"
    until(lambda: any(events.glob("*/*.parquet")) and len(source.rows(query)) >= len(bodies))
    run = github.act("schedule", "monitor")
    assert list(run.jobs) == ["model", "monitor"], run.log
    return version, run.failed


@pytest.mark.proof(
    "The loop closes: drift, alert, issue, training, gate, merge, rollout, promotion, no drift"
)
def test_loop_closes(live: GitHub, project: Project) -> None:
    """Alert → issue and training → gate → pull request → merge → deployment → ok, and the issue is closed."""
    assert live.act("schedule", "monitor").jobs == {"model": "success"}  # nothing is in production
    deliver(live, project, "first")
    train_by_hand(live, project)
    run = live.act("push", "deploy")
    assert run.jobs == dict.fromkeys(DEPLOYED, "success"), run.log

    old, failed = ask_and_monitor(live, project, "new")
    assert failed == [("monitor", "make monitor")]
    findings = live.issue.partition("\n## Findings\n")[2].partition("\n## ")[0]
    alerts = set(re.findall(r"^\| ALERT +\| (\S+) +\| (\S+) +\|", findings, re.M))
    assert alerts == {("drift", "internet_service"), ("drift", "monthly_charges")}
    assert live.issue.startswith("create\n--label\nmonitoring\n")
    assert "@your-org/ml-team for drift: please look. Reported by https://github.com/" in live.issue
    assert (live.artifacts / "monitoring/monitoring.html").exists()

    deliver(live, project, "new")
    run = live.act("repository_dispatch", "train", payload=live.dispatch)
    assert run.jobs == {"train": "success"}, run.log
    assert "Why: drift, internet_service; drift, monthly_charges\n" in live.pull_request
    assert json.loads(live.show("reports/gate.json", "model/main"))["verdict"] == "promote"
    live.merge("model/main")
    with asking(live, requests(project, "newest")):
        run = live.act("push", "deploy")
    assert run.jobs == dict.fromkeys(DEPLOYED, "success"), run.log
    assert all(re.search(f"### {step}: promote", run.log) for step in ("shadow .*", "canary 50"))

    new, failed = ask_and_monitor(live, project, "newest")
    assert (new != old, failed) == (True, [])
    assert live.issue.startswith("close\n7\n--comment\nProduction is ok: ")
