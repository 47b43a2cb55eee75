"""What a team changed comes through every update: merged, in a conflict that git knows, or reported."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from helpers import ROOT, Renderer, answers, commit, files
from project import Project
from releases import Lines, added, append, conflicts, lines, lost, start, status, update


def edit(path: Path, old: str, new: str) -> None:
    """Edit as with search and replace."""
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path}"
    path.write_text(text.replace(old, new))


def package(project: Path) -> Path:
    """Where the project's code is."""
    return project / "src" / answers(project)["package_name"]


def converter(project: Path) -> Path:
    """Where the converter is at this release."""
    places = ("packaging/onnx.py", "packaging/conversion.py", "model/onnx.py")
    return next(path for place in places if (path := package(project) / place).exists())


STAGE = """
  publish: # ours
    cmd: python -m customer_churn.publish
    deps: [models/bundle]
    outs: [{reports/published.json: {cache: false}}]
"""
PUBLISH = """\
from pathlib import Path

Path("reports/published.json").write_text('{"published": true}')
"""
NIGHTLY = "on: {workflow_dispatch: {}}\njobs: {}\n"


def work(project: Path) -> None:
    """Change what a team changes: its own files, and lines and files of the standard."""
    append(package(project) / "problem.py", "\nOURS = True\n")
    edit(project / "params.yaml", ": 0.2\n\ntrain:", ": 0.25\n\ntrain:")
    (project / "tests/test_problem.py").unlink()
    (project / "notebooks/explore.py").rename(project / "notebooks/first-look.py")
    append(project / "docs/decisions/0001-publish.md", "We publish.\n")
    append(project / "dvc.yaml", STAGE)
    append(package(project) / "publish.py", PUBLISH)
    edit(project / "pyproject.toml", "[tool.uv]\n", "[tool.ours]\nyes = true\n\n[tool.uv]\n")
    edit(project / "pyproject.toml", "sample-data = ", 'ours = ["tabulate"]\nsample-data = ')
    append(project / ".github/workflows/nightly.yml", NIGHTLY)
    append(project / "README.md", "It is the team's favourite.\n")
    append(project / ".dvcignore", "ours\n")
    edit(converter(project), '"\\n- Or register', '"\\n- Or ask us."\n        "\\n- Or register')
    (project / ".github/pull_request_template.md").unlink()
    (project / "renovate.json").rename(project / ".github/renovate.json")


OURS = (
    "problem.py",
    "params.yaml",
    "notebooks/",
    "docs/decisions/",
    "publish.py",
    "nightly.yml",
    "/renovate.json",
)


class Edited(NamedTuple):
    """A project that a team works on, after an update."""

    project: Path
    before: dict[str, bytes]
    own: Lines


@pytest.fixture(scope="module")
def edited(older: Renderer, tmp_path_factory: pytest.TempPathFactory) -> Edited:
    """Start a project, work on it, update it."""
    project = start(older, tmp_path_factory.mktemp("edited") / "project")
    work(project)
    commit(project, "ours")
    before = {str(path.relative_to(project)): path.read_bytes() for path in files(project)}
    own = added(lines(older()), lines(project))
    update(project)
    return Edited(project, before, own)


@pytest.mark.proof("An update loses no line of a team's edits: each is kept, in a conflict, or reported")
def test_update_keeps_edits_of_a_team(edited: Edited) -> None:
    """Merged without a conflict; nothing is lost."""
    assert not conflicts(edited.project)
    assert len(edited.own) >= 10
    assert not lost(edited.own, edited.project)


def test_update_does_not_touch_own_files(edited: Edited) -> None:
    """Byte by byte, but for the lines of hooks/ingest_defaults.py; deleted files are not written again."""
    own_files = [name for name in edited.before if any(part in f"/{name}" for part in OURS)]
    assert len(own_files) >= 7
    for name in own_files:
        expected = edited.before[name].replace(
            b"from .validation.expect", b"from .contract.expect"
        )  # it moved
        content = (edited.project / name).read_bytes()
        assert content.replace(b"  keep_undeclared: true\n  personal: keep\n", b"") == expected, name
    gone = (
        "tests/test_problem.py",
        "notebooks/explore.py",
        ".github/pull_request_template.md",
        "renovate.json",
    )
    assert not [name for name in gone if (edited.project / name).exists()]


def test_merged_file_contains_both_sides(edited: Edited) -> None:
    """The team's stage beside the template's new one; its line in the file that was renamed."""
    stages = yaml.safe_load((edited.project / "dvc.yaml").read_text())["stages"]
    assert {"publish", "evaluate"} <= stages.keys()
    assert "- Or ask us." in (package(edited.project) / "model/onnx.py").read_text()
    assert not (package(edited.project) / "packaging/onnx.py").exists()


def clash(project: Path) -> None:
    """Change lines that the next release changes too, and take a name that it will use."""
    edit(project / "Makefile", "deployed test check secrets", "deployed test lint check secrets")
    edit(project / "pyproject.toml", '"ruff>=0.12,<1"', '"ruff==0.15.0"')
    append(package(project) / "evaluation/importance.py", "OURS = 1\n")
    append(project / ".dvc/.gitignore", "/ours\n")
    edit(package(project) / "params.py", "taken for a leak", "a leak to us")


@pytest.fixture(scope="module", params=["churn", "demand"])
def clashed(
    template: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Edited:
    """Update a project of 0.1.0 that goes other ways than 0.2.0."""
    folder, use_case = tmp_path_factory.mktemp("clashed"), request.param
    first = Renderer(template, folder / "renders", "v0.1.0")
    project = start(first, folder / "project", use_case=use_case)
    clash(project)
    commit(project, "ours")
    own = added(lines(first(use_case=use_case)), lines(project))
    update(project)
    return Edited(project, {}, own)


@pytest.mark.proof("A conflict is recorded in git's index")
def test_update_marks_conflicts_in_the_index(clashed: Edited) -> None:
    """So git refuses to commit them, and nothing of either side is lost."""
    project = clashed.project
    package_folder = package(project).relative_to(project)
    names = (
        "Makefile",
        "pyproject.toml",
        package_folder / "params.py",
        package_folder / "evaluation/importance.py",
    )
    assert conflicts(project) == {f"UU {name}" for name in names}
    assert not lost(clashed.own, project)
    refused = subprocess.run(("git", "commit", "-m", "x"), cwd=project, capture_output=True, text=True)
    assert refused.returncode
    assert "unmerged files" in refused.stderr


def test_commit_hook_rejects_conflict_markers(clashed: Edited) -> None:
    """`git commit -a` would commit them."""
    hooks = yaml.safe_load((clashed.project / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    entry = next(hook["entry"] for hook in hooks if hook["id"] == "conflicts").split()
    tool = Path(sys.executable).parent / Path(entry[0]).name
    result = subprocess.run(
        (tool, *entry[1:], "Makefile"), cwd=clashed.project, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "Merge conflict string" in result.stdout


def run_updater(project: Path, module: str, sources: Path) -> subprocess.CompletedProcess[str]:
    """Run a release's program for updates in a project, as `make update ARGS=--trust` does."""
    identity = {f"GIT_{who}_{field}": "t@x" for who in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")}
    environment = os.environ | identity | {"PYTHONPATH": str(sources), "PYTHONSAFEPATH": "1"}
    command = (sys.executable, "-m", module, "--trust", "--quiet")
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


def test_own_imports_of_moved_modules_are_rewritten(template: Path, tmp_path: Path) -> None:
    """The program of 0.2.1 takes them for lost lines: it changes nothing, and the migration names the way."""
    project = start(Renderer(template, tmp_path / "renders", "v0.2.1"), tmp_path / "project")
    append(package(project) / "ours.py", "from .stage import RAW, ProjectError\nRAW, ProjectError\n")
    commit(project, "ours")
    result = run_updater(project, "customer_churn.update", project / "src")
    assert result.returncode
    assert "GIT_CONFIG_NOSYSTEM=1 uvx copier update --defaults --trust" in result.stdout + result.stderr
    assert not status(project)
    result = run_updater(project, "{{ package_name }}.automation.update", ROOT / "template/src")
    assert not result.returncode, result.stdout + result.stderr
    rewritten = "from .core.paths import RAW\nfrom .core.errors import ProjectError\nRAW, ProjectError\n"
    assert (package(project) / "ours.py").read_text() == rewritten
    assert not (package(project) / "validation").exists()


def test_make_update_restores_dropped_lines(project: Project, newest: Renderer, tmp_path: Path) -> None:
    """A part is switched off whose file the team had changed."""
    folder = start(newest, tmp_path / "project", security_contact="security@example.com")
    append(folder / "SECURITY.md", "We answer within a day.\n")
    commit(folder, "ours")
    work = Project(folder, "customer_churn", installed=False).using(project)
    output = work.make("update", "ARGS=--data security_contact=")
    assert "SECURITY.md is no longer the template's" in output
    assert "We answer within a day." in (folder / "SECURITY.md").read_text()
    assert answers(folder)["security_contact"] == ""
    assert status(folder) == {" M .copier-answers.yml", " M README.md"}


def test_make_update_refuses_another_use_case(project: Project, newest: Renderer, tmp_path: Path) -> None:
    """The reason is Copier's, the sentence after it is ours."""
    folder = start(newest, tmp_path / "project")
    work = Project(folder, "customer_churn", installed=False).using(project)
    result = work.run("make", "update", "ARGS=--data use_case=demand")
    output = result.stdout + result.stderr
    assert result.returncode
    assert "started from churn and cannot become demand" in output
    assert "update: nothing was changed" in output
    assert not status(folder)


def test_make_update_lists_conflicts(
    project: Project, patched: Path, newest: Renderer, tmp_path: Path
) -> None:
    """And fails, for somebody has to look."""
    render = Renderer(patched, tmp_path / "renders", newest.release)
    folder = start(render, tmp_path / "project")
    append(folder / ".gitignore", "/ours/\n")
    commit(folder, "ours")
    work = Project(folder, "customer_churn", installed=False).using(project)
    error = work.refusal("automation.update")
    assert "changed the same lines" in error
    assert ".gitignore" in error
    assert conflicts(folder) == {"UU .gitignore"}


def test_make_update_names_a_missing_template(project: Project, newest: Renderer, tmp_path: Path) -> None:
    """It was moved, or named by a path from somewhere else."""
    folder = start(newest, tmp_path / "project")
    edit(folder / ".copier-answers.yml", f"_src_path: {newest.source}", "_src_path: ../gone")
    commit(folder, "ours")
    work = Project(folder, "customer_churn", installed=False).using(project)
    assert "_src_path in .copier-answers.yml must be" in work.refusal("automation.update")
    assert not status(folder)
