"""Any answer gives a project that holds it to the letter, or a message that says what to type."""

import configparser
import keyword
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from helpers import ROOT, Renderer, answers, choices, questions, run
from jinja2 import Environment, FileSystemLoader

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


def refusal(render: Renderer, folder: Path, **given: str) -> str:
    """Give the message that answers are refused with; nothing may have been written."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (callers match the message)
        render.into(folder / "project", **given)
    assert not (folder / "project").exists()
    return str(caught.value)


@pytest.mark.parametrize(("name", "package"), NAMES.items(), ids=lambda text: text[:20])
def test_a_name_survives_in_every_file(render: Renderer, name: str, package: str) -> None:
    """Each file format has its own idea of quotes, comments and special words."""
    project = render(project_name=name, project_description=name)
    manifest = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    assert manifest["name"] == package.replace("_", "-")
    assert manifest["description"] == name
    assert answers(project)["project_name"] == name
    assert (project / "README.md").read_text().splitlines()[0] == f"# {name}"
    assert isinstance(yaml.safe_load((project / "params.yaml").read_text()), dict)
    assert configparser.ConfigParser().read(project / ".dvc/config")
    run("make", "--dry-run", "help", cwd=project)


@pytest.mark.parametrize("package", sorted(set(NAMES.values())))
def test_a_derived_package_imports_as_itself(render: Renderer, package: str) -> None:
    """A package that a module of the standard library hides would import, as something else."""
    name = next(name for name, derived in NAMES.items() if derived == package)
    project = render(project_name=name, project_description=name)
    code = f"import {package}; print({package}.__file__)"
    found = run(sys.executable, "-B", "-c", code, cwd=project / "src").strip()
    assert Path(found) == project / "src" / package / "__init__.py"


@pytest.mark.parametrize(("answer", "message"), REFUSED.items(), ids=lambda pair: repr(pair)[:40])
def test_a_refusal_says_what_to_type(
    render: Renderer, tmp_path: Path, answer: tuple[str, str], message: str
) -> None:
    """People meet these messages in the middle of something else."""
    question, given = answer
    said = refusal(render, tmp_path, **{question: given})
    assert question in said
    assert message in said


@pytest.mark.parametrize(("answer", "url"), ADDRESSES.items(), ids=str)
def test_the_remote_reaches_dvc(render: Renderer, answer: tuple[str, str], url: str) -> None:
    """DVC reads a relative path from its own folder, one below the project's."""
    project = render(remote=answer[0], remote_address=answer[1])
    config = configparser.ConfigParser()
    config.read(project / ".dvc/config")
    assert config["core"]["remote"] == "storage"
    assert config["'remote \"storage\"'"]["url"] == url


@pytest.mark.parametrize(("remote", "address"), WRONG_ADDRESSES)
def test_a_wrong_address_is_refused(render: Renderer, tmp_path: Path, remote: str, address: str) -> None:
    """The example shown is of the chosen kind."""
    said = refusal(render, tmp_path, remote=remote, remote_address=address)
    start = {"local": "../", "s3": "s3://", "gcs": "gs://", "azure": "azure://"}[remote]
    assert f"such as {start}" in said


def test_every_question_explains_itself() -> None:
    """Help, a default, and a choice or a check for each."""
    assert len(questions()) >= 10
    for name, question in questions().items():
        assert question["help"].strip(), name
        assert "default" in question, name
        assert question.get("validator") or len(choices(question)) > 1, name


def test_unknown_answers_are_refused(render: Renderer, tmp_path: Path) -> None:
    """A misspelt key would test the defaults and call it a pass."""
    with pytest.raises(KeyError, match="pakage_name"):
        render.into(tmp_path / "project", pakage_name="x")


def test_names_of_python_and_of_libraries_are_taken(render: Renderer) -> None:
    """Newer Pythons and newly used libraries bring names that the list must learn."""
    filters = ["jinja2_ansible_filters.AnsibleCoreFiltersExtension"]  # Copier's own
    jinja = Environment(loader=FileSystemLoader(ROOT), extensions=filters, autoescape=True)
    names = vars(jinja.get_template("hooks/names.jinja").module)
    python = {*sys.stdlib_module_names, *keyword.kwlist, *keyword.softkwlist}
    assert {name for name in python if re.fullmatch("[a-z][a-z0-9_]*", name)} <= {*names["python"]}
    manifest = tomllib.loads((render() / "pyproject.toml").read_text())
    groups = [manifest["project"]["dependencies"], *manifest["dependency-groups"].values()]
    lines = [line for group in groups for line in group if isinstance(line, str)]
    used = {re.split(r"[^\w.-]", line)[0].lower().replace("-", "_") for line in lines}
    assert len(used) >= 10
    assert used <= {*names["taken"]}
