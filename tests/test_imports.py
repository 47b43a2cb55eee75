"""hooks/imports.py rewrites imports of moved modules and names, and no other byte."""

import ast
import json
from pathlib import Path

import pytest
import yaml
from helpers import ROOT

from hooks.imports import Moves, read_moves, rewrite_file

PACKAGE = "leavers"
TABLE = yaml.safe_load((ROOT / "hooks/moves-0.3.0.yaml").read_text())
PRESENT = (
    "params",
    "problem",
    "custom.features",
    "core.paths",
    "data.validate",
    "stats.metrics",
    "serving.metrics",
)


@pytest.fixture
def moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Moves:
    """Make a project after an update the working folder, and read its table of moves."""
    monkeypatch.chdir(tmp_path)
    for name in (*PRESENT, "evaluation.gate"):
        path = Path("src", PACKAGE, *name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return read_moves(PACKAGE, TABLE)


def rewrite(moves: Moves, text: str, name: str = "src/leavers/problem.py") -> tuple[str, list[str]]:
    """Rewrite a file of that text; return its new text and what is reported."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    problems = rewrite_file(path, moves)
    return path.read_bytes().decode(), problems


CASES = {
    "relative": ("from .validation.metrics import roc_auc", "from .stats.metrics import roc_auc"),
    "absolute": ("from leavers.validation.metrics import f", "from leavers.stats.metrics import f"),
    "module": ("from .validation import metrics", "from .stats import metrics"),
    "renamed module": ("from .validation import rules", "from .evaluation import checks as rules"),
    "renamed module with alias": (
        "from .validation import rules as r  # ours",
        "from .evaluation import checks as r  # ours",
    ),
    "module of the package": ("from . import repository", "from .core import git as repository"),
    "no blank": ("from .import repository", "from .core import git as repository"),
    "import as": ("import leavers.validation.metrics as m, os", "import leavers.stats.metrics as m, os"),
    "one name of a split module": (
        "from .stage import ProjectError as E",
        "from .core.errors import ProjectError as E",
    ),
    "split": (
        "from .stage import RAW, ProjectError",
        "from .core.paths import RAW\nfrom .core.errors import ProjectError",
    ),
    "split in a function": (
        "def f():\n\tfrom .stage import RAW, call; RAW\n",
        "def f():\n\tfrom .core.paths import RAW; from .core.shell import call; RAW\n",
    ),
    "split in a block": (
        "if 1:\r\n    from .stage import RAW, call # ours\r\n",
        "if 1:\r\n    from .core.paths import RAW\r\n    from .core.shell import call # ours\r\n",
    ),
    "comments in a split": (
        "from .stage import (\n    RAW,  # the rows\n    # runs git\n    call, table\n)\n",
        "from .core.paths import (\n    RAW,  # the rows\n)\n"
        "from .core.shell import (\n    # runs git\n    call,\n)\n"
        "from .core.files import table\n",
    ),
    "several lines": (
        "from  .validation.metrics  import (  # ours\n    a,\n    b as c,  # best\n)\n",
        "from  .stats.metrics  import (  # ours\n    a,\n    b as c,  # best\n)\n",
    ),
    "continuation": (
        "from \\\n .validation.metrics import a, \\\n b",
        "from \\\n .stats.metrics import a, \\\n b",
    ),
    "several modules": (
        "from .validation import metrics, gate, rules as r",
        "from .stats import metrics\nfrom .evaluation import gate, checks as r",
    ),
    "a split module used for one part": (
        "from . import stage\nstage.RAW; stage.TRAIN",
        "from .core import paths as stage\nstage.RAW; stage.TRAIN",
    ),
    "a split module by its path": (
        "import leavers.stage as s\ns.call('git')",
        "import leavers.core.shell as s\ns.call('git')",
    ),
    "star": ("from .validation.metrics import *", "from .stats.metrics import *"),
    "a name that left its module": (
        "from .data.validate import Findings, main",
        "from .data.report import DataReport as Findings\nfrom .data.validate import main",
    ),
    "a split module of which nothing is used": ("from . import stage", "from .core import paths as stage"),
    "a module that lost a name which is not used": (
        "from .data import validate\nvalidate.f",
        "from .data import validate\nvalidate.f",
    ),
    "beside other text": (
        "# from .stage import RAW\nTEXT = '''from .stage import RAW''' ; from .stage import RAW # ü\n",
        "# from .stage import RAW\nTEXT = '''from .stage import RAW''' ; from .core.paths import RAW # ü\n",
    ),
    "behind other letters": ("ü = 'ü'; from .stage import RAW", "ü = 'ü'; from .core.paths import RAW"),
    "byte order mark": ("\ufefffrom .stage import RAW\n", "\ufefffrom .core.paths import RAW\n"),
}


@pytest.mark.parametrize(("before", "after"), CASES.values(), ids=CASES)
def test_imports_are_rewritten(moves: Moves, before: str, after: str) -> None:
    """In each form; a second run changes nothing."""
    assert rewrite(moves, before) == (after, [])
    ast.parse(after.removeprefix("\ufeff"))
    assert rewrite(moves, after) == (after, [])


UNCHANGED = (
    "from .params import load\nfrom . import params, problem\nimport os, json",
    "from .contract import Contract, Column",
    "from stage import RAW\nimport validation.metrics as m",  # of another package
    "from .validation.own import f",  # the project's own module there
    "from validation.importer import x",
    "from . import(params)",
)


@pytest.mark.parametrize("text", UNCHANGED)
def test_all_else_stays(moves: Moves, text: str) -> None:
    """Imports of what did not move."""
    assert rewrite(moves, text) == (text, [])


FOLDERS = {
    "src/leavers/custom/features.py": ("from ..validation.metrics import f", "from ..stats.metrics import f"),
    "src/leavers/custom/__init__.py": ("from ..stage import call", "from ..core.shell import call"),
    "src/leavers/validation/own.py": (
        "from .metrics import f\nfrom ..stage import RAW",
        "from ..stats.metrics import f\nfrom ..core.paths import RAW",
    ),
    "src/leavers/evaluation/gate.py": (  # moved from validation/: a line of the project's from before
        "from .metrics import f\nfrom ..stats.metrics import g\nfrom .plots import h",
        "from ..stats.metrics import f\nfrom ..stats.metrics import g\nfrom .plots import h",
    ),
    "src/leavers/model/bundle.py": ("from .metrics import f", "from ..serving.metrics import f"),
    "tests/test_own.py": (
        "from leavers import stage\nfrom .stage import RAW\nstage.call()",
        "from leavers.core import shell as stage\nfrom .stage import RAW\nstage.call()",
    ),
    "notebooks/look.py": ("# %%\nfrom leavers.stage import RAW", "# %%\nfrom leavers.core.paths import RAW"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_relative_imports_count_from_their_file(moves: Moves, name: str) -> None:
    """In the package, beside it, and in a file that moved itself."""
    before, after = FOLDERS[name]
    assert rewrite(moves, before, name) == (after, [])


REPORTED = {
    "import leavers.validation.metrics\nleavers.validation.metrics.f": "leavers.stats.metrics",
    "from . import stage\nstage.RAW, stage.call": "leavers.core.paths, leavers.core.shell",
    "from .stage import *": "leavers.core.errors, ",
    "from .stage import RAW\n<<<<<<< before updating": "no valid Python",
}


@pytest.mark.parametrize("text", REPORTED)
def test_an_import_that_cannot_be_rewritten_is_reported(moves: Moves, text: str) -> None:
    """With its place; the file stays as it is."""
    rewritten, (problem,) = rewrite(moves, text)
    assert rewritten == text
    assert problem.startswith("src/leavers/problem.py:1: ")
    assert REPORTED[text] in problem


def top_level_names(path: Path) -> set[str]:
    """Return the names that a module of the template defines or imports."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
        names |= {node.name} if isinstance(node, ast.FunctionDef | ast.ClassDef) else set()
    return names


def test_table_names_what_the_template_has() -> None:
    """Every new module is one of the package, and every new name is defined in its module."""
    package_folder = ROOT / "template/src/{{ package_name }}"
    assert [new for new in TABLE["modules"].values() if not (package_folder / new).exists()] == []
    places = [new.rpartition(".") for new in TABLE["names"].values()]
    assert [
        (module, name)
        for module, _, name in places
        if name not in top_level_names(package_folder.joinpath(*module.split(".")).with_suffix(".py"))
    ] == []


def notebook(*sources: object, indent: int = 1) -> str:
    """Write a notebook of code cells and a text."""
    cells = [{"cell_type": "code", "source": source, "outputs": []} for source in sources]
    text = {"cell_type": "markdown", "source": ["from leavers.stage import RAW"]}
    return json.dumps({"cells": [*cells, text]}, indent=indent, ensure_ascii=False) + "\n"


def test_notebooks_are_rewritten_cell_by_cell(moves: Moves) -> None:
    """Commands of IPython and all else in the file stay."""
    before = notebook(
        ["%time 1\n", "!ls ü\n", "from leavers.stage import RAW\n", "RAW"], "%%bash\nls {", "1 +"
    )
    after = before.replace('"from leavers.stage import RAW\\n"', '"from leavers.core.paths import RAW\\n"')
    assert rewrite(moves, before, "notebooks/look.ipynb") == (after, [])


def test_a_notebook_of_another_layout_is_reported(moves: Moves) -> None:
    """To write it anew would change more than imports."""
    before = notebook("from leavers.stage import RAW", indent=3)
    text, (problem,) = rewrite(moves, before, "notebooks/look.ipynb")
    assert text == before
    assert "save the notebook in Jupyter" in problem


@pytest.mark.parametrize("content", [b"\xff = 1", b"", b"{}"])
def test_files_of_other_kinds_stay(moves: Moves, content: bytes) -> None:
    """Of another encoding, empty, or no notebook."""
    for name in ("other.py", "other.ipynb"):
        Path(name).write_bytes(content)
        assert rewrite_file(Path(name), moves) == []
        assert Path(name).read_bytes() == content
