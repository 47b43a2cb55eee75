"""From a table to a verdict in two commands, over tables of many shapes."""

import json
import re
import shlex
from pathlib import Path

import pytest
from project import Project

FOLDER = Path(__file__).parent
TABLES = re.findall(r'^    "(.+)": ', (FOLDER / "tables.py").read_text(), flags=re.MULTILINE)
REFUSED = {"one class": "nothing to predict", "texts": "no column can be a feature"}
MAKER = FOLDER / "tables.py"
STAGES = ("declarations", "data.ingest", "data.validate", "data.split", "training.train", "model.build")
STAGES += ("evaluation.evaluate", "evaluation.gate")

Options = dict[str, str]


def make_table(project: Project, folder: Path, name: str) -> Options:
    """Write a table; return the options of `make contract`."""
    folder.mkdir()
    return json.loads(project.run(project.python, "-W", "ignore", MAKER, folder, name).stdout)[name]


def contract(project: Project, options: Options) -> str:
    """Run `make contract WRITE=1`; return what it says."""
    arguments = [f"--{name}={value}" for name, value in options.items() if name != "shape"]
    result = project.stage("data.proposal", "--write", *arguments)
    assert "Traceback" not in result.stderr, result.stderr
    return result.stdout + result.stderr


def pipeline(project: Project) -> str:
    """Run all stages and the gate; return the verdict, or the sentence that says why there is none."""
    modules = [f"{project.package}.{name}" for name in STAGES]
    code = f"import runpy\nfor it in {modules}: runpy.run_module(it, None, '__main__', True)"
    result = project.run(project.python, "-W", "ignore", "-c", code)
    assert "Traceback" not in result.stderr, result.stderr
    if match := re.search(r"gate: (\w+) model", result.stdout):
        return match[1]
    sentence = result.stderr.split("error: ")[-1].strip()
    return "block" if sentence.startswith("the gate blocks") else f"stopped: {sentence}"


STOPPED = {"titanic passengers": "equal a training row", "starwars": "validate.min_class_rows"}


@pytest.mark.parametrize("name", [name for name in TABLES if name not in REFUSED])
def test_table_reaches_a_verdict_or_a_sentence(work: Project, name: str, tmp_path: Path) -> None:
    """The files that are written pass lint and tests, too."""
    message = contract(work, make_table(work, tmp_path / "tables", name))
    assert "Written: " in message, message
    result = pipeline(work)
    assert STOPPED[name] in result if name in STOPPED else result in ("promote", "keep", "block")
    written = (work.problem, "tests/test_problem.py")
    work.good("ruff", "check", *written)
    work.good("ruff", "format", "--check", *written)
    work.good(work.python, "-m", "pytest", "tests/test_problem.py")


@pytest.mark.parametrize("name", REFUSED)
def test_table_without_a_model_is_refused(work: Project, name: str, tmp_path: Path) -> None:
    """Nothing is written."""
    assert REFUSED[name] in contract(work, make_table(work, tmp_path / "tables", name))
    assert work.run("git", "status", "--porcelain").stdout == ""


def test_commands_take_spaces_and_quotes(work: Project, tmp_path: Path) -> None:
    """As people type them, in a shell."""
    options = make_table(work, tmp_path / "tables", "german")
    source = tmp_path / 'it\'s 100 % "mine".csv'
    Path(options["source"]).rename(source)
    command = ["make", "contract", f"SOURCE={source}", f"TARGET={options['target']}", "KEY=Straße"]
    printed = work.good("sh", "-c", shlex.join(command))
    (suggested,) = re.findall("^Nothing was written. To write it: (.*)$", printed, flags=re.MULTILINE)
    assert "make pipeline" in work.good("sh", "-c", suggested)
    assert work.run("make", "pipeline").returncode in (0, 2)
    assert work.json("reports/gate.json")["verdict"] in ("promote", "block")
