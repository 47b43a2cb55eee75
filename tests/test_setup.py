"""`make setup` on machines unlike ours, and with settings of their owners."""

import shutil
from pathlib import Path

import pytest
from helpers import Renderer, files, git
from project import Project, rendered


@pytest.fixture(scope="module")
def fresh(render: Renderer, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Set a project up where make runs many jobs at once, and where umask hides files from others."""
    project = rendered(render, tmp_path_factory.mktemp("fresh") / "project", observability="prometheus")
    project.good("chmod", "--recursive", "go=", ".")
    project.make("--jobs=8", "setup", "check")
    return project


def test_mounted_files_are_readable_by_container_users(fresh: Project) -> None:
    """Prometheus and Grafana run as users of their own."""
    folder = fresh.folder / "deploy/monitoring"
    assert {path.stat().st_mode & 0o444 for path in files(folder)} == {0o444}
    assert {path.stat().st_mode & 0o555 for path in (folder, *folder.rglob("*/"))} == {0o555}
    assert git("status", "--porcelain", "--untracked-files=no", cwd=fresh.folder) == ""


def test_setup_warns_when_hooks_are_elsewhere(fresh: Project) -> None:
    """Many companies set core.hooksPath; all else is set up, and what is missing is said."""
    assert (fresh.folder / ".git/hooks/pre-commit").exists()
    git("config", "core.hooksPath", "elsewhere", cwd=fresh.folder)
    output = fresh.make("setup")
    assert "warning: no hook is installed" in output
    assert "make check" in output
    git("config", "core.hooksPath", "", cwd=fresh.folder)  # pre-commit takes it for not set
    assert "pre-commit installed" in fresh.make("setup")


@pytest.mark.parametrize("tracked", [(), ("dvc.lock",)], ids=["nothing", "what DVC adds"])
def test_check_fails_without_tracked_files(bare: Project, tracked: tuple[str, ...]) -> None:
    """Where git does not track the project's files, each hook would be skipped, and all would pass."""
    git("init", "--quiet", cwd=bare.folder)
    for name in tracked:
        (bare.folder / name).touch()
        git("add", name, cwd=bare.folder)
    result = bare.run("make", "check")
    assert result.returncode == 2
    assert "git add --all" in result.stderr


@pytest.fixture
def bare(render: Renderer, tmp_path: Path) -> Project:
    """Render a project; see `fails`."""
    return Project(render.into(tmp_path / "project"), "")


def fails(bare: Project, *tools: str, python3: Path | None = None) -> str:
    """Run `make setup` where PATH has these tools alone; it must fail. Give what it said."""
    path = bare.folder.parent / "bin"
    path.mkdir()
    for tool in ("make", "sh", "rm", *tools):
        (path / tool).symlink_to(str(shutil.which(tool)))
    if python3:
        (path / "python3").symlink_to(python3)
    result = bare.run("env", f"PATH={path}", "make", "setup")
    assert result.returncode == 2
    assert not (bare.folder / ".uv").exists()
    return result.stderr


def test_setup_explains_missing_python(bare: Project) -> None:
    """Neither uv nor Python is there."""
    assert "Python is needed as python3, or uv on PATH." in fails(bare, "git")


def test_setup_explains_missing_venv(bare: Project) -> None:
    """Debian's Python has no venv of its own; this one has, but cannot make any."""
    program = bare.folder.parent / "program"
    program.write_text("#!/bin/sh\ntest $1 = --version\n")
    program.chmod(0o755)
    assert "apt-get install python3-venv" in fails(bare, "git", python3=program)


def test_setup_explains_missing_git_first(bare: Project) -> None:
    """Before the environment is made."""
    assert "git is needed." in fails(bare, "uv")
    assert not (bare.folder / ".venv").exists()
