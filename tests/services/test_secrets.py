"""`make secrets` finds what was ever committed, from wherever it is run, or fails."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import Renderer, commit, git
from images import Docker
from project import Done
from test_workflows import SECRET


def secrets(docker: Docker, folder: Path) -> Done:
    """Run the target."""
    return subprocess.run(
        ("make", "secrets"), cwd=folder, env=docker.environment(), capture_output=True, text=True, check=False
    )


@pytest.fixture
def leaky(render: Renderer, tmp_path: Path) -> Path:
    """Commit a secret to a project, and delete it again."""
    project = render.into(tmp_path / "a project")
    (project / "key.py").write_text(SECRET)
    commit(project, "with it")
    (project / "key.py").unlink()
    commit(project, "without it")
    return project


def worktree(project: Path) -> Path:
    """Check the project out a second time."""
    git("worktree", "add", "--quiet", "../second", cwd=project)
    return project.parent / "second"


def submodule(project: Path) -> Path:
    """Make the project a part of another repository."""
    whole = project.parent / "whole"
    whole.mkdir()
    git("init", "--quiet", cwd=whole)
    git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", project, "part", cwd=whole)
    return whole / "part"


def subfolder(project: Path) -> Path:
    """Move all of the project into a folder of its repository."""
    (project / "ml").mkdir()
    for path in project.iterdir():
        if path.name not in (".git", "ml"):
            path.rename(project / "ml" / path.name)
    commit(project, "move")
    return project / "ml"


@pytest.mark.parametrize("place", [lambda project: project, worktree, submodule, subfolder])
def test_secrets_are_found_wherever_git_keeps_the_history(
    docker: Docker, leaky: Path, place: Callable[[Path], Path]
) -> None:
    """Also where git keeps the history in another folder."""
    result = secrets(docker, place(leaky))
    assert "leaks found: 1" in result.stdout
    assert result.returncode


def test_project_without_secrets_passes(docker: Docker, render: Renderer, tmp_path: Path) -> None:
    """So does a worktree of it."""
    project = render.into(tmp_path / "project")
    commit(project, "start")
    for folder in (project, worktree(project)):
        result = secrets(docker, folder)
        assert result.returncode == 0, result.stdout + result.stderr
        assert "no leaks found" in result.stdout


def nothing(project: Path) -> Path:
    """Commit nothing at all."""
    git("update-ref", "-d", "HEAD", cwd=project)
    return project


def shallow(project: Path) -> Path:
    """Clone the last commit alone."""
    git("clone", "--quiet", "--depth=1", f"file://{project}", project.parent / "shallow", cwd=project)
    return project.parent / "shallow"


def broken(project: Path) -> Path:
    """Lose an object of the history."""
    name = git("rev-parse", "HEAD~1:key.py", cwd=project).strip()
    (project / ".git/objects" / name[:2] / name[2:]).unlink()
    return project


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (nothing, "could not read the history"),
        (shallow, "This clone is shallow"),
        (broken, "could not read the history"),
    ],
)
def test_unreadable_history_fails(
    docker: Docker, leaky: Path, harm: Callable[[Path], Path], message: str
) -> None:
    """A check that read nothing must not pass."""
    result = secrets(docker, harm(leaky))
    assert result.returncode
    assert message in result.stdout + result.stderr
