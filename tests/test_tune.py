"""Tuning finds the best, on cores and on hosts, and loses nothing when either is killed."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import PATIENCE, git
from project import Json, Project

TRIALS = """
import json, optuna, sys
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
found = []
for path in sys.argv[1:]:
    storage = JournalStorage(JournalFileBackend(path))
    (name,) = optuna.get_all_study_names(storage)
    for it in optuna.load_study(study_name=name, storage=storage).trials:
        found.append(dict(it.user_attrs, number=it.number, state=it.state.name, value=it.value,
                          params=it.params))
json.dump(found, sys.stdout)
"""
STORE = """
import mlflow, sys
mlflow.MlflowClient(f"sqlite:///{sys.argv[1]}/mlflow.db").search_experiments()
"""
LOGGED = """
import mlflow
mlflow.set_tracking_uri("sqlite:///mlruns/mlflow.db")
runs = mlflow.search_runs(experiment_names=["customer-churn tuning"], output_format="list")
print(sorted(int(run.data.tags["number"]) for run in runs))
"""
PARAMS = """\
# Ours.
train:
  seed: 0
  n_splits: 2 # quick
  estimator:
    max_leaf_nodes: 15 # as always
    learning_rate: 0.06

    max_iter: 30 # few
# The end.
tune: {{n_trials: {trials}, n_jobs: 2}}
"""
SLOW = "import time; time.sleep(0.5)"


@pytest.fixture(scope="session")
def store(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an empty store for MLflow once: its first use takes seconds."""
    folder = tmp_path_factory.mktemp("store") / "mlruns"
    folder.mkdir()
    project.script(STORE, folder)
    return folder


@pytest.fixture
def tuned(work: Project, store: Path) -> Project:
    """Make trials quick, and few."""
    shutil.copytree(store, work.folder / "mlruns", dirs_exist_ok=True)
    setup(work, 4)
    return work


def setup(work: Project, trials: int, more: str = "") -> None:
    """Ask for some trials."""
    (work.folder / "params.yaml").write_text(PARAMS.format(trials=trials).replace("2}", f"2{more}}}"))


def break_estimator(work: Project, code: str) -> None:
    """Put a statement before the estimator is made."""
    work.replace("    return HistGradient", f"    import os\n    {code}\n    return HistGradient")


def trials(work: Project) -> list[Json]:
    """List all trials of all studies."""
    journals = [str(path) for path in (work.folder / ".tuning").glob("*.log")]
    result = work.run(work.python, "-c", TRIALS, *journals)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def journal(work: Project) -> str:
    """Read Optuna's journals as text, which is quick enough to poll."""
    return "".join(path.read_text() for path in (work.folder / ".tuning").glob("*.log"))


def finished_workers(work: Project) -> list[str]:
    """List the worker of each trial that has finished so far."""
    return re.findall(r'"worker": ?"([^"]+)"', journal(work))


def in_progress(work: Project, finished: int) -> bool:
    """Return whether at least so many trials have finished and another one is running."""
    n_created = len(re.findall(r'"op_code": ?4\b', journal(work)))  # CREATE_TRIAL
    return finished <= len(finished_workers(work)) < n_created


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Wait for a condition while a process runs."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        if time.monotonic() > end:
            process.kill()  # else its `with` would wait for it
            raise TimeoutError(f"the condition was not met: {process.communicate()[0]}")
        time.sleep(0.05)


def words(text: str) -> list[str]:
    """Give keys and comments in their order, without the settings' values."""
    return re.sub(r"(max_leaf_nodes|learning_rate|max_iter): \S+", r"\1:", text).split()


def completed(all_trials: list[Json], count: int) -> list[Json]:
    """Return the trials with a result: as many as expected, and each interrupted one has run again."""
    results = [trial for trial in all_trials if trial["state"] == "COMPLETE"]
    assert len({str(trial["params"]) for trial in results}) == len(results) == count
    for trial in all_trials:
        assert any(trial["params"].items() <= result["params"].items() for result in results)
        assert trial["state"] != "RUNNING"
        assert not trial.get("error")
    return results


def test_tune_finds_the_best_and_writes_it_on_request(tuned: Project) -> None:
    """The first trial is what stands in params.yaml, so that the best is never worse."""
    before = (tuned.folder / "params.yaml").read_text()
    output = tuned.good("env", "-u", "TQDM_DISABLE", "make", "tune")
    all_trials = trials(tuned)
    completed(all_trials, 4)
    assert all_trials[0]["params"] == {"learning_rate": 0.06, "max_iter": 30, "max_leaf_nodes": 15}
    assert len({trial["worker"] for trial in all_trials}) == 2
    assert "4/4" in output
    best = max(all_trials, key=lambda trial: trial["value"])
    assert f"best roc_auc {best['value']:.4f} of 4 trials" in output
    assert (tuned.folder / "params.yaml").read_text() == before
    assert tuned.script(LOGGED).split("\n")[-2] == "[0, 1, 2, 3]"

    tuned.make("tune", "WRITE=1")
    assert trials(tuned) == all_trials
    after = (tuned.folder / "params.yaml").read_text()
    assert words(after) == words(before)
    assert after != before
    tuned.script(f"""
        from {tuned.package} import params
        assert params.load().train.estimator == {best["settings"]}
    """)
    assert git("status", "--porcelain", cwd=tuned.folder).split() == ["M", "params.yaml"]


def test_tune_minimises_an_error_metric(demand_work: Project) -> None:
    """The direction is the KPI's."""
    setup(demand_work, 3)
    output = demand_work.stages("training.tune")
    assert f"best mae {min(trial['value'] for trial in trials(demand_work)):.4f}" in output


def test_tune_reports_estimator_errors(tuned: Project) -> None:
    """One that fails does not stop the others; if all do, the reason is named."""
    break_estimator(tuned, "if settings['max_iter'] != 30: raise ValueError('not thirty')")
    tuned.stages("training.tune")
    first, *rest = trials(tuned)
    assert first["state"] == "COMPLETE"
    assert {(trial["state"], trial["error"]) for trial in rest} == {("FAIL", "ValueError: not thirty")}
    tuned.replace("!= 30", "> 0")
    error = tuned.refusal("training.tune")
    assert "all 4 trials failed, the last with ValueError: not thirty" in error


def test_studies_of_different_inputs_are_separate(tuned: Project) -> None:
    """What makes them comparable names the study."""
    output = tuned.script(f"""
        import msgspec
        from pathlib import Path
        from {tuned.package} import declarations, params
        from {tuned.package}.core.paths import TRAIN
        from {tuned.package}.training.tune import study_name

        def name(train, fixed={{}}):
            return study_name(declarations.load(), train, fixed)

        train = params.load().train
        replace = msgspec.structs.replace
        same = [name(train), name(replace(train, estimator={{"max_iter": 5}}))]
        problem = Path("src/{tuned.package}/problem.py")
        problem.write_text(problem.read_text() + "# A comment.\\n")
        same.append(name(train))
        other = [name(replace(train, seed=1)), name(replace(train, n_splits=3))]
        other.append(name(train, {{"max_bins": 50}}))
        TRAIN.write_bytes(TRAIN.read_bytes() + b"#")
        other.append(name(train))
        estimator = "    return HistGradient"
        problem.write_text(problem.read_text().replace(estimator, "    seed += 1\\n" + estimator))
        other.append(name(train))
        Path("src/{tuned.package}/custom/own.py").write_text("FACTOR = 2\\n")
        other.append(name(train))
        print(len({{*same}}), len({{*same, *other}}))
    """)
    assert output.split() == ["1", "7"]


@pytest.mark.parametrize("before", [PARAMS.format(trials=1), "# Ours.\n", "train:\n  seed: 1 # one\n"])
def test_written_parameters_are_read_unchanged(tuned: Project, before: str) -> None:
    """YAML has two minds about 1e-05 and about no."""
    (tuned.folder / "params.yaml").write_text(before)
    settings = {"max_iter": 9, "rate": 1e-05, "big": 2e22, "small": 1.5e-7, "loss": "no", "flag": True}
    tuned.script(f"""
        from {tuned.package} import params
        from {tuned.package}.training.tune import write_settings
        write_settings({settings})
        assert params.load().train.estimator == {settings}, params.load()
    """)
    after = (tuned.folder / "params.yaml").read_text()
    assert "# Ours." not in before or "# Ours." in after
    assert "# one" not in before or "seed: 1 # one" in after


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (", address: 'tcp://10.0.0.1:1'", "tune.address"),
        (", backend: ray", "uv sync --group ray"),
        (", backend: dask", "uv sync --group dask"),
        (", backend: slurm", "tune.backend"),
    ],
)
def test_tune_names_invalid_backend(tuned: Project, more: str, named: str) -> None:
    """With the way out."""
    setup(tuned, 4, more)
    assert named in tuned.refusal("training.tune")


def test_dvc_experiments_work(work: Project) -> None:
    """Change a setting, look, take it over or not: DVC's own commands."""
    work.good("dvc", "exp", "run", "--name", "fewer", "-S", "train.estimator.max_iter=40")
    git("checkout", "--quiet", ".", cwd=work.folder)
    work.good("dvc", "checkout")
    assert "max_iter: 80" in (work.folder / "params.yaml").read_text()
    before = work.json("reports/metrics.json")
    shown = work.good("dvc", "exp", "show", "--csv")
    assert re.search(r"^fewer,.*,40,", shown, re.M)
    work.good("dvc", "exp", "apply", "fewer")
    assert "max_iter: 40" in (work.folder / "params.yaml").read_text()
    assert work.json("reports/metrics.json") != before


def test_queued_experiment_runs_its_own_code(work: Project) -> None:
    """An editable install would import the working folder's: the README names the remedy."""
    work.problem.write_text(work.problem.read_text() + "\nprint('from', __file__)\n")
    command = ("dvc", "exp", "run", "--temp", "-S", "train.estimator.max_iter=5")
    readme = (work.folder / "README.md").read_text()
    assert "PYTHONPATH=src uv run dvc exp run --queue" in readme
    home = work.folder.parent  # DVC commits, and a newcomer may have no identity
    (home / ".gitconfig").write_text("[user]\nname = Tester\nemail = tester@example.com\n")
    output = work.good("env", "PYTHONPATH=src", f"HOME={home}", *command)
    assert {*re.findall(r"from .*/\.dvc/tmp/exps/", output)}
    assert f"from {work.problem}" not in output
