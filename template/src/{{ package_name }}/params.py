"""Typed view of `params.yaml`, with all defaults.

A key that is missing in the file has its default; an unknown key is an error.
"""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from .core.errors import ProjectError, warn_once

FILE = Path("params.yaml")

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Probability = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A section of params.yaml that rejects unknown keys."""


class Ingest(Section, frozen=True, omit_defaults=True):
    """Data source.

    `source` is `sample`; a path, glob or address (https://, s3://, gs://, …) of CSV or Parquet files; or,
    with a `query`, a SQLAlchemy address such as postgresql+psycopg://user@host/database. Both may name
    variables of the environment (`$TOKEN`), and `{since}` and `{until}` (see `data/interval.py`).
    """

    # Factories, because `omit_defaults` leaves out other defaults: what 0.3 did not know must not change the
    # parameters that DVC compares, or an update would fetch all rows again.
    source: str = msgspec.field(default_factory=lambda: "sample")
    query: str | None = msgspec.field(default_factory=lambda: None)
    since: str | None = None  # start of the first interval
    mode: Literal["append", "replace"] = "append"  # replace: the source is a snapshot; missing rows are gone
    keep_undeclared: bool = False  # also store columns that neither contract nor PREPARE names
    personal: Literal["mask", "hash", "keep"] = "mask"  # how columns with personal=True are stored
    csv: dict[str, Any] = {}  # options of DuckDB's CSV reader, by its names (see `data/csv.py`)


class Validate(Section, frozen=True):
    """Limits of data validation."""

    max_rejected_share: Share = 0.02
    min_class_rows: Count = 30  # minimum number of rows per target category
    max_leakage_score: Share = 0.98  # AUC or R² above which a feature, or a pair, is taken for a leak


class Split(Section, frozen=True):
    """Train-test split."""

    test_size: Share = 0.2  # share of the rows
    max_overlap_share: Share = 0.02  # test rows that equal a training row, beyond chance


class Train(Section, frozen=True):
    """Training and cross-validation."""

    seed: int = 0
    n_splits: Annotated[int, msgspec.Meta(ge=2)] = 5  # folds of the cross-validation
    estimator: dict[str, Any] = {}  # keyword arguments of `problem.estimator`


class Tune(Section, frozen=True):
    """Hyperparameter search (`make tune`).

    It runs on this machine (`loky`) or on a Ray or Dask cluster. `address` is the cluster's, such as
    10.0.0.1:6379 or tcp://10.0.0.1:8786; without one, a small cluster is started on this machine.
    """

    n_trials: Count = 40
    n_jobs: Count | None = None  # None: one per core
    backend: Literal["loky", "ray", "dask"] = "loky"
    address: str | None = None


class Bundle(Section, frozen=True):
    """Limits of the ONNX conversion."""

    parity_tolerance: Positive = 1e-4  # between ONNX and estimator, relative to the range of the outputs


class Gate(Section, frozen=True):
    """When a model may replace the model in production (see `evaluation/checks.py`)."""

    promotion_test: Literal["superiority", "non_inferiority"] = "superiority"
    non_inferiority_margin: NotNegative = 0.01  # in units of the primary metric
    confidence_level: Probability = 0.95  # of every interval
    n_bootstrap: Annotated[int, msgspec.Meta(ge=100)] = 1000  # resamples
    bootstrap_block_size: Count = 1  # rows resampled together; for time series, one seasonal period
    min_test_rows: Count = 200
    min_test_groups: Count = 20  # in the test split, if the contract has a group; fewer give no interval
    min_label_rows: Count = 10  # minimum number of test rows per label
    min_segment_rows: Count = 50  # smaller segments and protected groups are not checked
    max_demographic_parity_difference: Share = 0.2  # fails only if the ratio is also below its limit
    min_demographic_parity_ratio: Share = 0.8
    max_equalized_odds_difference: Share = 0.2  # fails only if the ratio is also below its limit
    min_equalized_odds_ratio: Share = 0.8
    max_calibration_error: Positive = 0.05  # a probability; for regression, in standard deviations
    max_size_mb: Positive = 50
    max_latency_ms: Positive = 10  # median for one row
    comparison_reset_tag: str | None = None  # production tag that new models are not compared with


class Monitor(Section, frozen=True):
    """When `make monitor` warns and alerts (see `monitoring/drift.py`)."""

    min_rows: Count = 500  # with fewer rows, the check waits for the next run
    design_effect: Count | None = None  # rows worth one independent row; None: estimated from the events
    confidence_level: Probability = 0.99  # that no false alert is raised
    warn_distance: Share = 0.1  # warning threshold: total variation distance from the training distribution
    max_distance: Share = 0.2  # alert threshold: total variation distance from the training distribution
    max_rejected_share: Share = 0.05  # of the requests: status 422
    max_error_share: Share = 0.01  # of the requests: status 5xx
    max_age_hours: Positive = 24  # of the newest event


class Params(Section, frozen=True):
    """All of params.yaml."""

    memory_gb: Positive = 2.0  # memory limit of DuckDB in the data stages, before it works on disk
    ingest: Ingest = Ingest()
    validate: Validate = Validate()
    split: Split = Split()
    train: Train = Train()
    tune: Tune = Tune()
    bundle: Bundle = Bundle()
    gate: Gate = Gate()
    monitor: Monitor = Monitor()


OPTIONAL_SECTIONS = {"rollout": "deployment"}
"""Sections that a folder of the package reads itself (`load_section`), if the project has that folder."""

# An update never changes params.yaml, so keys and values of earlier releases are read until 0.5.
Renamed = dict[tuple[str, str], tuple[str, ...]]
RENAMED: Renamed = {
    ("validate", "leakage_score"): ("max_leakage_score",),
    ("split", "test_share"): ("test_size",),
    ("train", "folds"): ("n_splits",),
    ("tune", "trials"): ("n_trials",),
    ("tune", "workers"): ("n_jobs",),
    ("gate", "promote_when"): ("promotion_test",),
    ("gate", "margin"): ("non_inferiority_margin",),
    ("gate", "confidence"): ("confidence_level",),
    ("gate", "resamples"): ("n_bootstrap",),
    ("gate", "block_rows"): ("bootstrap_block_size",),
    ("gate", "max_rate_difference"): ("max_demographic_parity_difference", "max_equalized_odds_difference"),
    ("gate", "min_rate_ratio"): ("min_demographic_parity_ratio", "min_equalized_odds_ratio"),
    ("gate", "start_anew_after"): ("comparison_reset_tag",),
    ("monitor", "rows_alike"): ("design_effect",),
    ("monitor", "confidence"): ("confidence_level",),
    ("monitor", "warn_drift"): ("warn_distance",),
    ("monitor", "max_drift"): ("max_distance",),
    ("monitor", "max_refused_share"): ("max_rejected_share",),
    ("monitor", "max_failed_share"): ("max_error_share",),
}
RENAMED_VALUES = {"superior": "superiority", "not_inferior": "non_inferiority"}


def _rename_keys(sections: dict[str, Any], renamed: Renamed) -> dict[str, Any]:
    """Replace former keys in place by their present names, with a warning for each."""
    for (section, old), new in renamed.items():
        values = sections.get(section)
        if not isinstance(values, dict) or old not in values:
            continue
        change = f"params.yaml: {section}.{old} is now {' and '.join(new)}"
        if duplicates := sorted(values.keys() & set(new)):
            raise ProjectError(f"{change}, and {', '.join(duplicates)} is set too: delete {old}")
        warn_once(f"{change}; rename it")
        values |= dict.fromkeys(new, values.pop(old))
    return sections


def _read(section_type: type[Section], select: Callable[[dict[str, Any]], Any]) -> Any:
    """Read what `select` takes of the file's sections, as a typed value."""
    import yaml

    try:
        sections = yaml.safe_load(FILE.read_text(encoding="utf-8")) or {}
        content = select(sections) if isinstance(sections, dict) else sections
        return msgspec.convert(content, section_type)
    except (msgspec.ValidationError, yaml.YAMLError) as error:
        raise ProjectError(f"{FILE}: {error}. Keys and meanings: see {section_type.__module__}.") from None
    except FileNotFoundError:
        raise ProjectError(f"{FILE} not found: run this in the project's top folder") from None


def _select_standard(sections: dict[str, Any]) -> dict[str, Any]:
    """Take all sections but the optional ones, former names replaced; warn if nothing reads a section."""
    for name, folder in OPTIONAL_SECTIONS.items():
        if sections.pop(name, None) is not None and not Path(__file__).with_name(folder).is_dir():
            warn_once(f"params.yaml: {name} has no effect in a project without {folder}/; delete it")
    _rename_keys(sections, RENAMED)
    ingest = sections.get("ingest")
    if isinstance(ingest, dict) and isinstance(ingest.get("since"), date):
        ingest["since"] = ingest["since"].isoformat()  # YAML reads 2026-01-31 as a date
    for name in [name for name, section in sections.items() if section is None]:
        del sections[name]  # an empty section has all defaults
    for section in sections.values():
        if isinstance(section, dict) and section.get("estimator", {}) is None:
            del section["estimator"]
    gate = sections.get("gate")
    if isinstance(gate, dict) and (old := str(gate.get("promotion_test"))) in RENAMED_VALUES:
        gate["promotion_test"] = RENAMED_VALUES[old]
        warn_once(f"params.yaml: gate.promotion_test: {old} is now {RENAMED_VALUES[old]}; rename it")
    return sections


def load() -> Params:
    """Read the parameters.

    Returns:
        All sections but the optional ones, defaults filled in.

    Raises:
        ProjectError: The file is missing or no YAML, or a key is unknown or has a wrong value.
    """
    return _read(Params, _select_standard)


def load_section(name: str, section_type: type[Section], renamed: Renamed) -> Any:
    """Read an optional section (see `OPTIONAL_SECTIONS`).

    Args:
        name: Name of the section.
        section_type: A `Section` with its keys and defaults.
        renamed: Former keys and their present names, as in `RENAMED`.

    Returns:
        The section, as a `section_type`, defaults filled in.

    Raises:
        ProjectError: The file is missing or no YAML, or a key is unknown or has a wrong value.
    """
    return _read(section_type, lambda sections: _rename_keys(sections, renamed).get(name) or {})


def update(changes: dict[str, dict[str, Any]], path: Path = FILE) -> None:
    """Change keys of `params.yaml`; all others, comments and order stay.

    Args:
        changes: New values by section and key. None deletes the key; a dictionary replaces the former one.
        path: The file.
    """
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 4096
    yaml.representer.add_representer(float, _represent_float)
    text = path.read_text(encoding="utf-8")
    document = yaml.load(text) or yaml.load(f"{text}\n{next(iter(changes))}:\n")
    for section, values in changes.items():
        document[section] = document.get(section) or {}
        for key, value in values.items():
            _replace(document[section], key, value)
    yaml.dump(document, path)


def _replace(section: dict[str, Any], key: str, value: Any) -> None:
    """Replace the value of a key in a section that ruamel.yaml has read, and keep its comments."""
    if value is None:
        section.pop(key, None)
    elif isinstance(value, dict):
        section[key] = section.get(key) or {}
        for name in section[key].keys() - value.keys():
            del section[key][name]
        section[key].update({name: _quote(content) for name, content in value.items()})
    else:
        section[key] = _quote(value)


def _quote(value: Any) -> Any:
    """A text in quotes, for readers to whom an unquoted no is false; any other value as it is."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    return DoubleQuotedScalarString(value) if isinstance(value, str) else value


def _represent_float(dumper: Any, value: float) -> Any:
    """A float for readers of YAML 1.1, to whom 1e-05 is a text."""
    text = repr(value)
    text = text if "." in text else text.replace("e", ".0e")
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)
