"""Each answer gives a project that keeps it to the letter, or a message that says what to type."""

import configparser
import keyword
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import ROOT, CopyProject, Renderer, answers, choices, files, questions, run
from jinja2 import Environment, FileSystemLoader
from pytest_copie.plugin import Copie

NAMES = {
    "Müller & Söhne": "muller_sohne",
    "L'été « indien »": "l_ete_indien",
    'The "big" one': "the_big_one",
    "Cafe\u0301 Łódź": "cafe_lodz",
    "Straße Ærø Œuvre": "strasse_aero_oeuvre",
    "2024 churn": "ml_2024_churn",
    "class": "class_model",
    "Match": "match_model",
    "json": "json_model",
    "Pandas": "pandas_model",
    "scikit-learn": "scikit_learn_model",
    "客户流失": "churn_model",
    "Прогноз 7": "ml_7",
    "🙂 smile": "smile",
    "yes": "yes",
    "null": "null",
    "1e3": "ml_1e3",
    "a: b": "a_b",
    "#x": "x",
    "- item": "item",
    "*star": "star",
    "!tag": "tag",
    "[list, of]": "list_of",
    "100% sure; really?": "ml_100_sure_really",
    "x = 'y'": "x_y",
    "w" * 80: "w" * 40,
    "A" * 39 + " churn": "a" * 39,
}

# Names and descriptions that YAML, TOML, INI, Markdown or make read differently unless they are quoted.
HOSTILE = {
    "quotes and signs": ("L'été « 100 % » : \"sûr\" #1 & [a, b]; x = 'y'", "- *star !tag, 客户: yes?"),
    "a word of YAML": ("null", "1e3 # x"),
}

REFUSED = {
    ("project_name", ""): "at least one letter",
    ("project_name", "🙂🙂"): "at least one letter",
    ("project_name", "2024"): "at least one letter",
    ("project_name", "n" * 200): "at most 80 characters; this has 200",
    ("project_name", " churn"): "without the space",
    ("project_name", "a\nb"): "one line",
    ("project_name", "a\tb"): "one line",
    ("project_name", "a\x00b"): "one line",
    ("project_name", "a\u202eb"): "hidden marks",
    ("project_name", "a\u2028b"): "one line",
    ("project_name", "back\\slash"): "without \\",
    ("project_name", "{{ 7 * 7 }} x"): "without \\ { }",
    ("project_name", "{% raw %}"): "without \\ { }",
    ("project_name", "$(shell date)"): "without \\ { } ` $",
    ("project_name", "`date`"): "without \\ { } `",
    ("project_name", "<b>bold</b>"): "< >",
    ("project_name", "a | b"): "|",
    ("project_description", "d" * 201): "at most 200",
    ("project_description", ""): "at least one letter",
    ("package_name", "class"): "class_model",
    ("package_name", "match"): "match_model",
    ("package_name", "json"): "json_model",
    ("package_name", "pandas"): "pandas_model",
    ("package_name", "tests"): "tests_model",
    ("package_name", "Churn"): "lower-case letters",
    ("package_name", "my-churn"): "single underscores",
    ("package_name", "1st"): "a letter first",
    ("package_name", "_churn"): "a letter first",
    ("package_name", "churn_"): "underscores between them",
    ("package_name", "a__b"): "single underscores",
    ("package_name", "été"): "lower-case letters",
    ("package_name", "churn\n"): "lower-case letters",
    ("package_name", "p" * 41): "at most 40 characters; this has 41",
    ("owner", "@your-org"): "without the @",
    ("owner", "your org"): "such as octocat",
    ("owner", ""): "such as octocat",
    ("owner", "a/b/c"): "your-org/ml-team",
    ("owner_contact", "someone"): "ml-team@example.com",
    ("owner_contact", "http://example.com"): "https://example.com",
    ("owner_contact", "a@b.com\nc"): "ml-team@example.com",
    ("security_contact", "someone"): "ml-team@example.com",
    ("use_case", "chrun"): "'churn', 'demand'",
    ("python_min", "3.9"): "'3.11', '3.12', '3.13'",
    ("licence", "mit"): "'MIT'",
    ("remote", "dropbox"): "'local', 's3', 'gcs', 'azure'",
}

ADDRESSES = {
    ("local", "../store"): "../../store",
    ("local", "../../team store/dvc"): "../../../team store/dvc",
    ("local", "/srv/store"): "/srv/store",
    ("local", "D:/store"): "D:/store",
    ("s3", "s3://my-bucket"): "s3://my-bucket",
    ("gcs", "gs://my_bucket/a/b=c"): "gs://my_bucket/a/b=c",
    ("azure", "azure://box/dvc"): "azure://box/dvc",
}

WRONG_ADDRESSES = [
    ("local", "store"),
    ("local", "./store"),
    ("local", "../"),
    ("local", "../../.."),
    ("local", "../store/../project"),
    ("local", "~/store"),
    ("local", "/"),
    ("local", "../a\nb"),
    ("local", "../a#b"),
    ("local", "s3://bucket/dvc"),
    ("s3", "../store"),
    ("s3", "gs://bucket/dvc"),
    ("s3", "s3://"),
    ("gcs", "gs://bucket/two words"),
    ("azure", "azure://box//dvc"),
]


@pytest.fixture(scope="module")
def macros() -> Mapping[str, Any]:
    """The macros and lists of hooks/names.jinja, by name, as Copier loads them."""
    filters = ["jinja2_ansible_filters.AnsibleCoreFiltersExtension"]  # Copier's own
    jinja = Environment(loader=FileSystemLoader(ROOT), extensions=filters, autoescape=False)  # noqa: S701
    return vars(jinja.get_template("hooks/names.jinja").module)


def rejection(copie: Copie, render: Renderer, **extra_answers: str) -> str:
    """Return the message with which Copier rejects the answers; it must not have written a file."""
    result = copie.copy(extra_answers, template_dir=render.source)
    assert result.exit_code == -1
    assert not files(copie.test_dir)
    return str(result.exception)


@pytest.mark.parametrize(("name", "package"), NAMES.items(), ids=lambda text: text[:20])
def test_package_name_is_derived_from_any_project_name(
    macros: Mapping[str, Any], name: str, package: str
) -> None:
    """The name is valid as a project's, and the package is importable under its own name."""
    assert macros["fault"](name, 80).strip() == ""
    assert macros["package_from"](name, "churn") == package
    assert macros["package_fault"](package).strip() == ""
    assert package.isidentifier()
    assert not keyword.iskeyword(package)
    assert package not in sys.stdlib_module_names


@pytest.mark.parametrize(("name", "description"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_name_survives_in_every_file(copy_project: CopyProject, name: str, description: str) -> None:
    """Each file format has its own rules for quotes, comments and special words."""
    project = copy_project(project_name=name, project_description=description)
    package = answers(project)["package_name"]
    manifest = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    assert manifest["name"] == package.replace("_", "-")
    assert manifest["description"] == description
    assert answers(project)["project_name"] == name
    assert (project / "README.md").read_text().splitlines()[0] == f"# {name}"
    assert isinstance(yaml.safe_load((project / "params.yaml").read_text()), dict)
    assert configparser.ConfigParser().read(project / ".dvc/config")
    run("make", "--dry-run", "help", cwd=project)
    code = f"import {package}; print({package}.__file__)"
    path = run(sys.executable, "-B", "-c", code, cwd=project / "src").strip()
    assert Path(path) == project / "src" / package / "__init__.py"


@pytest.mark.parametrize(("answer", "message"), REFUSED.items(), ids=lambda pair: repr(pair)[:40])
def test_invalid_answer_is_rejected_with_advice(
    copie: Copie, render: Renderer, answer: tuple[str, str], message: str
) -> None:
    """The message names the question and a valid answer."""
    question, text = answer
    error = rejection(copie, render, **{question: text})
    assert question in error
    assert message in error


@pytest.mark.parametrize(("answer", "url"), ADDRESSES.items(), ids=str)
def test_remote_address_reaches_dvc(copy_project: CopyProject, answer: tuple[str, str], url: str) -> None:
    """DVC resolves a relative path from its own folder, one below the project's."""
    project = copy_project(remote=answer[0], remote_address=answer[1])
    config = configparser.ConfigParser()
    config.read(project / ".dvc/config")
    assert config["core"]["remote"] == "storage"
    assert config["'remote \"storage\"'"]["url"] == url


@pytest.mark.parametrize(("remote", "address"), WRONG_ADDRESSES)
def test_invalid_remote_address_is_rejected(
    copie: Copie, render: Renderer, remote: str, address: str
) -> None:
    """The message has an example for the chosen kind of remote."""
    error = rejection(copie, render, remote=remote, remote_address=address)
    start = {"local": "../", "s3": "s3://", "gcs": "gs://", "azure": "azure://"}[remote]
    assert f"such as {start}" in error


def test_every_question_has_help_a_default_and_a_check() -> None:
    """The check is a validator or a list of choices."""
    assert len(questions()) >= 10
    for name, question in questions().items():
        assert question["help"].strip(), name
        assert "default" in question, name
        assert question.get("validator") or len(choices(question)) > 1, name


def test_unknown_question_is_rejected(copy_project: CopyProject) -> None:
    """Copier ignores answers to questions that it does not ask: a typing error would test the defaults."""
    with pytest.raises(KeyError, match="pakage_name"):
        copy_project(pakage_name="x")


def test_names_of_python_and_of_libraries_are_reserved(
    macros: Mapping[str, Any], copy_project: CopyProject
) -> None:
    """Newer Pythons and new dependencies bring names that the list must learn."""
    python = {*sys.stdlib_module_names, *keyword.kwlist, *keyword.softkwlist}
    assert {name for name in python if re.fullmatch("[a-z][a-z0-9_]*", name)} <= {*macros["python"]}
    manifest = tomllib.loads((copy_project() / "pyproject.toml").read_text())
    groups = [manifest["project"]["dependencies"], *manifest["dependency-groups"].values()]
    lines = [line for group in groups for line in group if isinstance(line, str)]
    dependencies = {re.split(r"[^\w.-]", line)[0].lower().replace("-", "_") for line in lines}
    assert len(dependencies) >= 10
    assert dependencies <= {*macros["taken"]}
