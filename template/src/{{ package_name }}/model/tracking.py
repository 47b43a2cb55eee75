"""Mirror the project in MLflow: its current state, tuning trials, registered models and the champion.

    python -m <package>.model.tracking

Git and DVC stay the record. Each entry waits in `mlruns/pending` until MLflow has it, so an outage loses
nothing and fails nothing: the next `make sync-mlflow` uploads what waits.
"""

import hashlib
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import msgspec

from ..core.errors import cli
from ..core.paths import BUNDLE, GATE_REPORT, METRICS, TRAINING_REPORT
from ..core.secrets import mask_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient

STORE = Path("mlruns")
PENDING = STORE / "pending"
PACKAGE = Path(__file__).parents[1]
PROJECT = (__package__ or "").split(".")[0].replace("_", "-")
EXPERIMENT_VARIABLE = "MLFLOW_EXPERIMENT_NAME"
"""Names the experiment; Databricks expects a path such as /Shared/churn."""
MODEL_VARIABLE = "MLFLOW_REGISTERED_MODEL_NAME"
"""Names the registered model; Unity Catalog expects catalog.schema.name."""
UNITY_CATALOG = ("databricks-uc", "uc:")
MODEL = "model"  # name of a run's model
BROKEN = STORE / "broken"
DRAFT_SECONDS = 3600  # after which the process that wrote a draft of an entry must have been killed
MAX_VERSION_TAG = 1000  # characters of a tag of a registered version; Unity Catalog takes no more
ENVIRONMENT = {  # an outage shows after seconds instead of minutes; no telemetry, no chatter
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_UV_AUTO_DETECT": "false",  # the model lists its own few libraries, not those of the project
}


class Entry(msgspec.Struct):
    """A run to log, or, with `champion`, the version of the model that went into production."""

    experiment: str
    name: str
    tags: dict[str, str] = {}
    parameters: dict[str, str] = {}
    metrics: dict[str, float] = {}
    champion: str | None = None


def _flatten(content: object, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one: keys joined by dots, with only the characters that MLflow allows."""
    if not isinstance(content, dict):
        return {re.sub(r"[^\w.\- ]", "_", prefix): content}
    parts = [_flatten(part, f"{prefix}.{name}".lstrip(".")) for name, part in content.items()]
    return {name: value for part in parts for name, value in part.items()}


def _to_texts(content: object) -> dict[str, str]:
    """Values as MLflow takes them for parameters and tags."""
    values = _flatten(content).items()
    return {name: "none" if value in (None, "") else str(value)[:5000] for name, value in values}


def _to_numbers(content: object) -> dict[str, float]:
    """The finite numbers among the values: JSON has no others."""
    values = _flatten(content).items()
    return {name: float(v) for name, v in values if isinstance(v, int | float) and math.isfinite(v)}


def _read(path: Path) -> Any:
    """Read a JSON file."""
    return msgspec.json.decode(path.read_bytes())


def _digest(content: object) -> str:
    """A short hash of any JSON content."""
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()[:16]


def _address() -> str:
    """The MLflow server that the environment names, else a database file of the project."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{STORE}/mlflow.db"


def _experiment() -> str:
    """Name of the experiment."""
    return os.environ.get(EXPERIMENT_VARIABLE) or PROJECT


def _registered_model() -> str:
    """Name of the registered model."""
    return os.environ.get(MODEL_VARIABLE) or PROJECT


def _warn(text: str) -> None:
    """Print one line, without the password that an address may hold."""
    print("warning: " + mask_secrets(" ".join(text.split())), file=sys.stderr)


@contextmanager
def _only_warn() -> Generator[None]:
    """Turn every error into a warning: a broken mirror must not stop a pipeline or a deployment."""
    try:
        yield
    except Exception as error:  # each kind of store has errors of its own
        _warn(f"MLflow is not up to date: {type(error).__name__}: {error}"[:300])


def _current_entry() -> Entry | None:
    """The project's state as a run; None before the gate has judged the current bundle.

    Section `ingest` of the parameters stays out: a source may hold a password.
    """
    if not (GATE_REPORT.exists() and (BUNDLE / "metadata.json").exists()):
        return None
    gate, metadata = _read(GATE_REPORT), _read(BUNDLE / "metadata.json")
    if gate["model_version"] != metadata["version"]:
        return None
    tags = {name: gate[name] for name in ("model_version", "verdict", "production")}
    tags |= {"reasons": "\n".join(gate["reasons"]), "data": metadata["data"], "commit": metadata["commit"]}
    sections = {path.stem: _read(path) for path in Path(".params").glob("*.json") if path.stem != "ingest"}
    metrics = _to_numbers(_read(METRICS) | {"cross_validated": _read(TRAINING_REPORT)["mean"]})
    name = f"{gate['model_version']} {gate['verdict']}"
    return Entry(_experiment(), name, _to_texts(tags), _to_texts(sections), metrics)


def _queue(entry: Entry, folders: dict[str, Path] | None = None) -> None:
    """Put an entry into the queue with copies of folders, by their names: completely or not at all."""
    name = f"{time.time_ns()}-{_digest(entry)}"
    draft = PENDING / f".{name}"
    draft.mkdir(parents=True)
    try:
        for copy, folder in (folders or {}).items():
            shutil.copytree(folder, draft / copy, ignore=shutil.ignore_patterns("__pycache__"))
        (draft / "entry.json").write_bytes(msgspec.json.encode(entry))
        draft.rename(PENDING / name)
    except OSError:  # such as a full disk
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _remove_old_drafts() -> None:
    """Remove what killed processes have left; a draft of the last hour may be in use."""
    for draft in PENDING.glob(".[0-9]*-*"):
        if time.time_ns() - int(draft.name[1:].split("-")[0]) > DRAFT_SECONDS * 10**9:
            shutil.rmtree(draft, ignore_errors=True)


def list_pending() -> list[Path]:
    """List the entries that wait for upload.

    Returns:
        Their folders, oldest first.
    """
    return sorted(PENDING.glob("[0-9]*"))


def sync() -> None:
    """Upload the project's state, unless this address has it, and all entries that wait.

    MLflow is only imported if there is something to upload: that takes longer than everything else here.
    """
    with _only_warn():
        entry = _current_entry()
        target = _address() + os.environ.get(MODEL_VARIABLE, "")
        record, state = STORE / f"told-{_digest(target)}", _digest(entry)
        if entry is not None and not (record.exists() and record.read_text() == state):
            if not any(PENDING.glob(f"*-{state}")):
                folders = {"bundle": BUNDLE, "reports": GATE_REPORT.parent, f"code/{PACKAGE.name}": PACKAGE}
                _queue(entry, folders)
            record.write_text(state)
        upload_pending()


def queue_trial(study: str, number: int, settings: dict[str, Any], metrics: dict[str, float]) -> None:
    """Queue one trial of a study, for an experiment of its own.

    Args:
        study: The study's name.
        number: The trial's number in the study.
        settings: Settings of the estimator.
        metrics: Mean of each metric over the folds.
    """
    tags = {"study": study, "number": str(number)}
    experiment, name = f"{_experiment()} tuning", f"{study} {number}"
    trial = Entry(experiment, name, tags, _to_texts(settings), _to_numbers(metrics))
    with _only_warn():
        _queue(trial)


def set_champion_alias(model_version: str) -> None:
    """Give the alias `champion` to a version of the model, if the project uses MLflow.

    Args:
        model_version: Version of the bundle that went into production.
    """
    if os.environ.get("MLFLOW_TRACKING_URI") or STORE.exists():
        with _only_warn():
            _queue(Entry(PROJECT, f"champion {model_version}", champion=model_version))
            upload_pending()


def upload_pending() -> bool:
    """Upload the entries that wait, oldest first. Stop at the first failure, with a warning.

    An entry that no server will ever take is set aside, because it would hold up all others.

    Returns:
        Whether none waits any more.
    """
    _remove_old_drafts()
    for folder in list_pending():
        try:
            _upload(folder)
            shutil.rmtree(folder)
        except Exception as error:  # each kind of store has errors of its own
            failure = f"{_address()} did not take {folder} ({type(error).__name__}: {error}"[:300]
            if not _is_broken(error):
                _warn(f"{failure}). It stays in the queue: `make sync-mlflow` uploads it later.")
                return False
            with _only_warn():
                BROKEN.mkdir(exist_ok=True)
                folder.rename(BROKEN / folder.name)
            _warn(f"{failure}). It is set aside in {BROKEN}.")
    return True


def _is_broken(error: Exception) -> bool:
    """Whether an entry itself is at fault: its file is cut off, or holds what MLflow does not allow."""
    is_forbidden = getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE"
    return is_forbidden or isinstance(error, msgspec.DecodeError | FileNotFoundError)


def _upload(folder: Path) -> None:
    """Upload one entry; a run that an outage cut off is completed, not doubled."""
    os.environ.update(ENVIRONMENT | os.environ)
    import mlflow

    mlflow.set_tracking_uri(_address())
    client = mlflow.MlflowClient()
    entry = msgspec.json.decode((folder / "entry.json").read_bytes(), type=Entry)
    if entry.champion is not None:
        _assign_champion(client, entry.champion)
        return
    queued = int(folder.name.split("-")[0]) // 1_000_000  # milliseconds
    experiment = mlflow.set_experiment(entry.experiment).experiment_id
    runs = client.search_runs([experiment], f"tags.entry = '{folder.name}'", max_results=1)
    tags = {"entry": folder.name, **entry.tags}
    run = (runs[0] if runs else client.create_run(experiment, queued, tags, entry.name)).info.run_id
    model = _log_model(client, experiment, run, folder) if (folder / "bundle").exists() else None
    mlflow.log_params(entry.parameters, run_id=run)
    mlflow.log_metrics(entry.metrics, step=0, run_id=run, timestamp=queued, model_id=model)
    if (folder / "reports").exists():
        client.log_artifacts(run, str(folder / "reports"), "reports")
    if model is not None:
        _register(client, run, model, entry.tags)
    client.set_terminated(run, end_time=queued)


def _log_model(client: "MlflowClient", experiment: str, run: str, folder: Path) -> str:
    """Log the bundle of an entry as the run's MLflow model, once: its id."""
    from mlflow.models import Model

    from .mlflow_model import save_model

    tags = {"entry": folder.name}
    models = client.search_logged_models([experiment], f"tags.entry = '{folder.name}'", max_results=1)
    model = models[0] if models else client.create_logged_model(experiment, MODEL, run, tags)
    if model.status == "READY":
        return model.model_id
    entity = Model(model.artifact_location, run, model_uuid=model.model_id, model_id=model.model_id)
    package = next(folder.glob("code/*"), PACKAGE)  # entries queued by a release before 0.4 hold no code
    with TemporaryDirectory() as draft:
        save_model(folder / "bundle", package, Path(draft) / MODEL, entity)
        client.log_model_artifacts(model.model_id, str(Path(draft) / MODEL))
    client.finalize_logged_model(model.model_id, "READY")
    return model.model_id


def _find_version(client: "MlflowClient", model_version: str) -> str | None:
    """The registry's number of a version of the model."""
    import mlflow

    name = _registered_model()
    query, tag = f"name = '{name}'", f" and tags.model_version = '{model_version}'"
    if not mlflow.get_registry_uri().startswith(UNITY_CATALOG):
        versions = client.search_model_versions(query + tag)
        return str(versions[0].version) if versions else None
    # Unity Catalog cannot search for tags, and its results do not hold them.
    numbers = [version.version for version in mlflow.search_model_versions(filter_string=query)]
    every = (client.get_model_version(name, number) for number in numbers)
    return next((str(v.version) for v in every if v.tags.get("model_version") == model_version), None)


def _register(client: "MlflowClient", run: str, model: str, tags: dict[str, str]) -> None:
    """Register the model, once for each content of the bundle; its tags hold the newest verdict."""
    name, tags = _registered_model(), {key: value[:MAX_VERSION_TAG] for key, value in tags.items()}
    _create_registered_model(client, name)
    version = _find_version(client, tags["model_version"])
    if version is None:
        source = f"models:/{model}"
        version = str(client.create_model_version(name, source, run, tags, model_id=model).version)
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, value)
    if tags["verdict"] == "promote":
        client.set_registered_model_alias(name, "challenger", version)


def _create_registered_model(client: "MlflowClient", name: str) -> None:
    """Create a registered model if there is none: Unity Catalog cannot search for its name."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_registered_model(name)


def _assign_champion(client: "MlflowClient", model_version: str) -> None:
    """Move the alias `champion` to a version; it is no challenger any more."""
    version = _find_version(client, model_version)
    if version is None:
        _warn(f"{_address()} has no model_version {model_version}: the champion does not change.")
        return
    name = _registered_model()
    client.set_registered_model_alias(name, "champion", version)
    if str(client.get_registered_model(name).aliases.get("challenger")) == version:
        client.delete_registered_model_alias(name, "challenger")


def main() -> None:
    """Bring MLflow up to date; exit code 1 if entries still wait."""
    sync()
    waiting = len(list_pending())
    print(f"sync-mlflow: {waiting} entries wait" if waiting else "sync-mlflow: MLflow is up to date")
    sys.exit(1 if waiting else 0)


if __name__ == "__main__":
    cli(main)
