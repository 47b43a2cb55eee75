"""A fresh project keeps its promises: it runs, again the same, and comes back from its remote."""

import ast
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from helpers import commit, files, git
from project import Project

# Modules that a stage may use without depending on them: they decide nothing about its results.
PLUMBING = {"declarations", "params", "core"}
# What the same commit reports anywhere; the bundle's report has a latency and a commit in it.
REPORTS = tuple(f"reports/{name}" for name in ("data", "metrics.json", "evaluation.json", "training.json"))


def contents(project: Project, *paths: str) -> dict[str, bytes]:
    """Read files and folders, without DVC's notes to git; nothing at all would equal anything."""
    roots = [project.folder / path for path in paths]
    paths_below = [file for path in roots for file in ([path] if path.is_file() else files(path))]
    assert paths_below
    return {
        str(path.relative_to(project.folder)): path.read_bytes()
        for path in paths_below
        if path.name != ".gitignore"
    }


def ran(output: str) -> list[str]:
    """List the stages that DVC says it ran."""
    return re.findall(r"Running stage '(\w+)'", output)


def clone(project: Project, folder: Path) -> Project:
    """Clone a project as a colleague does: without data, models and cache."""
    git("clone", "--quiet", project.folder, folder, cwd=project.folder)
    return replace(project, folder=folder, installed=False).using(project)


def test_make_test_passes_without_warnings(project: Project) -> None:
    """No library warns; tests/services runs the tests of the demand starter."""
    output = project.make("test")
    assert re.search(r"\d+ passed", output)
    assert not re.search("leaked|DeprecationWarning|ConvergenceWarning", output)


def test_model_beats_the_baseline(either: Project) -> None:
    """A pipeline can be green and have learned nothing."""
    report = either.json("reports/evaluation.json")
    name = "mae" if "mae" in report["metrics"] else "log_loss"
    assert report["metrics"][name] < 0.8 * report["baseline"][name]
    assert either.json("reports/metrics.json") == report["metrics"]


def test_make_check_finds_nothing(either_work: Project) -> None:
    """Also once `make setup` and `make pipeline` have added their files."""
    output = either_work.make("check")
    assert "(ty)" in output
    assert "Failed" not in output
    assert git("status", "--porcelain", cwd=either_work.folder) == ""


def test_second_pipeline_run_does_nothing(either_work: Project) -> None:
    """Nothing runs, and git has nothing to say."""
    before = contents(either_work, "data", "models", "reports")
    assert ran(either_work.make("pipeline")) == []
    assert contents(either_work, "data", "models", "reports") == before
    assert git("status", "--porcelain", cwd=either_work.folder) == ""


def test_dvc_pull_restores_data_and_models(work: Project) -> None:
    """A folder next to the project by default, so that it works before anyone has an account."""
    before = contents(work, "data", "models/bundle")
    work.good("dvc", "push")
    assert files(work.folder.parent / "customer-churn-remote")
    for folder in ("data", "models", ".dvc/cache"):
        shutil.rmtree(work.folder / folder)
    work.good("dvc", "pull")
    assert contents(work, "data", "models") == before  # the estimator does not travel


def test_clone_needs_no_training_after_dvc_pull(work: Project, tmp_path: Path) -> None:
    """What DVC does not bring back is cheap to make again; splitting and training is not."""
    work.good("dvc", "push")
    other = clone(work, tmp_path / "clone")
    assert "WARNING" not in other.good("dvc", "pull")
    output = other.make("pipeline")
    assert not {"ingest", "split", "train", "bundle"} & {*ran(output)}
    assert contents(other, "data", "models/bundle") == contents(work, "data", "models/bundle")


def test_distributions_do_not_depend_on_threads(work: Project) -> None:
    """Sums of floats in another order end in other digits; the bundle's version hashes them."""
    output = work.script(f"""
        import duckdb
        from {work.package}.contract import Column, Contract
        from {work.package}.stats.distributions import summarize_columns
        contract = Contract(task="regression", key="k", target="x", columns=(
            Column("k", "text"), Column("x", "number"), Column("y", "number")))
        con = duckdb.connect()
        con.sql("SELECT setseed(0.5)")
        con.sql("CREATE TABLE t AS SELECT i::VARCHAR AS k, random() * 1e6 AS x, random() AS y "
                "FROM range(2_000_000) r(i)")
        con.sql("SET threads = 4")
        print(len({{str(summarize_columns(con, "t", contract)) for _ in range(12)}}))
    """)
    assert output.strip() == "1"


def test_help_lists_every_target(project: Project) -> None:
    """A target that help does not name is found by nobody."""
    makefile = (project.folder / "Makefile").read_text()
    targets = re.findall(r"^([a-z][\w-]*):", makefile, re.M)
    listed = re.findall(r"^  make ([\w-]+) +\S", project.make("help"), re.M)
    assert len(targets) > 5
    assert listed == targets
    assert project.make() == project.make("help")


def test_pipeline_runs_with_default_parameters(work: Project) -> None:
    """A new section of the standard must not break a project that has never heard of it."""
    work.params("# all defaults\n")
    output = work.make("pipeline")
    assert {"params", "train", "evaluate"} <= {*ran(output)}
    assert work.json("models/bundle/metadata.json")["parameters"]["train"]["estimator"] == {}


@pytest.mark.parametrize("setting", ["learning_rat: 0.1", "learning_rate: high"])
def test_train_names_invalid_estimator_parameter(work: Project, setting: str) -> None:
    """Its settings are the library's; that they came from params.yaml has to be said here."""
    work.params(f"train: {{estimator: {{{setting}}}}}")
    error = work.refusal("training.train")
    assert setting.split(":")[0] in error
    assert "train.estimator" in error


@pytest.fixture(scope="module")
def changed(demand_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Change two things in the problem that change neither the rows nor the model, and run."""
    work = demand_project.copy(tmp_path_factory.mktemp("changed") / "project")
    work.replace(' = "demand_week_before"\n', ' = "demand_day_before"\n')
    work.replace('Column("temperature", "number", -10, 50', 'Column("temperature", "number", -10, 60')
    work.make("pipeline")
    return work


def test_changed_limit_reaches_the_bundle(changed: Project) -> None:
    """The API enforces the bundle's contract: an old one would refuse rows that are now allowed."""
    columns = changed.json("models/bundle/contract.json")["columns"]
    assert next(c["max"] for c in columns if c["name"] == "temperature") == 60


def test_changed_baseline_reaches_the_evaluation(changed: Project, demand_project: Project) -> None:
    """The gate compares with it."""
    report = "reports/evaluation.json"
    before, after = demand_project.json(report), changed.json(report)
    assert after["metrics"] == before["metrics"]
    assert after["baseline"] != before["baseline"]


def outdated(work: Project) -> set[str]:
    """List the stages that would rerun, after the first one has written what they depend on."""
    work.good("dvc", "repro", "--quiet", "params")
    return set(json.loads(work.run("dvc", "status", "--json").stdout))


def test_owner_of_a_kpi_reruns_no_stage(work: Project) -> None:
    """Only the gate and the cards read it."""
    work.replace(' owner="customer retention",\n        meaning="Of', ' owner="sales",\n        meaning="Of')
    assert outdated(work) == set()


def test_module_in_custom_trains_again(work: Project) -> None:
    """The estimator may use it, and so may metrics of your own."""
    (work.problem.parent / "custom/features.py").write_text("RATIO = 2\n")
    assert outdated(work) == {"estimator", "train", "bundle", "evaluate"}


def test_new_scikit_learn_trains_again(work: Project) -> None:
    """The same code gives another model."""
    metadata = work.folder / "src/scikit_learn-99.0.dist-info/METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: scikit-learn\nVersion: 99.0\n")
    with (work.folder / "uv.lock").open("a") as lock:
        lock.write("# another environment\n")
    assert outdated(work) == {"estimator", "validate", "train", "bundle"}


def run_time(tree: ast.Module) -> Iterator[ast.AST]:
    """Walk over a module's code, without what only type checkers read."""
    for node in tree.body:
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield from ast.walk(node)


def imported(path: Path, package: Path) -> set[str]:
    """List the package's modules that a module imports, as paths below the package."""
    modules = set()
    for node in run_time(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1] / (node.module or "").replace(".", "/")
            names = [base / name.name for name in node.names]
            modules |= {module for module in (base, *names) if module.with_suffix(".py").exists()}
    return {module.relative_to(package).as_posix() for module in modules}


def needed(module: str, package: Path) -> set[str]:
    """Follow imports to the end."""
    visited: set[str] = set()
    waiting = {module}
    while waiting:
        name = waiting.pop()
        visited.add(name)
        if name.split("/")[0] not in PLUMBING:
            waiting |= imported(package / f"{name}.py", package) - visited
    return {name for name in visited if name.split("/")[0] not in PLUMBING}


@pytest.mark.parametrize("name", ["estimator", "validate", "split", "train", "bundle", "evaluate"])
def test_stage_depends_on_every_module_it_imports(project: Project, name: str) -> None:
    """Otherwise a change of it leaves old results standing, and DVC calls them up to date."""
    stage = yaml.safe_load((project.folder / "dvc.yaml").read_text())["stages"][name]
    module = stage["cmd"].split(f"{project.package}.")[1].replace(".", "/")
    source = f"src/{project.package}/"
    covered = {path.removeprefix(source).removesuffix(".py") for path in stage["deps"]}
    missing = needed(module, project.folder / source) - covered
    assert {path for path in missing if path.split("/")[0] not in covered} == set()


def test_git_tracks_no_data_and_no_models(project: Project) -> None:
    """DVC keeps the content, git the pointers to it."""
    tracked = git("ls-files", cwd=project.folder).splitlines()
    assert "dvc.lock" in tracked
    assert "uv.lock" in tracked
    assert "reports/metrics.json" in tracked
    assert not [name for name in tracked if name.startswith(("data/", "models/"))]


def test_bundle_names_commit_and_library_versions(project: Project) -> None:
    """A commit to check out, and the parameters and versions it was made with."""
    metadata = project.json("models/bundle/metadata.json")
    start = git("rev-parse", "HEAD~1", cwd=project.folder).strip()
    assert metadata["commit"] == start
    assert metadata["version"] == metadata["sha256"][:12]
    assert {"scikit-learn", "onnxruntime", "python"} <= metadata["libraries"].keys()


def test_bundle_of_uncommitted_code_says_so(work: Project) -> None:
    """A commit that does not make the model is not named as if it did; one with other results is."""
    (work.folder / "README.md").write_text("# Changed\n")
    head = git("rev-parse", "HEAD", cwd=work.folder).strip()
    work.stages("model.build")
    assert work.json("models/bundle/metadata.json")["commit"] == head
    work.replace("max_iter: 80", "max_iter: 70", work.folder / "params.yaml")
    assert "params.yaml" in work.stages("model.build")
    assert work.json("models/bundle/metadata.json")["commit"] == f"{head}-dirty"


def test_model_version_does_not_depend_on_the_commit(work: Project) -> None:
    """The version is about content: a changed README must not look like a new model."""
    before = work.json("models/bundle/metadata.json")["version"]
    (work.folder / "README.md").write_text("# Changed\n")
    commit(work.folder, "change the README")
    work.stages("model.build")
    assert work.json("models/bundle/metadata.json")["version"] == before
