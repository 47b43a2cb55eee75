"""A typed view of `params.yaml`. Defaults live here: a key missing there never breaks a stage.

As a stage it writes each section, defaults filled in, to `.params/`: what other stages depend on.
"""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from .core.errors import ProjectError
from .core.files import write_json

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Percentage = Annotated[float, msgspec.Meta(gt=0, lt=100)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A section of the file: a key that it does not know is an error, not a silent no-op."""


class Ingest(Section, frozen=True):
    """Where data comes from.

    `source` is `sample`; a path, glob or address (https://, s3://, gs://, …) of CSV or Parquet; or, with
    a `query`, a SQLAlchemy address such as postgresql+psycopg://user@host/database.
    """

    source: str = "sample"
    query: str | None = None


class Validate(Section, frozen=True):
    """What makes data unfit."""

    max_rejected_share: Share = 0.02
    min_class_rows: Count = 30  # rows that each category of the target needs
    max_leakage_score: Share = 0.98  # AUC or R² from which a feature, or a pair, is taken for a leak


class Split(Section, frozen=True):
    """What is kept for the test."""

    test_share: Share = 0.2
    max_overlap_share: Share = 0.02  # test rows that equal a training row, beyond chance


class Train(Section, frozen=True):
    """How the estimator is made and judged."""

    seed: int = 0
    folds: Annotated[int, msgspec.Meta(ge=2)] = 5
    estimator: dict[str, Any] = {}  # passed to `problem.estimator` as keyword arguments


class Tune(Section, frozen=True):
    """How `make tune` searches, and where: on this machine (`loky`), or on a Ray or Dask cluster.

    `address` is the cluster's, such as 10.0.0.1:6379 or tcp://10.0.0.1:8786; without one, the cluster
    is a small one on this machine.
    """

    trials: Count = 40
    workers: Count | None = None  # as many as there are cores
    backend: Literal["loky", "ray", "dask"] = "loky"
    address: str | None = None


class Bundle(Section, frozen=True):
    """What a bundle must keep."""

    # ONNX against estimator, relative to the range of outputs; another label is refused at any tolerance.
    parity_tolerance: Positive = 1e-4


class Gate(Section, frozen=True):
    """When a model may replace the one in production (see `evaluation/checks.py`)."""

    promote_when: Literal["superior", "not_inferior"] = "superior"
    margin: Annotated[float, msgspec.Meta(ge=0)] = 0.01  # of the first KPI's metric: what is no real loss
    confidence: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.95  # of every interval
    resamples: Annotated[int, msgspec.Meta(ge=100)] = 1000
    block_rows: Count = 1  # neighbouring rows drawn together: a season's length, for rows in time order
    min_test_rows: Count = 200
    min_label_rows: Count = 10  # test rows that each label of a classification needs
    min_segment_rows: Count = 50  # smaller segments and groups are not judged
    max_rate_difference: Share = 0.2  # between protected groups,
    min_rate_ratio: Share = 0.8  # and the smaller rate over the larger: unfair when both limits break
    max_calibration_error: Positive = 0.05  # a probability, or standard deviations of a number
    max_size_mb: Positive = 50
    max_latency_ms: Positive = 10  # for one row, in the median
    start_anew_after: str | None = None  # a production tag whose model this one cannot be compared with


class Rollout(Section, frozen=True):
    """How an image is tried (see `deployment/rollout.py`), and when it may answer everybody, judged by its
    events (see `deployment/analysis.py`).
    """

    steps: tuple[Percentage, ...] = (10, 50)  # of the clients that the canary answers, one after the other
    minutes: Annotated[float, msgspec.Meta(ge=0)] = 60  # for each step; 0: nothing is tried
    min_requests: Annotated[int, msgspec.Meta(ge=2)] = 500  # to both in each step; before, none is decided
    max_error_share: Share = 0.01  # of the requests that it fails or refuses, beyond the champion's
    min_agreement: Share = 0.9  # rows to which a shadow gives the champion's label; below, look first
    max_latency_ratio: Positive = 2  # of the slowest hundredth, over the champion's
    max_shift: Positive = 0.1  # of a segment's mean: a probability, or standard deviations of a number


class Monitor(Section, frozen=True):
    """When `make monitor` warns and alerts (see `monitoring/drift.py`)."""

    min_rows: Count = 500  # fewer prove nothing, and wait for the next run
    rows_alike: Count = 1  # rows that tell of one case, such as a customer who is asked about every day
    confidence: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.99  # that nothing is accused falsely
    warn_drift: Share = 0.1  # share of the rows that would have to be others for a column to be as before
    max_drift: Share = 0.2  # the same, for an alert
    max_refused_share: Share = 0.05  # of the requests, by the contract (422)
    max_failed_share: Share = 0.01  # of the requests, by the server (5xx)
    max_age_hours: Positive = 24  # of the newest event


class Params(Section, frozen=True):
    """The whole file."""

    memory_gb: Positive = 2.0  # what DuckDB may use in the data stages before it works on disk
    ingest: Ingest = Ingest()
    validate: Validate = Validate()
    split: Split = Split()
    train: Train = Train()
    tune: Tune = Tune()
    bundle: Bundle = Bundle()
    gate: Gate = Gate()
    rollout: Rollout = Rollout()
    monitor: Monitor = Monitor()


# Keys of earlier releases, and what they are called now: the file is yours, so no update changes it.
RENAMED = {("validate", "leakage_score"): "max_leakage_score"}


def rename(given: dict[str, Any]) -> dict[str, Any]:
    """Read keys by their former names too, with a warning."""
    for (section, old), new in RENAMED.items():
        content = given.get(section)
        if not isinstance(content, dict) or old not in content:
            continue
        if new in content:
            raise ProjectError(f"params.yaml: {section}.{old} is now {new}, and both are there: delete {old}")
        print(f"warning: params.yaml: {section}.{old} is now {new}; rename it", file=sys.stderr)
        content[new] = content.pop(old)
    return given


def load(path: Path = Path("params.yaml")) -> Params:
    """Read the parameters; raise `ProjectError` naming a key that is unknown or of a wrong type."""
    import yaml

    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return msgspec.convert(rename(given) if isinstance(given, dict) else given, Params)
    except (msgspec.ValidationError, yaml.YAMLError) as error:
        raise ProjectError(f"{path}: {error}. The keys and their meaning stand in params.py.") from None
    except FileNotFoundError:
        raise ProjectError(f"{path} is not here: run from the project's top folder") from None


def main() -> None:
    folder = Path(".params")
    folder.mkdir(exist_ok=True)
    for section, content in msgspec.to_builtins(load()).items():
        write_json(folder / f"{section}.json", content)


if __name__ == "__main__":
    main()
