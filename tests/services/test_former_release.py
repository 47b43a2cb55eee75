"""A server and a champion of release 0.2.0, taken over by the updated project."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from helpers import Renderer, commit, git
from images import Docker
from project import Project, quiet_dvc
from releases import RELEASES, conflicts, start, update
from serving import free_port, load
from targets import Compose, statuses, version

FORMER = "deploy/compose/deploy.py"  # the command of 0.2 and 0.3
CHAMPION, CHALLENGER, TAG = "former", "updated", "production/2026-01-31-1"
SETTINGS = {
    "rollout": {"steps": [50], "min_requests": 80, "minutes": 5, "event_delay_seconds": 10},
    "gate": {"promotion_test": "non_inferiority", "max_latency_ms": 100},
}


@pytest.fixture
def former(template: Path, tmp_path: Path) -> Iterator[Project]:
    """Train a model with release 0.2.0, and tag it as the one in production."""
    assert "v0.2.0" in RELEASES
    folder = start(Renderer(template, tmp_path / "renders", "v0.2.0"), tmp_path / "project")
    with quiet_dvc(tmp_path / "dvc"):
        project = Project(folder, "customer_churn")
        project.make("setup", "pipeline")
        commit(folder, "first model")
        git("tag", TAG, cwd=folder)
        yield project


@pytest.fixture
def production(docker: Docker, former: Project, tmp_path: Path) -> Iterator[Compose]:
    """Deploy the model with its own release's command."""
    docker.good("build", "--tag", CHAMPION, former.folder)
    production = Compose(former, CHAMPION, CHALLENGER, free_port(), tmp_path / "state", docker=docker)
    result = production.run(production.python, FORMER, "promote", CHAMPION)
    assert result.stdout == f"deploy: {CHAMPION} answers\n", result.stderr
    yield production
    production.stop()


@pytest.mark.proof("A server and a champion of 0.2.0 are taken over without a lost request, also backwards")
def test_updated_project_takes_over_server_and_champion(former: Project, production: Compose) -> None:
    """The gate compares with the champion, the rollout replaces it, the rollback serves its image again."""
    champion = version(former)
    with load(production.ask) as responses:
        update(former.folder)
        assert not conflicts(former.folder)
        settings = yaml.safe_load((former.folder / "params.yaml").read_text())
        settings["train"]["estimator"]["max_iter"] = 90  # otherwise it is the same model, byte for byte
        former.params(yaml.safe_dump(settings | SETTINGS))
        former.make("setup", "pipeline")
        report = former.json("reports/gate.json")
        assert report["production"] == TAG
        comparisons = [check for check in report["checks"] if check["check"] == "production"]
        assert {check["status"] for check in comparisons} <= {"pass", "warn"}, comparisons
        assert any("estimate" in check for check in comparisons)
        commit(former.folder, "update")
        production.docker.good("build", "--tag", CHALLENGER, former.folder)
        assert production.status() == [f"active: {CHAMPION}", "previous: none"]
        result = production.run(*production.rollout, CHALLENGER)
        assert result.returncode == 0, result.stdout + result.stderr
        assert production.status() == [f"active: {CHALLENGER}", f"previous: {CHAMPION}"]
        challenger = production.ask().version
        former_command = production.run(production.python, FORMER, "rollback")
        assert former_command.stdout == f"deploy: {CHAMPION} is active again\n"
        assert "is now deploy/rollout.py" in former_command.stderr
        assert production.ask().version == champion
    assert statuses(responses) == {(200, champion), (200, challenger)}
    monitored = former.run("make", "monitor", f"EVENTS={production.state / 'events'}")
    assert f"alert for model {challenger}" in monitored.stderr  # drift, because all requests have one row
