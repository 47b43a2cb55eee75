"""Projects that are set up and run once, then copied for each worker and each test that writes."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from helpers import Renderer, answers, commit, once

Done = subprocess.CompletedProcess[str]
Json = Any  # content of a JSON document

# Variables of the tests' own environment that a project must not inherit.
OURS = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "UV_PYTHON", "BUNDLE"}

# Results of `make pipeline`.
RESULTS = ("data", "models", "reports", "docs/model-card.md", "docs/data-card.md", "dvc.lock", ".dvc/cache")

# Small scripts for a project's interpreter: the tests' own has no DuckDB.
EDIT = """
import duckdb, sys
path, query = sys.argv[1:]
con = duckdb.connect()
con.sql("SET threads = 1")
con.from_parquet(path).create("raw")
con.sql(query).write_parquet(path)
"""
ROWS = """
import duckdb, json, sys
rows = duckdb.sql(sys.argv[1])
named = [dict(zip(rows.columns, row)) for row in rows.fetchall()]
json.dump(named, sys.stdout, default=lambda time: time.isoformat())
"""


@dataclass(frozen=True)
class Project:
    """A rendered project and the environment that it runs in."""

    folder: Path
    package: str
    installed: bool = True
    """False: the environment is another project's, and the package is found by its path."""

    def environment(self) -> dict[str, str]:
        """Return the environment of a shell, with one thread per process for the sake of other workers."""
        variables = {name: value for name, value in os.environ.items() if name not in OURS}
        path = f"{self.folder / '.venv/bin'}{os.pathsep}{variables['PATH']}"
        variables |= {"PATH": path, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
        return variables if self.installed else variables | {"PYTHONPATH": str(self.folder / "src")}

    def run(self, *command: str | Path, fed: str | None = None) -> Done:
        """Run a command in the project, which may fail."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(),
            input=fed,
            capture_output=True,
            text=True,
            check=False,
        )

    def good(self, *command: str | Path) -> str:
        """Run a command that must succeed and return its output, progress included."""
        result = self.run(*command)
        assert result.returncode == 0, f"{command}:\n{result.stdout}{result.stderr}"
        return result.stdout + result.stderr

    def make(self, *target: str) -> str:
        """Run a target of the Makefile that must succeed."""
        return self.good("make", *target)

    @property
    def python(self) -> Path:
        """The project's interpreter."""
        return self.folder / ".venv/bin/python"

    def stage(self, name: str, *args: str | Path) -> Done:
        """Run a stage as people and DVC do."""
        return self.run(self.python, "-m", f"{self.package}.{name}", *args)

    def stages(self, *names: str) -> str:
        """Run stages that must succeed in one process, which saves the time of their imports."""
        modules = [f"{self.package}.{name}" for name in names]
        code = f"import runpy\nfor it in {modules}: runpy.run_module(it, run_name='__main__', alter_sys=True)"
        return self.good(self.python, "-c", code)

    def batch(self, source: str | Path, target: str | Path) -> str:
        """Score a file, which must succeed."""
        return self.good(self.python, "-m", f"{self.package}.serving.batch", source, target)

    def refusal(self, name: str, *args: str | Path) -> str:
        """Run a stage that must fail with exit code 1 and one message; return the message."""
        result = self.stage(name, *args)
        assert result.returncode == 1, f"{name} ended with {result.returncode}:\n{result.stderr}"
        assert "Traceback" not in result.stderr, result.stderr
        _, *messages = re.split("^error: ", result.stderr, flags=re.MULTILINE)
        assert len(messages) == 1, result.stderr
        return messages[0]

    def script(self, code: str, *args: str | Path) -> str:
        """Run a small script with the project's libraries."""
        return self.good(self.python, "-c", dedent(code), *args)

    @property
    def raw(self) -> Path:
        """The file of the rows of a single ingest."""
        (file,) = (self.folder / "data/raw").iterdir()
        return file

    def edit(self, query: str, path: str | Path = "") -> None:
        """Replace a table, by default the raw rows, by a query over it; the query names it `raw`."""
        self.script(EDIT, path or self.raw, query)

    def bring(self, query: str) -> None:
        """Make another table the source, from a query over the current one."""
        self.edit(query)
        self.raw.rename(self.folder.parent / "own.parquet")
        self.params("ingest: {source: ../own.parquet}")

    def rows(self, query: str) -> list[dict[str, Json]]:
        """Return the rows of a query over the project's files."""
        return json.loads(self.script(ROWS, query))

    def json(self, path: str) -> Json:
        """Read a report or a part of the bundle."""
        return json.loads((self.folder / path).read_text())

    @property
    def problem(self) -> Path:
        """The file that a data scientist edits."""
        return self.folder / "src" / self.package / "problem.py"

    def declare(self, *columns: str) -> None:
        """Add columns at the start of the contract."""
        added = "".join(f"        {column},\n" for column in columns)
        self.replace("    columns=(\n", f"    columns=(\n{added}")

    def replace(self, old: str, new: str, path: Path | None = None) -> None:
        """Replace a text that occurs once in problem.py, or in another file."""
        path = path or self.problem
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path}"
        path.write_text(text.replace(old, new))

    def params(self, text: str) -> None:
        """Replace params.yaml."""
        (self.folder / "params.yaml").write_text(dedent(text))

    def copy(self, folder: Path) -> "Project":
        """Copy all but the environment, which is shared."""
        skipped = shutil.ignore_patterns(".venv", "mlruns", "__pycache__", ".*_cache")
        shutil.copytree(self.folder, folder, symlinks=True, ignore=skipped)
        return replace(self, folder=folder, installed=False).using(self)

    def take_results(self, other: "Project") -> None:
        """Commit another project's results, as if the pipeline had run here."""
        for name in RESULTS:
            target, source = self.folder / name, other.folder / name
            copy = partial(shutil.copytree, dirs_exist_ok=True) if source.is_dir() else shutil.copy2
            copy(source, target)
        commit(self.folder, "first model")

    def using(self, other: "Project") -> "Project":
        """Share another project's environment through a link that git ignores."""
        (self.folder / ".venv").symlink_to((other.folder / ".venv").resolve())
        (self.folder / ".git/info/exclude").write_text(".venv\nuv.lock\n")
        if not (self.folder / "uv.lock").exists():
            shutil.copy2(other.folder / "uv.lock", self.folder)
        return self


def rendered(render: Renderer, folder: Path, **extra_answers: str) -> Project:
    """Render a project and commit it, as people do before anything else."""
    render.into(folder, **extra_answers)
    commit(folder, "start")
    return Project(folder, answers(folder)["package_name"])


@contextmanager
def quiet_dvc(folder: Path) -> Generator[None]:
    """Put DVC's site cache into a folder of this session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(folder))
        patch.setenv("DVC_NO_ANALYTICS", "1")
        yield


def copied(factory: pytest.TempPathFactory, name: str, start: Callable[[Path], Project]) -> Project:
    """Copy a project whose pipeline has run."""

    def make(folder: Path) -> None:
        start(folder).make("pipeline")
        commit(folder, "first model")

    origin = once(factory, name, make)
    return Project(origin, answers(origin)["package_name"]).copy(factory.mktemp(name) / "project")


@pytest.fixture(scope="session")
def project(render: Renderer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Set up the default project and run its pipeline. Read-only: tests that write use `work`."""

    def start(folder: Path) -> Project:
        fresh = rendered(render, folder, observability="prometheus")
        fresh.make("setup")
        commit(folder, "lock")  # the bundle names a commit that has all it was made with
        return fresh

    with quiet_dvc(tmp_path_factory.mktemp("dvc")):
        yield copied(tmp_path_factory, "default", start)


@pytest.fixture(scope="session")
def demand_project(render: Renderer, project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Run the demand starter in the environment of the default project, which has the same libraries."""

    def start(folder: Path) -> Project:
        return replace(rendered(render, folder, use_case="demand"), installed=False).using(project)

    return copied(tmp_path_factory, "demand", start)


@pytest.fixture
def work(project: Project, tmp_path: Path) -> Project:
    """Copy the default project, including its results, for a test that writes."""
    return project.copy(tmp_path / "project")


@pytest.fixture
def demand_work(demand_project: Project, tmp_path: Path) -> Project:
    """Copy the demand project for a test that writes."""
    return demand_project.copy(tmp_path / "project")


@pytest.fixture(params=["project", "demand_project"])
def either(request: pytest.FixtureRequest) -> Project:
    """Return each starter in turn, read-only."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def either_work(either: Project, tmp_path: Path) -> Project:
    """Copy each starter in turn for a test that writes."""
    return either.copy(tmp_path / "project")
