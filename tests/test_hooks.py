"""What hooks/moved.py does with a file that the template renamed, and with one that it dropped."""

import shutil
import subprocess
import sys
from pathlib import Path

import copier
import pytest
from copier.errors import TaskError
from helpers import ROOT, commit, git
from releases import conflicts, lines, status, update

TEXT = "one\ntwo\nthree\nfour\nfive\n"
CONFIG = """\
_subdirectory: template
_migrations:
  - version: 2.0.0
    command:
      - "{{ _copier_python }}"
      - "{{ _copier_conf.src_path }}/hooks/moved.py"
      - "--answers={{ _copier_conf.answers_file }}"
      - old=new
      - dropped
"""
ANSWERS = "{{ _copier_conf.answers_file }}.jinja"
UPDATED = {" M .copier-answers.yml", " D old", " D dropped", "?? new"}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Release two files, then one of them renamed, with a line changed, and none of the other."""
    folder = tmp_path_factory.mktemp("template")
    shutil.copytree(ROOT / "hooks", folder / "hooks", ignore=shutil.ignore_patterns("__pycache__"))
    inside = folder / "template"
    inside.mkdir()
    (folder / "copier.yml").write_text(CONFIG)
    (inside / ANSWERS).write_text("{{ _copier_answers | to_nice_yaml }}")
    (inside / "old").write_text(TEXT)
    (inside / "dropped").write_text(TEXT)
    commit(folder, "first")
    git("tag", "v1.0.0", cwd=folder)
    (inside / "old").unlink()
    (inside / "dropped").unlink()
    (inside / "new").write_text(TEXT.replace("two", "2"))
    commit(folder, "second")
    git("tag", "v2.0.0", cwd=folder)
    return folder


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    """Start a project from the first release."""
    folder = tmp_path / "project"
    copier.run_copy(str(template), folder, vcs_ref="v1.0.0", defaults=True, quiet=True)
    return folder


def updated(project: Path) -> None:
    """Commit what was edited, and update."""
    commit(project, "mine")
    update(project)


def again(template: Path, project: Path) -> None:
    """Run the hook once more; nothing may change."""
    before = status(project), lines(project)
    hook = (sys.executable, template / "hooks/moved.py", "old=new", "dropped")
    subprocess.run(hook, cwd=project, check=True)
    assert before == (status(project), lines(project))


def test_moved_takes_unedited_files_from_the_template(template: Path, project: Path) -> None:
    """As if there were no hook."""
    updated(project)
    assert status(project) == UPDATED
    assert (project / "new").read_text() == TEXT.replace("two", "2")
    again(template, project)


def test_moved_carries_edits_to_the_new_path(template: Path, project: Path) -> None:
    """Merged with the template's; and nothing is done once the update is committed."""
    (project / "old").write_text(TEXT.replace("five", "mine"))
    updated(project)
    assert status(project) == UPDATED
    assert (project / "new").read_text() == TEXT.replace("two", "2").replace("five", "mine")
    again(template, project)
    commit(project, "update")
    again(template, project)


def test_moved_marks_conflicts_in_the_index(template: Path, project: Path) -> None:
    """Git refuses to commit it, and knows all three versions."""
    (project / "old").write_text(TEXT.replace("two", "mine"))
    updated(project)
    assert conflicts(project) == {"UU new"}
    assert not (project / "old").exists()
    text = (project / "new").read_text()
    assert "<<<<<<< before updating\nmine\n=======\n2\n>>>>>>> after updating\n" in text
    for stage, line in enumerate(("two", "mine", "2"), start=1):
        assert git("show", f":{stage}:./new", cwd=project) == TEXT.replace("two", line)
    again(template, project)


def test_moved_works_in_a_folder_of_a_repository(project: Path) -> None:
    """Git names files from its top folder, Copier from the project's."""
    (project / "old").write_text(TEXT.replace("two", "mine"))
    commit(project.parent, "mine")
    update(project)
    assert conflicts(project) == {"UU project/new"}


def test_moved_keeps_deleted_files_deleted(template: Path, project: Path) -> None:
    """Under its new name too."""
    (project / "old").unlink()
    updated(project)
    assert not (project / "new").exists()
    again(template, project)


def test_moved_keeps_edited_files_that_the_template_drops(template: Path, project: Path) -> None:
    """As the project's own, which later updates leave alone."""
    (project / "dropped").write_text(TEXT + "mine\n")
    updated(project)
    assert status(project) == UPDATED - {" D dropped"}
    assert (project / "dropped").read_text() == TEXT + "mine\n"
    again(template, project)


def test_moved_leaves_occupied_paths_to_copier(template: Path, project: Path) -> None:
    """The project's file of that name is in a conflict, and the changed one stays beside it."""
    (project / "new").write_text("mine alone\n")
    (project / "old").write_text(TEXT.replace("five", "mine"))
    updated(project)
    assert conflicts(project) == {"UU new"}
    assert "mine alone\n" in (project / "new").read_text()
    assert (project / "old").read_text() == TEXT.replace("five", "mine")
    again(template, project)


def test_moved_restores_the_project_on_failure(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The project is as it was, the exit code says so, and the message how to go on."""
    (project / "old").write_bytes(b"\0 nothing that git merges")
    commit(project, "mine")
    before = git("ls-files", "--stage", cwd=project)
    with pytest.raises(TaskError):
        update(project)
    assert not status(project)
    assert git("ls-files", "--stage", cwd=project) == before
    message = capfd.readouterr().err
    assert "old and new cannot be merged" in message
    assert f"Only the project's folder, {project}, was restored. It is as it was before" in message


def test_moved_restores_the_project_after_a_conflict(template: Path, project: Path) -> None:
    """The conflict is in a file that the last commit does not have, under its new name."""
    (project / "old").write_text(TEXT.replace("two", "mine"))
    updated(project)
    assert conflicts(project) == {"UU new"}
    hook = (sys.executable, template / "hooks/moved.py", "--package=any", "--moves=missing.yaml", "old=new")
    assert subprocess.run(hook, cwd=project, check=False).returncode == 1
    assert not status(project)


def test_moved_failure_touches_nothing_outside_the_project(project: Path) -> None:
    """Copier starts although others have not committed their work there."""
    repository = project.parent
    (project / "old").write_bytes(b"\0 nothing that git merges")
    (repository / "other").mkdir()
    for name in ("changed", "staged"):
        (repository / "other" / name).write_text("one\n")
    commit(repository, "mine")
    for name in ("changed", "staged", "new"):
        (repository / "other" / name).write_text("two hours of work\n")
    git("add", "other/staged", cwd=repository)
    before = status(repository), lines(repository), git("ls-files", "--stage", cwd=repository)
    with pytest.raises(TaskError):
        update(project)
    assert before == (status(repository), lines(repository), git("ls-files", "--stage", cwd=repository))


def test_moved_finds_another_answers_file(project: Path) -> None:
    """As in a folder that is made from two templates."""
    (project / ".copier-answers.yml").rename(project / "ml.yml")
    (project / "old").write_text(TEXT.replace("five", "mine"))
    commit(project, "mine")
    update(project, answers_file="ml.yml")
    assert status(project) == UPDATED - {" M .copier-answers.yml"} | {" M ml.yml"}
    assert (project / "new").read_text() == TEXT.replace("two", "2").replace("five", "mine")


def test_moved_names_a_missing_answers_file(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """By a migration that names none, where they have another file."""
    (project / ".copier-answers.yml").rename(project / "ml.yml")
    commit(project, "mine")
    hook = (sys.executable, ROOT / "hooks/moved.py", "old=new")
    assert subprocess.run(hook, cwd=project, check=False).returncode == 1
    assert ".copier-answers.yml, which names the template, is not committed" in capfd.readouterr().err


def test_moved_failure_keeps_files_hidden_from_git(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Copier starts beside them, for it does not see them."""
    (project / "old").write_bytes(b"\0mine")
    commit(project, "mine")
    git("config", "status.showUntrackedFiles", "no", cwd=project)
    (project / "notes").write_text("mine\n")
    with pytest.raises(TaskError):
        update(project)
    assert "delete what `git status -unormal .` shows as new" in capfd.readouterr().err
    assert (project / "notes").read_text() == "mine\n"
    assert (project / "old").read_bytes() == b"\0mine"
