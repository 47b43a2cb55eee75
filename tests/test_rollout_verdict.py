"""What a challenger answered is compared with the champion's answers: what is wrong with it is said."""

from pathlib import Path

import pytest
from project import Project

# Requests of three rows of the test split: a shadow is asked all, a canary each third. The columns are those
# that servers write.
ANSWER = """
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
import duckdb
import numpy as np
import pandas as pd
from {package}.contract.tables import read_features
from {package}.model.bundle import Model
from {package}.core.paths import TEST

mode, fault, folder, requests = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
model = Model(Path("models/bundle"))
names = model.contract.feature_names
features = np.resize(read_features(TEST, model.contract).to_numpy(), (3 * requests, len(names)))
number, row = np.divmod(np.arange(len(features)), 3)
began = datetime.now(UTC).replace(tzinfo=None) - timedelta(minutes=10)
champion = pd.DataFrame(
    dict(
        id=number.astype(str), row=row, time=began + number * timedelta(seconds=0.1), seconds=0.001,
        status=200, model_version="first", role="champion",
    )
)
champion[[f"feature:{{name}}" for name in names]] = features
columns = [f"output:{{label}}" for label in model.contract.labels]
champion[columns] = model.run(features).astype(float)
challenger = champion.assign(model_version="second", role="challenger")
if mode == "canary":
    challenger, champion = challenger[number % 3 == 0], champion[number % 3 > 0]
some = challenger.id.astype(int) % 20 == 0
if fault == "fails":
    challenger.loc[some, "status"] = 500
if fault == "refuses":
    challenger.loc[some, "status"] = 422
if fault == "slow":
    challenger["seconds"] = 0.05
if fault == "at times slow":
    challenger.loc[some, "seconds"] = 0.05
if fault == "shifted":
    challenger.loc[challenger["feature:internet_service"] == 1, columns] += [-0.2, 0.2]
if fault == "dies":
    dead = challenger[challenger.time > challenger.time.median()]
    challenger = challenger.drop(dead.index)
    if mode == "canary":
        champion = pd.concat([champion, dead.assign(model_version="first", role="fallback")])
for name, events in (("champion", champion), ("challenger", challenger)):
    target = folder / f"{{began:%Y-%m-%d}}/{{name}}.parquet"
    target.parent.mkdir(parents=True, exist_ok=True)
    duckdb.from_df(events).write_parquet(str(target))
"""
BLOCKED = {
    "fails": "errors, failed: 5.",
    "refuses": "errors, refused: 5.",
    "slow": "latency, median: 100.0% of the requests take over 10.00 ms",
    "at times slow": "latency, slowest hundredth: 5.",
    "shifted": "shift, Yes, internet_service = DSL: +0.2",
    "dies": "errors, failed: 50.0",
}


def answered(project: Project, folder: Path, mode: str, fault: str = "none", requests: int = 3000) -> Path:
    """Write the events of a trial."""
    project.script(ANSWER.format(package=project.package), mode, fault, folder / "events", str(requests))
    return folder / "events"


@pytest.mark.parametrize("mode", ["shadow", "canary"])
def test_analysis_promotes_equal_predictions(project: Project, tmp_path: Path, mode: str) -> None:
    """Then it may answer everybody; after a few requests, or none, nobody knows."""
    result = project.stage("deployment.analysis", mode, answered(project, tmp_path, mode))
    assert (result.returncode, result.stdout.splitlines()[0]) == (0, "rollout: promote"), result.stderr
    for requests, compared in ((300, {"shadow": 300, "canary": 100}[mode]), (0, 0)):
        events = answered(project, tmp_path / str(requests), mode, requests=requests)
        result = project.stage("deployment.analysis", mode, events)
        assert result.stdout == f"rollout: keep\n- requests, seen: {compared} of 500 that are needed.\n"


@pytest.mark.parametrize(
    ("mode", "fault"),
    [
        *(("shadow", fault) for fault in ("fails", "slow", "shifted", "dies")),
        *(("canary", fault) for fault in ("refuses", "at times slow", "shifted", "dies")),
    ],
)
def test_analysis_blocks_each_fault_with_its_check(
    project: Project, tmp_path: Path, mode: str, fault: str
) -> None:
    """It fails, refuses, is slow, shifts the scores of one segment, or dies: each is the only reason."""
    error = project.refusal("deployment.analysis", mode, answered(project, tmp_path, mode, fault))
    assert error.startswith(f"the {mode} is blocked\n- ")
    assert BLOCKED[fault] in error
    rules = {line.split(",")[0] for line in error.splitlines() if line.startswith("- ")}
    assert rules == {f"- {BLOCKED[fault].split(',')[0]}"}
    assert "Fiber optic" not in error


def test_analysis_clusters_rows_by_request(project: Project) -> None:
    """A thousand rows that are alike by tens have the error of a hundred."""
    code = f"""
        import numpy as np, pandas as pd
        from {project.package}.deployment.analysis import mean
        values = np.random.default_rng(0).normal(size=100).repeat(10)
        ids = pd.Index(np.arange(100).repeat(10), name="id")
        print(mean(pd.Series(values, ids))[1], values[::10].std(ddof=1) / 10)
    """
    estimated, expected = map(float, project.script(code).split())
    assert estimated == pytest.approx(expected)


def test_analysis_rejects_two_challengers(project: Project, tmp_path: Path) -> None:
    """Who looks back too far is told so."""
    events = answered(project, tmp_path, "shadow", requests=20)
    earlier = "SELECT * REPLACE ('third' AS model_version, 'other-' || id AS id) FROM raw"
    project.edit(earlier, str(next(events.glob("*/challenger.parquet"))))
    (file,) = events.glob("*/challenger.parquet")
    file.rename(file.with_name("earlier.parquet"))
    answered(project, tmp_path, "shadow", requests=20)
    error = project.refusal("deployment.analysis", "shadow", events)
    assert "second, third were challengers" in error.replace("third, second", "second, third")
