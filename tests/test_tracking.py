"""MLflow mirrors each state of a project, whole, once, and also after an outage."""

import hashlib
import json
import re
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest
from helpers import commit, files, git, run
from project import Done, Json, Project

STATE = "from {package}.model import tracking; tracking.sync()"
TRIALS = """
    from {package}.model import tracking
    for number in range(3):
        metrics = {{"loss": number / 10, "diverged": float("nan")}}
        tracking.queue_trial("depth", number, {{"tree": {{"depth": number}}}}, metrics)
    tracking.upload_pending()
"""
# What MLflow has to say, asked through its own client.
LOOK = """
    import hashlib, json, logging, sys
    from pathlib import Path
    import mlflow
    mlflow.set_tracking_uri(sys.argv[1])
    logging.getLogger("mlflow").setLevel("ERROR")
    client = mlflow.MlflowClient()
    def digests(address, prefix=""):
        folder = Path(mlflow.artifacts.download_artifacts(address))
        found = [path for path in folder.rglob("*") if path.is_file()]
        names = {prefix + str(path.relative_to(folder)): path for path in found}
        return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in names.items()}
    def held(run):
        models = client.search_logged_models([run.info.experiment_id])
        models = [model for model in models if model.source_run_id == run.info.run_id]
        assert len(models) <= 1 and all(model.status == "READY" for model in models)
        parts = [digests(f"models:/{model.model_id}", "model/") for model in models]
        listed = client.list_artifacts(run.info.run_id)
        parts += [digests(f"runs:/{run.info.run_id}/{part.path}", part.path + "/") for part in listed]
        return {name: digest for part in parts for name, digest in part.items()}
    runs = [
        {"experiment": experiment.name, "status": run.info.status, "files": held(run),
         "parameters": run.data.params, "metrics": run.data.metrics, "tags": run.data.tags}
        for experiment in client.search_experiments()
        for run in client.search_runs([experiment.experiment_id], order_by=["tags.entry"])
    ]
    models = client.search_registered_models()
    versions = {str(it.version): it.tags for it in client.search_model_versions()}
    aliases = {k: str(v) for it in models for k, v in client.get_registered_model(it.name).aliases.items()}
    print(json.dumps({"runs": runs, "models": [it.name for it in models], "versions": versions,
                      "aliases": aliases}))
"""


def judged(work: Project, verdict: str, *reasons: str, production: str | None = None) -> str:
    """Let the gate have spoken on the bundle that is there; its version."""
    version = work.json("models/bundle/metadata.json")["version"]
    report = {"verdict": verdict, "model_version": version, "production": production, "reasons": reasons}
    (work.folder / "reports/gate.json").write_text(json.dumps(report))
    return version


def retrained(work: Project, seed: int) -> None:
    """Make another model and its bundle."""
    work.params(f"train: {{n_splits: 2, estimator: {{max_iter: {seed}}}}}")
    work.stages("declarations", "training.train", "model.build", "evaluation.evaluate")


def script(work: Project, code: str) -> Done:
    """Run a small script that must succeed; what it said, errors apart."""
    result = work.run(work.python, "-c", dedent(code).format(package=work.package))
    assert result.returncode == 0, result.stderr
    return result


def look(work: Project, address: str = "sqlite:///mlruns/mlflow.db") -> Json:
    """Ask MLflow for all it has."""
    return json.loads(work.script(LOOK, address).splitlines()[-1])


def digests(folder: Path, *names: str) -> dict[str, str]:
    """The digest of each file below some folders."""
    paths = [path for name in names for path in files(folder / name)]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def state(work: Project) -> dict[str, str]:
    """What a run must hold: every report, and its MLflow model with the bundle and the code."""
    reports = digests(work.folder, "reports")
    assert {Path(name).suffix for name in reports} >= {".md", ".png"}
    bundle = digests(work.folder / "models", "bundle")
    code = {
        n: digest for n, digest in digests(work.folder / "src", work.package).items() if n.endswith(".py")
    }
    model = {f"data/{name}": digest for name, digest in bundle.items()}
    model |= {f"code/{name}": digest for name, digest in code.items()}
    return {f"model/{name}": digest for name, digest in model.items()} | reports


def logged_files(run: Json) -> dict[str, str]:
    """The files that a run holds, without those that MLflow writes itself."""
    own = re.compile(r"model/(MLmodel|registered_model_meta|[^/]+\.(json|txt|yaml))")
    return {name: digest for name, digest in run["files"].items() if not own.fullmatch(name)}


def waiting(work: Project) -> list[Path]:
    """What is kept until MLflow takes it."""
    return sorted((work.folder / "mlruns/pending").glob("[!.]*"))


@contextmanager
def set_to(address: str) -> Generator[None]:
    """Point projects to another MLflow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", address)
        yield


def champion(work: Project, version: str) -> str:
    """Tell of a deployment."""
    return script(
        work, f"from {{package}}.model import tracking; tracking.set_champion_alias('{version}')"
    ).stderr


@pytest.fixture
def fresh(work: Project) -> Project:
    """Copy a project of which MLflow has never heard."""
    judged(work, "promote", "the first")
    return work


@pytest.fixture(scope="module")
def logged_project(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Log one state of a project, whose data came from a database."""
    work = project.copy(tmp_path_factory.mktemp("told") / "project")
    judged(work, "promote", "better than the baseline", "no segment is worse")
    train = work.json(".params/train.json")
    train["estimator"] |= {"hint": "x" * 10_000, "nothing": None}  # more than MLflow takes, and less
    (work.folder / ".params/train.json").write_text(json.dumps(train))
    ingest = work.folder / ".params/ingest.json"
    ingest.write_text('{"source": "postgresql://me:hunter2@host/db", "query": "SELECT 1"}')
    assert script(work, STATE).stderr == ""
    return work


def test_run_contains_parameters_metrics_reports_and_bundle(logged_project: Project) -> None:
    """Parameters, metrics, reports, bundle, and where they come from."""
    contents = look(logged_project)
    (logged,) = contents["runs"]
    metadata = logged_project.json("models/bundle/metadata.json")
    origin = {"data": metadata["data"], "commit": metadata["commit"], "model_version": metadata["version"]}
    origin |= {
        "verdict": "promote",
        "production": "none",
        "reasons": "better than the baseline\nno segment is worse",
    }
    means = logged_project.json("reports/training.json")["mean"]
    measured = logged_project.json("reports/metrics.json") | {
        f"cross_validated.{key}": value for key, value in means.items()
    }
    assert logged["experiment"] == "customer-churn"
    assert logged["status"] == "FINISHED"
    assert logged_files(logged) == state(logged_project)
    assert "model/MLmodel" in logged["files"]
    assert origin.items() <= logged["tags"].items()
    assert logged["parameters"]["train.estimator.max_iter"] == "80"
    assert logged["parameters"]["split.test_size"] == "0.2"
    assert len(logged["parameters"]["train.estimator.hint"]) == 5000
    assert logged["parameters"]["train.estimator.nothing"] == "none"
    assert measured.items() <= logged["metrics"].items()
    assert contents["models"] == ["customer-churn"]
    assert origin.items() <= contents["versions"]["1"].items()
    assert contents["aliases"] == {"challenger": "1"}
    held = [path.read_bytes() for path in files(logged_project.folder / "mlruns")]
    assert len(held) > 10
    assert not any(b"hunter2" in content for content in held)


def test_registry_returns_the_bundle(logged_project: Project, tmp_path: Path) -> None:
    """By its alias, as an MLflow model, to whoever wants to serve it from there."""
    code = """
        import sys, mlflow
        mlflow.set_tracking_uri("sqlite:///mlruns/mlflow.db")
        mlflow.artifacts.download_artifacts("models:/customer-churn@challenger", dst_path=sys.argv[1])
    """
    logged_project.script(code, tmp_path / "model")
    assert digests(tmp_path / "model/data", "bundle") == digests(logged_project.folder / "models", "bundle")
    assert not [path for path in files(tmp_path) if path.suffix in (".pkl", ".pickle", ".joblib", ".pyc")]


def test_known_state_is_not_logged_again(logged_project: Project) -> None:
    """Nor is MLflow imported, which takes longer than all else; another address knows nothing yet."""
    code = STATE + "; import sys; print('mlflow' in sys.modules)"
    assert script(logged_project, code).stdout == "False\n"
    assert "MLflow is up to date" in logged_project.make("sync-mlflow")
    with set_to("sqlite:///mlruns/elsewhere.db"):
        assert script(logged_project, code).stdout == "True\n"
        assert script(logged_project, code).stdout == "False\n"
    for store in ("mlflow", "elsewhere"):
        assert len(look(logged_project, f"sqlite:///mlruns/{store}.db")["runs"]) == 1


def test_unknown_champion_is_a_warning(logged_project: Project) -> None:
    """A deployment is done when this is called: it must not fail for it."""
    output = champion(logged_project, "0123")
    assert re.fullmatch(r"warning: .* has no model_version 0123: .*\n", output)
    assert waiting(logged_project) == []


def test_deployment_sets_a_tag_and_an_alias(fresh: Project) -> None:
    """Said twice it is one; the next commit's is the next of the day, and ten comes after nine."""
    commit(fresh.folder, "the first")
    fresh.good("dvc", "push")
    script(fresh, STATE)
    tags = [re.findall(r" as (\S+)", fresh.make("tag-production"))[0] for _ in range(2)]
    assert tags[0] == tags[1]
    assert re.fullmatch(r"production/\d{4}-\d\d-\d\d-1", tags[0])
    assert look(fresh)["aliases"] == {"champion": "1"}
    git("tag", tags[0][:-1] + "9", cwd=fresh.folder)
    (fresh.folder / "news.txt").write_text("A word.\n")
    commit(fresh.folder, "another commit")
    assert f" as {tags[0]}0" in fresh.make("tag-production")


def test_aliases_follow_gate_and_deployment(fresh: Project) -> None:
    """Challenger: who may go into production. Champion: who is there."""
    first = fresh.json("models/bundle/metadata.json")["version"]
    script(fresh, STATE)
    champion(fresh, first)
    assert look(fresh)["aliases"] == {"champion": "1"}
    retrained(fresh, 11)
    second = judged(fresh, "block")
    script(fresh, STATE)
    assert look(fresh)["aliases"] == {"champion": "1"}
    judged(fresh, "promote", "the margin was widened", production=first)
    script(fresh, STATE)
    contents = look(fresh)
    assert contents["aliases"] == {"champion": "1", "challenger": "2"}
    assert {key: tags["model_version"] for key, tags in contents["versions"].items()} == {
        "1": first,
        "2": second,
    }
    assert contents["versions"]["2"]["verdict"] == "promote"
    assert [run["tags"]["verdict"] for run in contents["runs"]] == ["promote", "block", "promote"]
    champion(fresh, second)
    assert look(fresh)["aliases"] == {"champion": "2"}


def test_interrupted_run_is_completed(fresh: Project) -> None:
    """Begun, then no room for its files: one run in the end, and nothing missing in it."""
    obstacle = fresh.folder / "mlruns/1"
    obstacle.parent.mkdir()
    obstacle.write_text("where MLflow wants a folder")
    output = script(fresh, STATE).stderr
    assert re.fullmatch(r"warning: [^\n]+`make sync-mlflow`[^\n]+\n", output)
    obstacle.unlink()
    assert "MLflow is up to date" in fresh.make("sync-mlflow")
    (logged,) = look(fresh)["runs"]
    assert logged_files(logged) == state(fresh)
    assert logged["status"] == "FINISHED"


def test_hanging_server_does_not_block(fresh: Project) -> None:
    """Each process gives up after its first request, which times out."""
    with socket.create_server(("127.0.0.1", 0)) as deaf, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"http://me:hunter2@127.0.0.1:{deaf.getsockname()[1]}")
        patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        output = script(fresh, STATE).stderr + script(fresh, TRIALS).stderr
    assert output.count("warning: ") == output.count("\n") == 2  # one for each process
    assert "hunter2" not in output
    assert len(waiting(fresh)) == 4
    assert set(run("git", "status", "--porcelain", cwd=fresh.folder).split()) <= {
        "??",
        "M",
        "reports/gate.json",
    }
