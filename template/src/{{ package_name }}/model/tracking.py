"""Tracking: MLflow mirrors each state of the project, for people to look at.

Git and DVC stay the record, so nothing here stops a pipeline or a deployment. What is to be logged first
waits in `mlruns/pending` until MLflow has it; after an outage, `make sync-mlflow` uploads it.
"""

import hashlib
import math
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..core.errors import cli
from ..core.paths import BUNDLE, GATE_REPORT, METRICS, TRAINING_REPORT

if TYPE_CHECKING:
    from mlflow import MlflowClient

STORE = Path("mlruns")
PENDING = STORE / "pending"
PROJECT = (__package__ or "").split(".")[0].replace("_", "-")  # names the experiment and the registered model
SETTINGS = {  # an outage shows at once instead of after minutes; MLflow neither calls home nor chats
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
}
failed: set[str] = set()  # addresses that failed in this process: neither tried nor warned of again


class Entry(msgspec.Struct):
    """A run to be logged, or (`champion`) the news that a version of the model went into production."""

    experiment: str
    name: str
    tags: dict[str, str] = {}
    parameters: dict[str, str] = {}
    metrics: dict[str, float] = {}
    champion: str | None = None


def flat(content: object, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, keys joined by dots and made of signs that MLflow takes."""
    if not isinstance(content, dict):
        return {re.sub(r"[^\w.\- ]", "_", prefix): content}
    parts = [flat(part, f"{prefix}.{name}".lstrip(".")) for name, part in content.items()]
    return {name: value for part in parts for name, value in part.items()}


def texts(content: object) -> dict[str, str]:
    """Values as MLflow takes them for parameters and tags."""
    found = flat(content).items()
    return {name: "none" if value in (None, "") else str(value)[:5000] for name, value in found}


def numbers(content: object) -> dict[str, float]:
    """Finite numbers: JSON knows no others."""
    found = {name: it for name, it in flat(content).items() if isinstance(it, int | float)}
    return {name: float(it) for name, it in found.items() if math.isfinite(it)}


def read(path: Path) -> Any:
    return msgspec.json.decode(path.read_bytes())


def digest(content: object) -> str:
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()[:16]


def address() -> str:
    """Where runs are logged: the server that the environment names, else a file of the project's."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{STORE}/mlflow.db"


def current() -> Entry:
    """The project's state as a run. Section `ingest` stays out: a source may hold a password."""
    gate, metadata = read(GATE_REPORT), read(BUNDLE / "metadata.json")
    tags = {name: gate[name] for name in ("model_version", "verdict", "production")}
    tags |= {"reasons": "\n".join(gate["reasons"]), "data": metadata["data"], "commit": metadata["commit"]}
    sections = {it.stem: read(it) for it in Path(".params").glob("*.json") if it.stem != "ingest"}
    metrics = numbers(read(METRICS) | {"cross_validated": read(TRAINING_REPORT)["mean"]})
    name = f"{gate['model_version']} {gate['verdict']}"
    return Entry(PROJECT, name, texts(tags), texts(sections), metrics)


def keep(entry: Entry, *folders: Path) -> Path:
    """Let an entry wait, with copies of folders: whole, or not at all."""
    name = f"{time.time_ns()}-{digest(entry)}"
    draft = PENDING / f".{name}"
    draft.mkdir(parents=True)
    for folder in folders:
        shutil.copytree(folder, draft / folder.name)
    (draft / "entry.json").write_bytes(msgspec.json.encode(entry))
    return draft.rename(PENDING / name)


def pending() -> list[Path]:
    """What waits to be logged, oldest first."""
    return sorted(PENDING.glob("[0-9]*"))


def log_run() -> None:
    """Log the project's state as the gate left it, unless it is what this address was told last."""
    entry = current()
    told, state = STORE / f"told-{digest(address())}", digest(entry)
    if told.exists() and told.read_text() == state:
        return  # without having imported MLflow, which takes longer than all else
    if not any(PENDING.glob(f"*-{state}")):
        keep(entry, BUNDLE, GATE_REPORT.parent)
    told.write_text(state)
    send(*pending())


def log_trial(study: str, number: int, settings: dict[str, Any], metrics: dict[str, float]) -> None:
    """Log one trial of a study, in an experiment of its own."""
    tags = {"study": study, "number": str(number)}
    send(keep(Entry(f"{PROJECT} tuning", f"{study} {number}", tags, texts(settings), numbers(metrics))))


def send(*folders: Path) -> None:
    """Log what waits; at the first failure say so, and leave it and the rest where they are."""
    for folder in folders if address() not in failed else ():
        try:
            deliver(folder)
        except Exception as error:  # a broken mirror must not break what it mirrors
            failed.add(address())
            said = " ".join(f"{address()} did not take {folder} ({type(error).__name__}: {error}".split())
            warn(f"{said[:300]}). It is kept: `make sync-mlflow` logs it later.")
            return
        shutil.rmtree(folder)


def warn(text: str) -> None:
    """One line, without the password that an address may hold."""
    print("warning: " + re.sub(r"//[^/@\s]+@", "//", text), file=sys.stderr)


def deliver(folder: Path) -> None:
    """Log one entry; what an outage cut off is completed, not doubled."""
    os.environ.update(SETTINGS | os.environ)
    import mlflow

    mlflow.set_tracking_uri(address())
    client = mlflow.MlflowClient()
    entry = msgspec.json.decode((folder / "entry.json").read_bytes(), type=Entry)
    if entry.champion is not None:
        crown(client, entry.champion)
        return
    now = int(folder.name.split("-")[0]) // 1_000_000  # milliseconds
    where = mlflow.set_experiment(entry.experiment).experiment_id
    found = client.search_runs([where], f"tags.entry = '{folder.name}'", max_results=1)
    tags = {"entry": folder.name, **entry.tags}
    run = (found[0] if found else client.create_run(where, now, tags, entry.name)).info.run_id
    mlflow.log_params(entry.parameters, run_id=run)
    mlflow.log_metrics(entry.metrics, step=0, run_id=run, timestamp=now)
    for part in (path for path in folder.iterdir() if path.is_dir()):
        client.log_artifacts(run, str(part), part.name)
    if "verdict" in entry.tags:
        register(client, run, entry.tags)
    client.set_terminated(run, end_time=now)


def version_of(client: "MlflowClient", model_version: str) -> str | None:
    """The registry's number for a version of the model."""
    found = client.search_model_versions(f"name = '{PROJECT}' and tags.model_version = '{model_version}'")
    return str(found[0].version) if found else None


def register(client: "MlflowClient", run: str, tags: dict[str, str]) -> None:
    """Register the bundle, once for each content; its tags say the newest verdict."""
    if not client.search_registered_models(f"name = '{PROJECT}'"):
        client.create_registered_model(PROJECT)
    version = version_of(client, tags["model_version"])
    if version is None:
        version = str(client.create_model_version(PROJECT, f"runs:/{run}/bundle", run).version)
    for name, value in tags.items():
        client.set_model_version_tag(PROJECT, version, name, value)
    if tags["verdict"] == "promote":
        client.set_registered_model_alias(PROJECT, "challenger", version)


def crown(client: "MlflowClient", model_version: str) -> None:
    """Make a version the champion; it challenges no more."""
    version = version_of(client, model_version)
    if version is None:
        warn(f"{address()} knows no model_version {model_version}: the champion stays who it was.")
        return
    client.set_registered_model_alias(PROJECT, "champion", version)
    if str(client.get_registered_model(PROJECT).aliases.get("challenger")) == version:
        client.delete_registered_model_alias(PROJECT, "challenger")


def log_champion(model_version: str) -> None:
    """Tell that a version of the model went into production, if there is anybody to tell."""
    if not (os.environ.get("MLFLOW_TRACKING_URI") or STORE.exists()):
        return
    keep(Entry(PROJECT, f"champion {model_version}", champion=model_version))
    send(*pending())


def main() -> None:
    """Log what waits; exit code 1 if some of it still does."""
    waiting = pending()
    send(*waiting)
    left = len(pending())
    print(f"tracking: logged {len(waiting) - left}, {left} left")
    sys.exit(left > 0)


if __name__ == "__main__":
    cli(main)
