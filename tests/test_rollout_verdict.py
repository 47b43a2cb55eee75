"""What a challenger answered is compared with the champion's answers: what is wrong with it is said."""

from pathlib import Path

import pytest
from project import Project

# Rows of the test split, answered by both; `fault` is what the challenger does otherwise.
ANSWER = """
import sys, time
from pathlib import Path
from {package}.contract.tables import read_features
from {package}.serving.events import Answered, Events
from {package}.serving.model import Model
from {package}.stage import TEST

mode, fault, folder, rows = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
model = Model(Path("models/bundle"))
features = read_features(TEST, model.contract).to_numpy()[:rows]
outputs, began = model.run(features), time.time() - 60
place = model.contract.feature_names.index("internet_service")
events = Events(model, folder)
for index, row in enumerate(features):
    came, given, answer = began + index / 50, features[index : index + 1], outputs[index : index + 1]
    ours = mode == "shadow" or index % 3 == 0
    if mode == "shadow" or not ours:
        events.record(Answered(str(index), "champion", came, 0.001, given, answer))
    if ours and not (fault == "errs" and index % 20 == 0):
        if fault == "shifted" and row[place] == 1:
            answer = answer + [[-0.2, 0.2]]
        seconds = 0.05 if fault == "slow" else 0.001
        events.record(Answered(str(index), "challenger", came, seconds, given, answer.astype("float32")))
events.start()
events.close()
"""
BLOCKED = {
    "errs": "errors, rows: 4.",
    "slow": "latency, one request: median 50.00 ms",
    "shifted": "shift, Yes, internet_service = DSL: +0.2",
}


def answered(project: Project, folder: Path, mode: str, fault: str = "none", rows: int = 2000) -> Path:
    """Write the events of a trial."""
    project.script(ANSWER.format(package=project.package), mode, fault, folder / "events", str(rows))
    return folder / "events"


@pytest.mark.parametrize("mode", ["shadow", "canary"])
def test_the_same_answers_are_no_objection(project: Project, tmp_path: Path, mode: str) -> None:
    """Then it may answer everybody; after a few rows, nobody knows."""
    if mode == "canary":
        project = project.copy(tmp_path / "project")
        with (project.folder / "params.yaml").open("a") as file:
            file.write("\nrollout: {min_rows: 400}\n")
    done = project.stage("validation.rollout", mode, answered(project, tmp_path, mode))
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "rollout: promote"), (
        done.stderr + done.stdout
    )
    done = project.stage("validation.rollout", mode, answered(project, tmp_path / "few", mode, rows=100))
    assert done.stdout.startswith("rollout: keep\n- rows, seen: ")


@pytest.mark.parametrize(
    ("mode", "fault"), [*(("shadow", fault) for fault in BLOCKED), ("canary", "slow"), ("canary", "shifted")]
)
def test_what_is_wrong_is_said(project: Project, tmp_path: Path, mode: str, fault: str) -> None:
    """It errs, is slow, or shifts the scores of one segment: each stops it, by its own reason."""
    said = project.refusal("validation.rollout", mode, answered(project, tmp_path, mode, fault))
    assert said.startswith(f"the {mode} is blocked\n- ")
    assert BLOCKED[fault] in said
    if fault == "shifted":
        assert "Fiber optic" not in said


def test_without_a_challenger_there_is_nothing_to_judge(project: Project, tmp_path: Path) -> None:
    """Neither without any event."""
    assert "there are no events" in project.refusal("validation.rollout", "shadow", tmp_path)
    answered(project, tmp_path, "shadow", rows=0)
    assert "there are no events" in project.refusal("validation.rollout", "shadow", tmp_path / "events")
