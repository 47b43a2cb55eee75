"""Properties of every render, whatever the answers."""

import ast
import configparser
import hashlib
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
    CopyProject,
    Renderer,
    answers,
    choices,
    commit,
    config,
    files,
    git,
    questions,
    run,
    snapshot,
    tracked,
)
from jinja2 import Environment
from pytest_copie.plugin import Copie


class Size(NamedTuple):
    """Bounds of a render."""

    extra_answers: dict[str, str]
    files: int
    lines: int


SIZES = [
    Size({"deployment": "none", "observability": "none"}, 126, 10_880),
    Size({}, 137, 12_030),
    Size({"observability": "prometheus"}, 144, 12_280),
]


STARTER_LINES, STARTER_FILES = 150, 3
"""How many more a starter may have than the smallest render: problem.py, params.yaml, custom/."""


class Trace(NamedTuple):
    """Words of a part, and files that may have them without it."""

    pattern: str
    allowed: tuple[str, ...] = ()


PARAMS = ("src/customer_churn/params.py",)  # a section that stays in params.yaml has no effect
TRACES = {
    "deployment": Trace(r"rollout|canary|deploy\.py|deploy\.yml|deploy/compose|workflow .?deploy\b", PARAMS),
    "observability": Trace(r"grafana|alertmanager|custom-rules|deploy/monitoring|profile monitoring"),
}


def parse_ini(text: str) -> None:
    """Parse a file of DVC's settings."""
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
# Text without a parser. A new kind of file is added to PARSERS or to PLAIN.
PLAIN = {
    ".conf",
    ".dockerignore",
    ".dvcignore",
    ".gitattributes",
    ".gitignore",
    ".md",
    ".txt",
    "CODEOWNERS",
    "Dockerfile",
    "LICENSE",
    "Makefile",
}


# Answers to free-text questions that make a difference to the render.
TYPED = {
    "project_name": ["Customer churn", 'L\'été « 100 % » : "sûr" #1'],
    "security_contact": ["", "security@example.com"],
}


def pairwise(of: Mapping[str, dict[str, Any]] | None = None) -> Iterator[dict[str, str]]:
    """Yield sets of answers in which each pair of choices occurs at least once."""
    axes = {name: TYPED.get(name, choices(question)) for name, question in (of or questions()).items()}
    axes = {name: values for name, values in axes.items() if values}
    for row in AllPairs(list(axes.values())):
        yield dict(zip(axes, row, strict=True))


@pytest.fixture(scope="module", params=pairwise(), ids=lambda answer_set: "-".join(answer_set.values())[:40])
def project(request: pytest.FixtureRequest, copy_project: CopyProject) -> Path:
    """Render one set of answers."""
    return copy_project(**request.param)


def kind(path: Path) -> str:
    """Return the suffix of a file, or its name if it has none."""
    return path.suffix or path.name


def python_files(project: Path) -> list[Path]:
    """List a project's Python files; without any, every check on them would pass."""
    paths = [path for path in files(project) if path.suffix == ".py"]
    assert paths
    return paths


def test_every_file_parses(project: Path) -> None:
    """Wrong quoting breaks files that nobody has opened yet."""
    for path in files(project):
        if kind(path) not in PLAIN:
            PARSERS[kind(path)](path.read_text())


def test_no_jinja_is_left(project: Path) -> None:
    """GitHub's expressions (${{), Renovate's ({{{) and Grafana's legends only look like Jinja."""
    for path in files(project):
        assert not re.search(r"\{%|\{#|(?<![${])\{\{(?!\{|\w+\}\})", path.read_text()), path


def test_no_placeholder_is_left(project: Path) -> None:
    """A new project has no gaps to fill in."""
    for path in files(project):
        assert not re.search(r"\b(todo|fixme|xxx|lorem|changeme)\b", path.read_text(), re.I), path


def test_lines_end_without_blanks_and_files_with_one_newline(project: Path) -> None:
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
def test_ruff_finds_nothing(project: Path, command: tuple[str, ...]) -> None:
    """The project's own configuration is used, not the template's."""
    assert python_files(project)
    assert "ruff" in tomllib.loads((project / "pyproject.toml").read_text())["tool"]
    run(sys.executable, "-m", "ruff", *command, "--no-cache", ".", cwd=project)


def test_answers_file_holds_every_answer(project: Path, request: pytest.FixtureRequest) -> None:
    """An update starts from the answers file: it has all questions and no computed values."""
    remembered = answers(project)
    assert request.node.callspec.params["project"].items() <= remembered.items()
    assert {key for key in remembered if not key.startswith("_")} == questions().keys()


def test_licence_matches_the_answer(project: Path) -> None:
    """The text has no year: a new one would conflict with every project each January."""
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


def code_lines(path: Path) -> int:
    """Count the lines of a file that are neither blank nor a comment nor of a docstring; none of texts."""
    text, docstrings = path.read_text(), set[int]()
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                docstrings.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(map(str.strip, text.splitlines()), start=1)
    counted = [line for number, line in lines if line and line[0] != "#" and number not in docstrings]
    return 0 if path.suffix in (".md", ".txt") else len(counted)


def check_size(project: Path, most_files: int, most_lines: int) -> None:
    """Count what a project consists of, without its tests."""
    counted = [path for path in files(project) if path.relative_to(project).parts[0] != "tests"]
    lines = sum(map(code_lines, counted))
    assert len(counted) <= most_files, f"{len(counted)} files: raise the bound by what a new feature needs"
    assert lines <= most_lines, f"{lines} code lines: raise the bound by what a new feature needs"


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "-".join(size.extra_answers.values()) or "default")
def test_render_is_small(copy_project: CopyProject, size: Size) -> None:
    """A standard that is read is a short one; tests may grow."""
    check_size(copy_project(**size.extra_answers), size.files, size.lines)


@pytest.mark.parametrize("use_case", choices(questions()["use_case"]))
def test_starter_is_small(copy_project: CopyProject, use_case: str) -> None:
    """A use case is a contract and a model: what it needs beyond belongs in the standard, for all."""
    smallest = SIZES[0]
    project = copy_project(use_case=use_case, **smallest.extra_answers)
    check_size(project, smallest.files + STARTER_FILES, smallest.lines + STARTER_LINES)


@pytest.mark.parametrize("part", TRACES)
def test_part_that_is_not_chosen_leaves_no_trace(copy_project: CopyProject, part: str) -> None:
    """No file, parameter, target, job or sentence, whatever the other part is."""
    (other,) = TRACES.keys() - {part}
    for choice in choices(questions()[other]):
        project = copy_project(**{part: "none", other: choice})
        for path in files(project):
            name = str(path.relative_to(project))
            if name not in (".copier-answers.yml", *TRACES[part].allowed):
                assert not re.search(TRACES[part].pattern, name + path.read_text(), re.I), name


def test_part_that_is_chosen_is_found_by_its_traces(copy_project: CopyProject) -> None:
    """Otherwise the test above looks for nothing."""
    project = copy_project(deployment="compose", observability="prometheus")
    texts = {str(path.relative_to(project)): path.read_text() for path in files(project)}
    for part in TRACES.values():
        names = [name for name, text in texts.items() if re.search(part.pattern, name + text, re.I)]
        assert len(names) >= 5


def test_security_contact_adds_a_security_policy(copie: Copie, render: Renderer) -> None:
    """docs/extending.md shows this test to forks as the pattern for an optional part."""
    result = copie.copy({"security_contact": "security@example.com"}, template_dir=render.source)
    assert result.exit_code == 0, result.exception
    assert result.project_dir
    assert (result.project_dir / "SECURITY.md").is_file()


def test_rendering_depends_on_answers_only(render: Renderer, tmp_path: Path) -> None:
    """Neither the clock nor the folder changes a project."""
    first = render.into(tmp_path / "one")
    second = render.into(tmp_path / "another name")
    relative = [path.relative_to(first) for path in files(first)]
    assert relative == [path.relative_to(second) for path in files(second)]
    for path in relative:
        assert (first / path).read_bytes() == (second / path).read_bytes(), path


def crlf(folder: Path) -> list[Path]:
    """List the files that have a carriage return, except git's own."""
    return [path for path in files(folder) if ".git" not in path.parts and b"\r" in path.read_bytes()]


def test_line_ends_are_lf_whatever_git_is_set_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With CR LF, the default of Git for Windows, scripts do not start and hashes differ."""
    template, project, clone = tmp_path / "template", tmp_path / "project", tmp_path / "clone"
    commit(snapshot(template), "first")
    git("tag", "v100.0.0", cwd=template)
    (tmp_path / ".gitconfig").write_text("[core]\nautocrlf = true\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    # In a new process: Copier reads the environment when it is imported.
    run(sys.executable, "-m", "copier", "copy", "--defaults", "--quiet", template, project, cwd=tmp_path)
    assert crlf(project) == []
    commit(project, "start")
    git("clone", "--quiet", project, clone, cwd=tmp_path)
    assert crlf(clone) == []


def test_copy_needs_no_trust() -> None:
    """Tasks and extensions would need --trust on every copy, and bots cannot pass it."""
    assert config().keys().isdisjoint({"_tasks", "_jinja_extensions"})


def test_git_tracks_the_whole_template() -> None:
    """A .gitignore meant for projects must not hide files of the template from git."""
    caches = {"__pycache__", ".ruff_cache", ".pytest_cache"}
    disk = {path.relative_to(ROOT) for path in files(ROOT / "template")}
    assert {path for path in disk if caches.isdisjoint(path.parts)} == tracked("template")


def excluded(operation: str) -> set[str]:
    """List the paths that copier.yml excludes from an operation."""
    text = Environment(autoescape=True).from_string("\n".join(config()["_exclude"]))
    lines = text.render(_copier_operation=operation).splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def test_all_lists_of_seed_files_agree(copy_project: CopyProject) -> None:
    """copier.yml names the seeds twice, and the project's README lists them as yours."""
    project = copy_project(observability="prometheus")
    seeds = {*config()["_skip_if_exists"]}
    written_by_updates = {"/src/*/custom", "/deploy/monitoring/custom-rules.yml"}
    modules = {"/src/*/custom/[!_]*"}  # of a starter; an update writes custom/__init__.py only
    assert excluded("update") - excluded("copy") == seeds - written_by_updates | modules
    readme = (project / "README.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| (Yours|Standard) \|", readme, re.M)
    own_files = {path.rstrip("/") for path, owner in rows if owner == "Yours"}
    package = answers(project)["package_name"]
    assert own_files == {seed.lstrip("/").replace("*", package) for seed in seeds}
    for path, _ in rows:
        assert (project / path).exists(), path
        assert (project / path).is_dir() == path.endswith("/"), path


class Released(NamedTuple):
    """A project of a first release, and the template's repository with a second release."""

    project: Path
    template: Path


@pytest.fixture
def released(tmp_path: Path) -> Released:
    """Release the template, start a project, then release a change of a seed and of a standard file."""
    template, project = snapshot(tmp_path / "template"), tmp_path / "project"
    commit(template, "first")
    git("tag", "v100.0.0", cwd=template)
    copier.run_copy(str(template), project, defaults=True, quiet=True, unsafe=False)
    commit(project, "start")
    for path in ("params.yaml.jinja", "problem.py"):
        with (template / "template/starters/churn" / path).open("a") as starter:
            starter.write("# of the second release\n")
    with (template / "template/.gitignore.jinja").open("a") as managed:
        managed.write("second-release/\n")
    commit(template, "second")
    git("tag", "v100.1.0", cwd=template)
    return Released(project, template)


@pytest.mark.parametrize("use_case", choices(questions()["use_case"]))
def test_make_contract_knows_each_starter(copy_project: CopyProject, use_case: str) -> None:
    """So that it replaces a starter that was never edited, and nothing else."""
    project = copy_project(use_case=use_case)
    package = answers(project)["package_name"]
    starter = (project / "src" / package / "problem.py", project / "tests/test_problem.py")
    content = "".join(path.read_text() for path in starter)
    content = content.replace(f"{package}.", "package.").replace(f"from {package} ", "from package ")
    digest = hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest()
    assert digest in (project / "src" / package / "data/proposal/__main__.py").read_text()


def test_update_does_not_touch_seeds(released: Released) -> None:
    """Edited, unedited and deleted seeds stay as they are; standard files are updated."""
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
