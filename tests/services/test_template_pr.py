"""The workflow `template-pr`, run by a local runner: from a new release to a pull request."""

import os
import subprocess
import sys
from pathlib import Path

import copier
import pytest
from actions import GitHub, Run
from helpers import answers, commit, git, migrate, require, snapshot
from images import Docker
from project import Done, Project

BRANCH = "template/1.1.0"
STEP = "gh auth setup-git && make template-pr"
NEWS = "## 1.1.0 (2030-01-31)\n\n- **`.gitignore`** names one more folder."


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Release the template twice; the second time with something to run in each project."""
    folder = snapshot(tmp_path_factory.mktemp("releases") / "template.git")
    changelog, managed = folder / "CHANGELOG.md", folder / "template/.gitignore.jinja"
    changelog.write_text("# Changelog\n\n## 1.0.0 (2030-01-01)\n\nThe first.\n")
    commit(folder, "first")
    git("tag", "v1.0.0", cwd=folder)
    changelog.write_text(changelog.read_text().replace("## 1.0.0", f"{NEWS}\n\n## 1.0.0"))
    managed.write_text(managed.read_text() + "next/\n")
    migrate(folder, "1.1.0")
    commit(folder, "second")
    git("tag", "v1.1.0", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def behind(template: Path, tmp_path_factory: pytest.TempPathFactory) -> GitHub:
    """Start a project from the first release, and push it. Containers are for others. Read-only."""
    require("make", "uv")
    folder = tmp_path_factory.mktemp("behind")
    origin, project = folder / "origin.git", folder / "project"
    copier.run_copy(f"file://{template}", project, vcs_ref="v1.0.0", defaults=True, quiet=True)
    old = Project(project, answers(project)["package_name"])
    old.good("uv", "lock", "--quiet")
    commit(project, "start")
    git("clone", "--quiet", "--bare", project, origin, cwd=folder)
    return GitHub(old, origin, folder, Docker(folder), {"TRUST_TEMPLATE": "yes"})


@pytest.fixture
def github(behind: GitHub, tmp_path: Path) -> GitHub:
    """Copy the repository, to be changed."""
    return behind.fork(tmp_path)


def propose(github: GitHub) -> Run:
    """Run the workflow, as each week."""
    return github.act("schedule", "template-pr")


def test_release_is_proposed_once(github: GitHub) -> None:
    """The pull request is tested and quotes the changelog; without another release there is no second one."""
    run = propose(github)
    assert run.jobs == {"template-pr": "success"}, run.log
    proposal = github.pull_request
    assert proposal.startswith(f"create\n--head\n{BRANCH}\n--base\nmain\n--title\nTemplate 1.1.0\n")
    assert proposal.endswith(f"\nrun here\n\n{NEWS}\n")
    assert "_commit: v1.1.0" in github.show(".copier-answers.yml", BRANCH)
    changed = git("diff", "--name-only", "main", BRANCH, cwd=github.origin).split()
    assert changed == [".copier-answers.yml", ".gitignore"]
    author = git("show", "--no-patch", "--format=%an", BRANCH, cwd=github.origin)
    assert author == "github-actions[bot]\n"
    (github.folder / "pull-request").unlink()
    assert f"template-pr: {BRANCH} is there already" in propose(github).log
    github.merge(BRANCH)
    run = propose(github)
    assert run.jobs == {"template-pr": "success"}, run.log
    assert "template-pr: nothing new" in run.log
    assert not (github.folder / "pull-request").exists()


@pytest.fixture
def conflicting(github: GitHub) -> GitHub:
    """Edit a line that the release changes, too."""
    with (github.project.folder / ".gitignore").open("a") as ignored:
        ignored.write("ours/\n")
    github.push("ours")
    return github


def test_conflict_makes_a_draft(conflicting: GitHub) -> None:
    """It lists the conflicts; the run fails, and so do the hooks on the branch."""
    run = propose(conflicting)
    assert run.failed == [("template-pr", STEP)], run.log
    proposal = conflicting.pull_request
    assert proposal.startswith(f"create\n--draft\n--head\n{BRANCH}\n")
    assert "\n## Conflicts: nothing was tested\n\n- .gitignore\n" in proposal
    assert proposal.endswith(f"\n{NEWS}\n")
    git("pull", "--quiet", "origin", BRANCH, cwd=conflicting.project.folder)
    marked = conflicting.project.folder / ".gitignore"
    assert "<<<<<<<" in marked.read_text()
    hook = (sys.executable, "-m", "pre_commit_hooks.check_merge_conflict", "--assume-in-merge", marked)
    assert subprocess.run(hook, check=False).returncode == 1


def test_failed_pull_request_is_opened_by_the_next_run(conflicting: GitHub) -> None:
    """GitHub may reject it until a setting is changed; the branch is pushed by then."""
    (conflicting.folder / "pull-request").mkdir()  # the stand-in cannot write there
    run = propose(conflicting)
    assert run.failed == [("template-pr", STEP)], run.log
    assert "gh pr create --draft" in run.log
    (conflicting.folder / "pull-request").rmdir()
    (conflicting.folder / "open").unlink(missing_ok=True)
    assert propose(conflicting).jobs == {"template-pr": "success"}
    assert "\n## Conflicts: nothing was tested\n\n- .gitignore\n" in conflicting.pull_request


def test_failing_checks_make_a_draft(github: GitHub) -> None:
    """It contains their output."""
    file = github.project.folder / "src" / github.project.package / "extra.py"
    file.write_text('COUNT: int = "one"\n')
    github.push("a wrong type")
    run = propose(github)
    assert run.failed == [("template-pr", STEP)], run.log
    proposal = github.pull_request
    assert proposal.startswith(f"create\n--draft\n--head\n{BRANCH}\n")
    assert "\n## Checks fail\n" in proposal
    assert "invalid-assignment" in proposal


def test_migration_runs_only_if_trusted(github: GitHub) -> None:
    """Without the variable TRUST_TEMPLATE the run fails and explains why."""
    github.variables.clear()
    run = propose(github)
    assert run.failed == [("template-pr", STEP)], run.log
    assert "potentially unsafe feature: migrations" in run.log
    assert git("branch", cwd=github.origin).split() == ["*", "main"]


def by_hand(github: GitHub, **changed: str) -> Done:
    """Run the command as a person, in a clone."""
    project = github.project
    environment = github.environment() | changed
    command = (project.python, "-m", f"{project.package}.automation.template_pr", "--trust")
    environment |= {"PYTHONPATH": str(project.folder / "src")}
    return subprocess.run(
        command, cwd=project.folder, env=environment, capture_output=True, text=True, check=False
    )


def test_repeated_command_completes_a_failed_run(conflicting: GitHub, project: Project) -> None:
    """Without gh, without a push, without a pull request: the checkout stays as it is."""
    clone = conflicting.project.using(project)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("AUTHOR", "Tester"), ("COMMITTER", "Tester")):
            patch.setenv(f"GIT_{name}_NAME", value)
            patch.setenv(f"GIT_{name}_EMAIL", "tester@example.com")
        before = git("rev-parse", "HEAD", cwd=clone.folder)
        folders = conflicting.environment()["PATH"].split(os.pathsep)
        path = os.pathsep.join(folder for folder in folders if not Path(folder, "gh").exists())
        result = by_hand(conflicting, PATH=path)
        assert "gh is not on PATH" in result.stderr, result.stderr
        hook = conflicting.origin / "hooks/pre-receive"
        hook.write_text("#!/bin/sh\necho not today >&2\nexit 1\n")
        hook.chmod(0o755)
        assert "not today" in by_hand(conflicting).stderr
        hook.unlink()
        assert git("status", "--porcelain", cwd=clone.folder) == ""
        assert f"{BRANCH} needs work by hand" in by_hand(conflicting).stderr
        assert conflicting.pull_request.startswith(f"create\n--draft\n--head\n{BRANCH}\n--base\nmain\n")
        for name in ("open", "pull-request"):
            (conflicting.folder / name).unlink()
        assert f"{BRANCH} is there already" in by_hand(conflicting).stdout
        assert conflicting.pull_request.startswith(f"create\n--draft\n--head\n{BRANCH}\n")
        assert git("rev-parse", "HEAD", cwd=clone.folder) == before
        assert git("branch", "--show-current", cwd=clone.folder) == "main\n"
        assert git("status", "--porcelain", cwd=clone.folder) == ""
