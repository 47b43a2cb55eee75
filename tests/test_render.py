"""What every render must be, whatever was answered."""

import ast
import configparser
import json
import re
import sys
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import copier
import pytest
import yaml
from allpairspy import AllPairs
from helpers import (
    ROOT,
    Renderer,
    answers,
    choices,
    commit,
    config,
    files,
    git,
    listed,
    questions,
    run,
    snapshot,
)
from jinja2 import Environment

MAX_FILES, MAX_LINES = 121, 12_000


def parse_ini(text: str) -> None:
    """Parse what DVC keeps its settings in."""
    parser = configparser.ConfigParser()
    parser.read_string(text)
    assert parser.sections()


PARSERS: dict[str, Callable[[str], object]] = {
    ".ipynb": json.loads,
    ".json": json.loads,
    ".py": ast.parse,
    ".svg": ET.fromstring,
    ".toml": tomllib.loads,
    ".yaml": yaml.safe_load,
    ".yml": yaml.safe_load,
    "config": parse_ini,
}
# Text without a grammar to hold it against. A new kind of file belongs in one of the two.
PLAIN = {
    ".conf",
    ".dockerignore",
    ".dvcignore",
    ".gitattributes",
    ".gitignore",
    ".md",
    "CODEOWNERS",
    "Dockerfile",
    "LICENSE",
    "Makefile",
}


# Of what is not chosen but typed, what makes a difference.
TYPED = {
    "project_name": ["Customer churn", 'L\'été « 100 % » : "sûr" #1'],
    "security_contact": ["", "security@example.com"],
}


def pairwise(asked: Mapping[str, dict[str, Any]] | None = None) -> Iterator[dict[str, str]]:
    """Give sets of answers in which each two choices meet at least once."""
    axes = {name: TYPED.get(name, choices(question)) for name, question in (asked or questions()).items()}
    axes = {name: offered for name, offered in axes.items() if offered}
    for row in AllPairs(list(axes.values())):
        yield dict(zip(axes, row, strict=True))


@pytest.fixture(scope="module", params=pairwise(), ids=lambda given: "-".join(given.values())[:40])
def project(request: pytest.FixtureRequest, render: Renderer) -> Path:
    """Render one set of answers."""
    return render(**request.param)


def kind(path: Path) -> str:
    """Tell files apart by suffix, or by name where they have none."""
    return path.suffix or path.name


def python_files(project: Path) -> list[Path]:
    """List a project's Python files; none would make every check on them pass."""
    found = [path for path in files(project) if path.suffix == ".py"]
    assert found
    return found


def test_every_file_parses(project: Path) -> None:
    """Quoting breaks in the file that nobody opened."""
    for path in files(project):
        if kind(path) not in PLAIN:
            PARSERS[kind(path)](path.read_text())


def test_no_trace_of_the_template_is_left(project: Path) -> None:
    """Only expressions of GitHub (${{), of Renovate ({{{) and Grafana's legends may look like Jinja."""
    for path in files(project):
        assert not re.search(r"\{%|\{#|(?<![${])\{\{(?!\{|\w+\}\})", path.read_text()), path


def test_no_placeholder_is_left(project: Path) -> None:
    """A project starts finished."""
    for path in files(project):
        assert not re.search(r"\b(todo|fixme|xxx|lorem|changeme)\b", path.read_text(), re.I), path


def test_text_ends_as_text_should(project: Path) -> None:
    """Otherwise the project's own hooks rewrite it, and the next update conflicts."""
    for path in files(project):
        text = path.read_text()
        assert re.search(r"[^\n]\n\Z", text), path
        assert not re.search(r"[ \t\r]$", text, re.M), path


def test_no_module_is_empty(project: Path) -> None:
    """Only a package's `__init__` may consist of its docstring."""
    for path in python_files(project):
        body = ast.parse(path.read_text()).body
        assert len(body) > (path.name != "__init__.py"), path


@pytest.mark.parametrize("command", [("format", "--check"), ("check",)], ids=" ".join)
def test_ruff_has_nothing_to_change(project: Path, command: tuple[str, ...]) -> None:
    """The project's own configuration judges it, not the template's."""
    assert python_files(project)
    assert "ruff" in tomllib.loads((project / "pyproject.toml").read_text())["tool"]
    run(sys.executable, "-m", "ruff", *command, "--no-cache", ".", cwd=project)


def test_answers_are_remembered(project: Path, request: pytest.FixtureRequest) -> None:
    """An update starts from them: what was asked, nothing computed."""
    kept = answers(project)
    assert request.node.callspec.params["project"].items() <= kept.items()
    assert {key for key in kept if not key.startswith("_")} == questions().keys()


def test_licence_is_the_chosen_one(project: Path) -> None:
    """Each text says its name or its claim; the year stays out, or every January would conflict."""
    claims = {
        "MIT": "MIT License",
        "Apache-2.0": "Apache License",
        "BSD-3-Clause": "BSD 3-Clause License",
        "Proprietary": "All rights reserved.",
    }
    text = (project / "LICENSE").read_text()
    chosen = answers(project)["licence"]
    assert [name for name, claim in claims.items() if claim in text] == [chosen]
    assert not re.search(r"\b20[2-9]\d\b", text)


def test_default_render_is_small(render: Renderer) -> None:
    """A standard that is read is a short one."""
    found = files(render())
    lines = sum(len(path.read_text().splitlines()) for path in found)
    assert len(found) <= MAX_FILES
    assert lines <= MAX_LINES


def test_rendering_is_pure(render: Renderer, tmp_path: Path) -> None:
    """Neither clock nor folder may show in a project."""
    first = render.into(tmp_path / "one")
    second = render.into(tmp_path / "another name")
    relative = [path.relative_to(first) for path in files(first)]
    assert relative == [path.relative_to(second) for path in files(second)]
    for path in relative:
        assert (first / path).read_bytes() == (second / path).read_bytes(), path


def crlf(folder: Path) -> list[Path]:
    """List the files that have a carriage return; git's own are not looked at."""
    return [path for path in files(folder) if ".git" not in path.parts and b"\r" in path.read_bytes()]


def test_lines_end_alike_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git for Windows writes CR LF unless told otherwise: scripts do not start, and hashes differ."""
    template, project, clone = tmp_path / "template", tmp_path / "project", tmp_path / "clone"
    commit(snapshot(template), "first")
    git("tag", "v100.0.0", cwd=template)
    (tmp_path / ".gitconfig").write_text("[core]\nautocrlf = true\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    # Not in this process, in which Copier keeps the environment of before.
    run(sys.executable, "-m", "copier", "copy", "--defaults", "--quiet", template, project, cwd=tmp_path)
    assert crlf(project) == []
    commit(project, "start")
    git("clone", "--quiet", project, clone, cwd=tmp_path)
    assert crlf(clone) == []


def test_nothing_asks_for_trust() -> None:
    """Tasks and extensions would ask for --trust on every copy; bots cannot give it."""
    assert config().keys().isdisjoint({"_tasks", "_jinja_extensions"})


def test_git_lists_the_whole_template() -> None:
    """A .gitignore meant for projects must not hide files from the template's own repository."""
    made = {"__pycache__", ".ruff_cache", ".pytest_cache"}
    disk = {path.relative_to(ROOT) for path in files(ROOT / "template")}
    assert {path for path in disk if made.isdisjoint(path.parts)} == listed("template")


def excluded(operation: str) -> set[str]:
    """Read what copier.yml keeps out of an operation."""
    text = Environment(autoescape=True).from_string("\n".join(config()["_exclude"]))
    lines = text.render(_copier_operation=operation).splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def test_the_three_lists_of_seeds_agree(render: Renderer) -> None:
    """copier.yml protects them twice, the project's README promises it."""
    project = render()
    seeds = {*config()["_skip_if_exists"]}
    assert excluded("update") - excluded("copy") == seeds - {
        "/src/*/custom"
    }  # an older project gets that one
    readme = (project / "README.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| (Yours|Standard) \|", readme, re.M)
    yours = {path.rstrip("/") for path, owner in rows if owner == "Yours"}
    package = answers(project)["package_name"]
    assert yours == {seed.lstrip("/").replace("*", package) for seed in seeds}
    for path, _ in rows:
        assert (project / path).exists(), path
        assert (project / path).is_dir() == path.endswith("/"), path


class Released(NamedTuple):
    """A project of the first release, and the template's repository with a second one."""

    project: Path
    template: Path


@pytest.fixture
def released(tmp_path: Path) -> Released:
    """Release the working tree, start a project, then release a change of both kinds of file."""
    template, project = snapshot(tmp_path / "template"), tmp_path / "project"
    commit(template, "first")
    git("tag", "v100.0.0", cwd=template)
    copier.run_copy(str(template), project, defaults=True, quiet=True, unsafe=False)
    commit(project, "start")
    for path in ("params.yaml", "problem.py"):
        with (template / "template/starters/churn" / path).open("a") as starter:
            starter.write("# of the second release\n")
    with (template / "template/.gitignore.jinja").open("a") as managed:
        managed.write("second-release/\n")
    commit(template, "second")
    git("tag", "v100.1.0", cwd=template)
    return Released(project, template)


def test_an_update_leaves_seeds_alone(released: Released) -> None:
    """Edited, untouched and deleted ones alike, while standard files move on."""
    project = released.project
    problem = next(project.glob("src/*/problem.py"))
    problem.write_text("MINE = True\n")
    (project / "tests/test_problem.py").unlink()
    before = (project / "params.yaml").read_bytes()
    commit(project, "mine")
    copier.run_update(project, defaults=True, overwrite=True, quiet=True, unsafe=False)
    assert answers(project)["_commit"] == "v100.1.0"
    assert "second-release/" in (project / ".gitignore").read_text()
    assert problem.read_text() == "MINE = True\n"
    assert (project / "params.yaml").read_bytes() == before
    assert not (project / "tests/test_problem.py").exists()
    changed = git("status", "--porcelain", cwd=project).split()
    assert changed == ["M", ".copier-answers.yml", "M", ".gitignore"]
