"""What stages share at their edges: where everything lies, and how to say what is wrong."""

import sys
from collections.abc import Callable
from pathlib import Path

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
EVALUATION_REPORT = Path("reports/evaluation")
METRICS = Path("reports/metrics.json")


class ProjectError(Exception):
    """Something the reader can put right: the message names the thing, the rule and the way out."""


def run_stage(stage: Callable[[], None]) -> None:
    """Run a stage; a `ProjectError` becomes one clear message and exit code 1, not a traceback."""
    try:
        stage()
    except ProjectError as error:
        sys.exit(f"\nerror: {error}\n")


def write_json(path: Path, content: object) -> None:
    """Write any msgspec structure, list or dictionary as readable JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")
