"""`make update` loses no line of a project's, whatever git is set to and whatever goes wrong on the way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import copier
import pytest
import yaml
from helpers import ROOT, commit, git
from project import Done
from releases import append, conflicts, status

NAMES = ("Dockerfile", "README.md", "conf.json", "src/pkg/data/load.py")
TEXT = "".join(f"line {number}\n" for number in range(30))
MINE = ("mine 5  ", "\tmine at the end", " \t with odd blanks")
CONFIG = """\
_subdirectory: template
_skip_if_exists: [/problem.py]
package_name: {type: str, default: pkg}
"""
FAILING, LOSING = "'echo half > README.md; exit 7'", "'echo half > README.md; touch x.rej'"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Release some files, then a new line in each, one file more, and at last a migration that fails."""
    folder = tmp_path_factory.mktemp("template")
    inside = folder / "template"
    append(folder / "copier.yml", CONFIG)
    append(inside / "{{ _copier_conf.answers_file }}.jinja", "{{ _copier_answers | to_nice_yaml }}")
    for name in NAMES:
        append(inside / name.replace("pkg", "{{ package_name }}"), TEXT)
    commit(folder, "first")
    git("tag", "v1.0.0", cwd=folder)
    for path in (inside / name.replace("pkg", "{{ package_name }}") for name in NAMES):
        path.write_text(TEXT.replace("line 20\n", "new 20\n"))
    append(inside / "settings.env", "NEW=1\n")
    commit(folder, "second")
    git("tag", "v2.0.0", cwd=folder)
    for version, migration in (("3.0.0", FAILING), ("4.0.0", LOSING)):
        (folder / "copier.yml").write_text(
            f"{CONFIG}_migrations: [{{version: {version}, command: {migration}}}]\n"
        )
        commit(folder, version)
        git("tag", f"v{version}", cwd=folder)
    return folder


def edit(project: Path) -> None:
    """Change lines of every file, one of them a line that the next release changes, and add a file."""
    for name in NAMES:
        path = project / name
        path.write_text(path.read_text().replace("line 5\n", f"{MINE[0]}\n").replace("line 8\n", ""))
        append(path, f"{MINE[1]}\n{MINE[2]}\n")
    path = project / "Dockerfile"
    path.write_text(path.read_text().replace("line 20\n", "mine 20\n"))
    append(project / "Größe.md", "mine\n")


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    """Start a project from the first release, and work on it."""
    folder = tmp_path / "project"
    copier.run_copy(str(template), folder, vcs_ref="v1.0.0", defaults=True, quiet=True)
    edit(folder)
    commit(folder, "mine")
    return folder


def make_update(project: Path, *options: str, release: str = "v2.0.0", **environment: str) -> Done:
    """Run what `make update` runs."""
    module = "{{ package_name }}.automation.update"
    command = (sys.executable, "-m", module, f"--vcs-ref={release}", "--quiet", *options)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "template/src")} | environment
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


def configured(folder: Path, *settings: str) -> dict[str, str]:
    """Give the environment of somebody who has these settings of git."""
    file = folder / "gitconfig"
    for setting in settings:
        git("config", "--file", file, *setting.split("=", 1), cwd=folder)
    return {"GIT_CONFIG_GLOBAL": str(file)}


def assert_merged(project: Path, result: Done) -> None:
    """The release is there, every edit too, and the one conflict is one in git's index."""
    assert result.returncode == 1, result.stdout + result.stderr
    assert result.stderr.endswith("Edit them, then `git add`:\nDockerfile\n\n")
    assert conflicts(project) == {"UU Dockerfile"}
    for name in NAMES:
        lines = (project / name).read_text().splitlines()
        assert {*MINE, "new 20"} <= {*lines}, name
        assert "line 8" not in lines
    assert "mine 20\n" in (project / "Dockerfile").read_text()
    assert not list(project.rglob("*.rej"))


SETTINGS = ("apply.whitespace=error", "core.quotePath=false", "status.showUntrackedFiles=no")


@pytest.mark.proof("An update is independent of the user's git settings")
@pytest.mark.parametrize("setting", SETTINGS)
def test_update_ignores_git_settings(project: Path, tmp_path: Path, setting: str) -> None:
    """With each of these, Copier loses edits: in silence, by half an update, or into a file nobody sees."""
    assert_merged(project, make_update(project, **configured(tmp_path, setting)))


def test_update_ignores_random_git_settings(project: Path, tmp_path: Path) -> None:
    """Each of these, too, makes Copier lose edits or stop; here all at once."""
    append(tmp_path / "attributes", "* binary\n")
    append(tmp_path / "ignored", "data/\n")
    append(tmp_path / "template/info/exclude", "data/\n")
    for name in ("post-checkout", "prepare-commit-msg"):
        append(tmp_path / "hooks" / name, "#!/bin/sh\nexit 1\n")
        (tmp_path / "hooks" / name).chmod(0o755)
    settings = (
        "apply.whitespace=fix",
        f"core.attributesFile={tmp_path / 'attributes'}",
        "core.autocrlf=true",
        "core.bigFileThreshold=1",
        f"core.excludesFile={tmp_path / 'ignored'}",
        "core.safecrlf=true",
        f"core.hooksPath={tmp_path / 'hooks'}",
        "diff.orderFile=/nowhere",
        f"init.templateDir={tmp_path / 'template'}",
    )
    result = make_update(project, **configured(tmp_path, *settings))
    assert_merged(project, result)


def test_update_keeps_git_settings_of_the_environment(project: Path, template: Path) -> None:
    """Such as another address for the template's; the merge's own settings come after them."""
    path = project / ".copier-answers.yml"
    path.write_text(path.read_text().replace(str(template), "git+https://gone.example/template.git"))
    commit(project, "address")
    own = {
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "apply.whitespace",
        "GIT_CONFIG_VALUE_0": "error",
        "GIT_CONFIG_KEY_1": f"url.file://{template}.insteadOf",
        "GIT_CONFIG_VALUE_1": "https://gone.example/template.git",
    }
    assert_merged(project, make_update(project, **own))


def test_update_inside_a_git_hook_updates_the_project(project: Path) -> None:
    """Git tells hooks where the repository is; Copier's own repositories are elsewhere."""
    before = git("rev-parse", "HEAD", cwd=project)
    own = {"GIT_DIR": str(project / ".git"), "GIT_INDEX_FILE": str(project / ".git/index")}
    assert_merged(project, make_update(project, **own))
    assert git("rev-parse", "HEAD", cwd=project) == before


def state(folder: Path) -> dict[str, bytes]:
    """Read all files, and what git has of them."""
    index = git("ls-files", "--stage", cwd=folder) + git("status", "--porcelain", cwd=folder)
    paths = (path for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts)
    return {"index": index.encode()} | {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.proof("An update that would lose a line, or fails, changes nothing")
def test_update_that_would_lose_lines_changes_nothing(project: Path) -> None:
    """Whatever the reason; here a migration overwrites a file and leaves a rejected part of a merge."""
    before = state(project)
    result = make_update(project, "--trust", release="v4.0.0")
    assert result.returncode == 1
    assert f"would lose these lines of yours:\nREADME.md: {MINE[1]}\n" in result.stderr
    assert "x.rej: not merged" in result.stderr
    assert state(project) == before


REWRITING = """\
import json, os, pathlib
path = pathlib.Path("README.md")
lines = path.read_text().splitlines()
with open(os.environ["UPDATE_REWRITTEN"], "a") as record:
    record.write(json.dumps([str(path), lines.pop()]) + "\\n")
path.write_text("\\n".join(lines[:-1] if "{more}" else lines) + "\\n")
"""


@pytest.mark.parametrize("more", ["", "yes"], ids=["what it says", "more than it says"])
def test_update_accepts_what_a_migration_says_that_it_rewrote(
    project: Path, template: Path, tmp_path: Path, more: str
) -> None:
    """Such as an import of a module that moved; a line that it does not mention is lost."""
    script, clone = tmp_path / "migration.py", tmp_path / "rewriting"
    script.write_text(REWRITING.replace("{more}", more))
    git("clone", "--quiet", "--branch=v2.0.0", template, clone, cwd=tmp_path)
    command = json.dumps([sys.executable, str(script)])
    append(clone / "copier.yml", f"_migrations: [{{version: 5.0.0, command: {command}}}]\n")
    commit(clone, "third")
    git("tag", "v5.0.0", cwd=clone)
    path = project / ".copier-answers.yml"
    path.write_text(path.read_text().replace(str(template), str(clone)))
    commit(project, "address")
    result = make_update(project, "--trust", release="v5.0.0")
    text = (project / "README.md").read_text()
    if more:
        assert f"would lose these lines of yours:\nREADME.md: {MINE[1]}\n" in result.stderr
        assert MINE[2] in text
    else:
        assert result.stderr.endswith("Edit them, then `git add`:\nDockerfile\n\n"), result.stderr
        assert "new 20" in text
        assert MINE[1] in text
        assert MINE[2] not in text


def test_update_merges_files_that_the_user_ignores(project: Path, tmp_path: Path) -> None:
    """Settings that hide files of the template, and files beside them, do not concern the merge."""
    append(tmp_path / "ignored", "data/\n")
    append(project / "data/raw.csv", "rows\n")
    environment = configured(tmp_path, f"core.excludesFile={tmp_path / 'ignored'}")
    assert_merged(project, make_update(project, **environment))
    assert (project / "data/raw.csv").read_text() == "rows\n"


def test_update_does_not_overwrite_ignored_file(project: Path) -> None:
    """The release brings one of that name, which Copier writes over it."""
    append(project / ".gitignore", "*.env\n")
    commit(project, "ignore")
    append(project / "settings.env", "SECRET=mine\n")
    before = state(project)
    result = make_update(project)
    assert result.returncode == 1
    assert "settings.env: SECRET=mine" in result.stderr
    assert state(project) == before


def test_failing_update_changes_nothing(project: Path) -> None:
    """In this folder alone: not in the rest of a repository, and not what git ignores."""
    repository = project.parent
    (project / ".git").rename(repository / ".git")
    append(project / ".gitignore", "/ignored/\n*.rej\n")
    append(repository / "other/work.py", "one\n")
    commit(repository, "one of several projects")
    append(repository / "other/work.py", "two hours of work\n")
    git("add", "other/work.py", cwd=repository)
    append(repository / "other/work.py", "and one more\n")
    append(repository / "other/new.py", "new\n")
    append(project / "ignored/events.parquet", "production\n")
    append(project / "ignored/mine.rej", "mine\n")
    before = state(repository)
    result = make_update(project, "--trust", release="v3.0.0")
    assert result.returncode == 1
    assert "exit status 7" in result.stdout
    assert "nothing was changed" in result.stderr
    assert state(repository) == before


def test_update_rejects_uncommitted_changes(project: Path) -> None:
    """It could not be put back; also where git is set not to show new files."""
    git("config", "status.showUntrackedFiles", "no", cwd=project)
    append(project / "notes", "mine\n")
    append(project / "README.md", "not committed\n")
    before = state(project)
    result = make_update(project)
    assert result.returncode == 1
    assert "commit or stash these files before an update" in result.stderr
    assert "README.md\nnotes\n" in result.stderr
    assert state(project) == before


def test_update_rejects_new_package_name(project: Path) -> None:
    """An update cannot rename it: the lines that are yours would stay in the old folder."""
    before = state(project)
    result = make_update(project, "--data", "package_name=other")
    assert result.returncode == 1
    assert "an update cannot rename the package" in result.stderr
    assert state(project) == before


def test_update_follows_a_renamed_package(project: Path) -> None:
    """Once the answers have it; before that, an update would pass it by."""
    git("mv", "src/pkg", "src/leavers", cwd=project)
    commit(project, "rename")
    result = make_update(project)
    assert result.returncode == 1
    assert "src/pkg is missing" in result.stderr
    assert not status(project)
    answers_file = project / ".copier-answers.yml"
    answers_file.write_text(answers_file.read_text().replace("package_name: pkg", "package_name: leavers"))
    commit(project, "answer")
    assert "Dockerfile" in make_update(project).stderr
    assert {*MINE, "new 20"} <= {*(project / "src/leavers/data/load.py").read_text().splitlines()}
    assert not (project / "src/pkg").exists()


def test_update_finds_another_answers_file(project: Path) -> None:
    """In a folder that is made from two templates, for example."""
    git("mv", ".copier-answers.yml", ".copier-answers.ml.yml", cwd=project)
    commit(project, "another name")
    result = make_update(project)
    assert result.returncode == 1
    assert ".copier-answers.yml is missing; ARGS='-a FILE' names another answers file" in result.stderr
    assert_merged(project, make_update(project, "-a", ".copier-answers.ml.yml"))
    assert yaml.safe_load((project / ".copier-answers.ml.yml").read_text())["_commit"] == "v2.0.0"
