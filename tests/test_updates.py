"""From every release to the newest: the standard arrives, and nothing of a project is lost without a word."""

import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from copier import run_copy
from copier.errors import UnsafeTemplateError
from helpers import ROOT, Renderer, answers, commit, config, files, git, run
from packaging.specifiers import SpecifierSet
from releases import append, conflicts, start, status, tags, update
from test_render import excluded

MODULE = "src/customer_churn/serving/feedback.py"
FORMER_MODULE = "src/customer_churn/serving/truth.py"


def content(project: Path) -> dict[str, bytes]:
    """Read all but seeds, which no update touches, and git's own."""
    seeds = excluded("update") - excluded("copy")
    # own.yml was a seed up to 0.2, which Prometheus still reads.
    apart = [".git/*", "deploy/monitoring/own.yml", *(f"{seed.lstrip('/')}*" for seed in seeds)]
    paths = {str(path.relative_to(project)): path for path in files(project)}
    return {
        name: path.read_bytes()
        for name, path in paths.items()
        if not any(fnmatch(name, seed) for seed in apart)
    }


def migrated_files(package: str, hop: SpecifierSet) -> set[str]:
    """Return the files that a hop's migrations move; Copier would delete one with all changes in it."""
    steps = [step["command"] for step in config()["_migrations"] if step["version"] in hop]
    words = [word.replace("{{ _copier_conf.src_path }}", str(ROOT)) for step in steps for word in step]
    tables = [Path(word.removeprefix("--moves=")) for word in words if word.startswith("--moves=")]
    contents = [yaml.safe_load(table.read_text()) for table in tables]
    modules = [old for table in contents for old in (*table["modules"], *table["dropped"])]
    return {word.split("=")[0] for word in words} | {f"src/{package}/{old}" for old in modules}


def check_unedited_update(older: Renderer, newest: Renderer, folder: Path, **extra_answers: str) -> None:
    """Update an unedited project: it equals a fresh render, and each file that goes has its migration."""
    hop = SpecifierSet(f">{older.release},<={newest.release}")
    project = start(older, folder, **extra_answers)
    update(project)
    assert not conflicts(project)
    remembered = {name: answer for name, answer in answers(project).items() if name in newest.asked}
    assert extra_answers.items() <= remembered.items()
    assert content(project) == content(newest(**remembered))
    package = answers(project)["package_name"]
    assert content(older(**extra_answers)).keys() - content(project).keys() <= migrated_files(package, hop)


def test_unedited_project_equals_a_fresh_render_after_the_update(
    older: Renderer, newest: Renderer, tmp_path: Path
) -> None:
    """With the default answers; tests/services has the others."""
    check_unedited_update(older, newest, tmp_path / "project")


@pytest.mark.parametrize("older", ["v0.1.0", "v0.2.0", "v0.2.1"], indirect=True)  # without these questions
def test_existing_project_keeps_its_parts(older: Renderer, tmp_path: Path) -> None:
    """Questions that came later have the answers that the project was rendered by; its own limits stay."""
    project = start(older, tmp_path / "a [project]*")
    monitoring = project / "deploy/monitoring"
    limits = (monitoring / "own.yml").read_text().replace("rules: []\n    # -", "rules:\n      -")
    (monitoring / "own.yml").write_text(limits)
    commit(project, "limits")
    update(project)
    assert not conflicts(project)
    recorded = answers(project)
    assert (recorded["deployment"], recorded["observability"]) == ("compose", "prometheus")
    assert (project / "deploy/compose/deploy.py").exists()
    assert (monitoring / "grafana/dashboards/model.json").exists()
    assert (monitoring / "own.yml").read_text() == limits
    commit(project, "updated")
    update(project, data={"observability": "none"}, unsafe=False)
    assert {path.name for path in monitoring.glob("*")} <= {"own.yml"}


def test_renamed_question_keeps_its_answer(older: Renderer, tmp_path: Path) -> None:
    """Renamed questions take over what was answered."""
    name = "contact" if "contact" in older.asked else "owner_contact"
    project = start(older, tmp_path / "project", **{name: "https://example.com/us"})
    update(project)
    assert answers(project)["owner_contact"] == "https://example.com/us"
    assert "https://example.com/us" in (project / "README.md").read_text()


def test_migrations_need_trust(template: Path, tmp_path: Path) -> None:
    """Without it nothing is written; bots that cannot give it leave the project as it is."""
    project = start(Renderer(template, tmp_path / "renders", "v0.1.0"), tmp_path / "project")
    with pytest.raises(UnsafeTemplateError, match="migrations"):
        update(project, unsafe=False)
    assert not status(project)
    assert answers(project)["_commit"] == "v0.1.0"


@pytest.mark.parametrize("options", [{}, {"skip_answered": True}], ids=["defaults", "skip-answered"])
def test_update_without_migration_needs_no_trust(
    template: Path, patched: Path, tmp_path: Path, options: dict[str, object]
) -> None:
    """What bots run: nobody answers, and nobody trusts."""
    project = start(Renderer(patched, tmp_path / "renders", tags(template)[-1]), tmp_path / "project")
    update(project, unsafe=False, **options)
    assert answers(project)["_commit"] == "v100.0.0"
    assert status(project) == {" M .copier-answers.yml", " M .gitignore"}


@pytest.mark.parametrize("copier", [f"copier=={config()['_min_copier_version']}", "copier<10"])
def test_oldest_and_newest_copier_render_the_same(
    template: Path, newest: Renderer, tmp_path: Path, copier: str
) -> None:
    """As commands of their own, with what they depend on today."""
    project = start(Renderer(template, tmp_path / "renders", "v0.1.0"), tmp_path / "project")
    append(project / FORMER_MODULE, "# ours\n")
    commit(project, "ours")
    run("uvx", "--from", copier, "copier", "update", "--defaults", "--trust", "--quiet", cwd=project)
    assert not conflicts(project)
    fresh = content(newest(observability="prometheus"))
    assert content(project) == fresh | {MODULE: fresh[MODULE] + b"# ours\n"}


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({}, {"security_contact": "security@example.com"}),
        ({"security_contact": "security@example.com"}, {"security_contact": ""}),
        ({}, {"remote": "s3"}),
        ({"remote": "azure"}, {"remote": "local"}),
        ({}, {"licence": "Apache-2.0", "python_min": "3.13"}),
        ({}, {"observability": "prometheus"}),
        ({"observability": "prometheus"}, {"deployment": "none", "observability": "none"}),
        ({"deployment": "none"}, {"deployment": "compose"}),
    ],
    ids=str,
)
def test_update_with_other_answers_gives_their_project(
    newest: Renderer, tmp_path: Path, first: dict[str, str], then: dict[str, str]
) -> None:
    """A part comes and goes with all that belongs to it, and the team's edits stay."""
    project = start(newest, tmp_path / "project", **first)
    append(project / ".dvcignore", "ours\n")
    commit(project, "ours")
    update(project, data=then, unsafe=False)
    assert not conflicts(project)
    remembered = {name: answer for name, answer in answers(project).items() if name in newest.asked}
    fresh = content(newest(**remembered))
    assert content(project) == fresh | {".dvcignore": fresh[".dvcignore"] + b"ours\n"}


def test_update_to_another_use_case_is_refused(newest: Renderer, tmp_path: Path) -> None:
    """No update replaces the starter's files, so the answer would be wrong from then on."""
    project = start(newest, tmp_path / "a [project]*", use_case="demand")
    with pytest.raises(ValueError, match="started from demand and cannot become fraud"):
        update(project, data={"use_case": "fraud"}, unsafe=False)
    assert not status(project)
    update(project, data={"use_case": "demand", "licence": "Apache-2.0"}, unsafe=False)
    assert answers(project)["use_case"] == "demand"


def test_existing_repository_can_adopt_the_template(newest: Renderer, template: Path, tmp_path: Path) -> None:
    """`copier copy` over it: its seeds stay, the standard is written, git shows what was replaced."""
    previous = {
        "src/customer_churn/problem.py": "MINE = 1\n",
        "params.yaml": "train: {seed: 7}\n",
        "src/customer_churn/legacy.py": "OLD = 1\n",
        "Makefile": "all:\n\techo ours\n",
    }
    project = tmp_path / "project"
    for name, text in previous.items():
        append(project / name, text)
    commit(project, "before the template")
    run_copy(str(template), project, vcs_ref=newest.release, defaults=True, overwrite=True, quiet=True)
    assert (project / "src/customer_churn/problem.py").read_text() == "MINE = 1\n"
    assert (project / "params.yaml").read_text() == "train: {seed: 7}\n"
    changed = {line for line in status(project) if not line.startswith("??")}
    assert changed == {" M Makefile"}
    commit(project, "adopt the template")
    update(project, data={"security_contact": "security@example.com"}, unsafe=False)
    assert (project / "SECURITY.md").exists()
    assert (project / "src/customer_churn/legacy.py").read_text() == "OLD = 1\n"


DEMO = "from pathlib import Path; from benchmarks.demo import render; render(Path('demo'), 'churn')"


def test_project_of_make_demo_can_be_updated(template: Path, newest: Renderer, tmp_path: Path) -> None:
    """It lies inside a clone of the template, which then moves on."""
    clone = tmp_path / "template"
    git("clone", "--quiet", "--branch=v0.1.0", template, clone, cwd=tmp_path)
    run(sys.executable, "-c", DEMO, cwd=clone)
    project = clone / "demo/customer-churn"
    commit(project, "start")
    git("checkout", "--quiet", newest.release or "", cwd=clone)
    run(sys.executable, "-m", "copier", "update", "--defaults", "--trust", "--quiet", cwd=project)
    apart = {".copier-answers.yml": b""}  # it names the clone
    assert content(project) | apart == content(newest(observability="prometheus")) | apart
