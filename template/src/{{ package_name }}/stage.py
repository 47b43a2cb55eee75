"""What stages share at their edges: where everything lies, and how to say what is wrong."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import msgspec

RAW = Path("data/raw.parquet")
CLEAN = Path("data/clean.parquet")
REJECTED = Path("data/rejected.parquet")
TRAIN = Path("data/splits/train.parquet")
TEST = Path("data/splits/test.parquet")

ESTIMATOR = Path("models/estimator.joblib")
BUNDLE = Path("models/bundle")

DATA_REPORT = Path("reports/data")
SPLIT_REPORT = Path("reports/split.json")
TRAINING_REPORT = Path("reports/training.json")
BUNDLE_REPORT = Path("reports/bundle.json")
EVALUATION_REPORT = Path("reports/evaluation.json")
METRICS = Path("reports/metrics.json")
IMPORTANCE_REPORT = Path("reports/importance.json")
GATE_REPORT = Path("reports/gate.json")
MONITORING_REPORT = Path("reports/monitoring.json")
LOCK = Path("dvc.lock")


class ProjectError(Exception):
    """Something the reader can put right: the message names the thing, the rule and the way out."""


def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say what a `ProjectError` says, instead of a traceback; exit code 1 either way."""
    if not isinstance(error, ProjectError):
        sys.__excepthook__(kind, error, trace)
        return
    print(f"\nerror: {error}\n", file=sys.stderr)


sys.excepthook = report


def call(*command: str | Path, failure: str = "", folder: Path = Path(), **environment: str) -> str:
    """What a command said.

    Raises:
        ProjectError: it is not there or failed: `failure` (or its name), and what it said.
    """
    env = os.environ | environment
    try:
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ProjectError(f"{command[0]} is not on PATH") from None
    if done.returncode:
        failure = failure or f"{' '.join(map(str, command))[:80]} failed:"
        raise ProjectError(f"{failure}\n{(done.stdout + done.stderr).strip()[-2000:]}".strip())
    return done.stdout.strip()


def dvc_hash(content: bytes) -> str:
    """The hash by which DVC names a file of that content."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def locked_hashes(stage: str, files: Literal["deps", "outs"]) -> dict[str, str]:
    """Hashes of a stage's files by their paths, as `dvc.lock` has them; empty before the stage ever ran."""
    import yaml

    stages = yaml.safe_load(LOCK.read_text(encoding="utf-8"))["stages"] if LOCK.exists() else {}
    return {file["path"]: file["md5"] for file in stages.get(stage, {}).get(files, [])}


def table(rows: list[dict[str, Any]]) -> str:
    """Write rows as a Markdown table; nothing, if there are none."""
    from tabulate import tabulate

    return tabulate(rows, headers="keys", tablefmt="github", floatfmt=".4g", intfmt=",")


def write(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    draft = path.with_name(f"{path.name}.new")
    draft.write_bytes(content)
    draft.replace(path)


def readable_json(content: object) -> bytes:
    """Any msgspec structure, list or dictionary as readable JSON."""
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"


def write_json(path: Path, content: object) -> None:
    """Write any msgspec structure, list or dictionary as readable JSON."""
    write(path, readable_json(content))
