"""The workflow `release`, run by a local runner: what is tested is tagged, what fails is not."""

import re
from pathlib import Path

import pytest
from actions import ADDRESS, GitHub, Run
from helpers import ROOT, commit, git, snapshot
from images import Docker
from project import Project

NOTES = "- **Questions**: one more.\n"


@pytest.fixture
def github(tmp_path: Path) -> GitHub:
    """Push the template to a repository; its tests are replaced by a look at one file."""
    folder, origin = tmp_path / "template", tmp_path / "origin.git"
    git("clone", "--quiet", "--no-tags", ROOT, folder, cwd=tmp_path)
    snapshot(folder)
    (folder / ".ci/run").write_text("#!/bin/sh\nexec test -e copier.yml\n")
    commit(folder, "before")
    git("clone", "--quiet", "--bare", folder, origin, cwd=tmp_path)
    git("remote", "set-url", "origin", origin, cwd=folder)
    git("remote", "add", "github", ADDRESS, cwd=folder)
    return GitHub(Project(folder, package=""), origin, tmp_path, Docker(tmp_path))


def release(github: GitHub, version: str) -> Run:
    """Push a version to main, and run the workflow."""
    manifest, log = (github.project.folder / name for name in ("pyproject.toml", "CHANGELOG.md"))
    manifest.write_text(re.sub('^version = ".*"', f'version = "{version}"', manifest.read_text(), flags=re.M))
    log.write_text(f"## {version} (2026-01-31)\n\n{NOTES}\n{log.read_text()}")
    github.push(version)
    return github.act("push", "release")


def test_release_is_tagged(github: GitHub) -> None:
    """The tag has its section of the changelog; a development version gets no tag."""
    run = release(github, "100.0.0.dev0")
    assert (run.jobs, github.tags()) == ({"tag": "success"}, {})
    run = release(github, "100.0.0")
    assert run.jobs == {"tag": "success"}, run.log
    assert github.tags() == {"v100.0.0": git("rev-parse", "main", cwd=github.origin).strip()}
    assert (github.folder / "notes").read_text() == NOTES


def test_failing_release_is_not_tagged(github: GitHub) -> None:
    """Neither an old version nor a template whose tests fail gets a tag."""
    run = release(github, "0.0.1")
    assert (run.failed, github.tags()) == ([("tag", "may it be one?")], {})
    (github.project.folder / "copier.yml").unlink()
    run = release(github, "100.0.0")
    assert (run.failed, github.tags()) == ([("tag", "test")], {})
