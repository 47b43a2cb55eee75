"""A fleet of twenty projects is updated; the command is killed and repeated."""

import time

import pytest
from helpers import git
from project import Done
from test_fleet import (
    BRANCH,
    CONFLICTS,
    CURRENT,
    DIRTY,
    FAILS,
    FOREIGN,
    NEWEST,
    PUSHED,
    Fleet,
    fleet,
    results,
)

__all__ = ["fleet"]  # a fixture


@pytest.fixture(scope="module")
def updated(fleet: Fleet) -> Done:
    """Update the fleet; kill the command on the way, and run it again."""
    process = fleet.start("update", "--trust", "--jobs=2", fleet.tests)
    while not fleet.pushed():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.kill()
    finished = {number: count for number, count in fleet.tested().items() if number in fleet.pushed()}
    repeated = fleet.run("update", "--trust", fleet.tests)
    assert finished.items() <= fleet.tested().items()  # what was done is not done again
    return repeated


@pytest.mark.proof("A fleet update of twenty projects survives a kill; a broken project stops no other")
def test_fleet_updates_or_reports_each_project(fleet: Fleet, updated: Done) -> None:
    """One that is broken stops no other, and the command says by its exit code that there is one."""
    assert updated.returncode == 1
    by_number = results(updated.stdout)
    assert list(by_number) == [*range(20)]
    assert {number for number in by_number if by_number[number].endswith(BRANCH)} == PUSHED == fleet.pushed()
    assert [by_number[number] for number in sorted(CURRENT)] == ["current", "current"]
    assert [by_number[number] for number in sorted(CONFLICTS)] == ["conflicts: .gitignore"] * 2
    assert by_number[FAILS] == f"sh {fleet.folder}/tests.sh: exit code 1"[:75]
    assert by_number[FOREIGN] == "fatal: repository 'project-17' does not exist"


def test_fleet_branch_contains_only_the_update(fleet: Fleet, updated: Done) -> None:
    """On top of what the team had; their folder, and what they were doing there, is left alone."""
    assert {*fleet.tested()} == PUSHED | {FAILS}
    for number in PUSHED:
        project = fleet[number]
        assert git("rev-parse", f"{BRANCH}~1", cwd=project) == git("rev-parse", "main", cwd=project)
        assert "\n\nrun here\n" in git("show", "--no-patch", "--format=%B", BRANCH, cwd=project)
        assert f"_commit: {NEWEST}" in git("show", f"{BRANCH}:.copier-answers.yml", cwd=project)
        changed = git("diff", "--name-only", "main", BRANCH, cwd=project).split()
        assert changed == [".copier-answers.yml", ".gitignore"]
        state = git("status", "--porcelain", cwd=project).split()
        assert state == (["M", "Makefile"] if number == DIRTY else [])
