"""Parity: the bundle predicts what its estimator predicts, for all that the contract allows."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..contract import Column
from ..contract.dataset import Dataset
from ..core.errors import ProjectError
from ..stats.metrics import Estimator, Floats, predict_labels, predict_outputs
from .bundle import Session
from .converters import INEXACT
from .onnx import convert_steps, has_trees, nested_parts

PROBE_ROWS = 20_000  # about as many rows are predicted beside the test split, however wide the contract is
COLUMN_ROWS = (5, 100)  # fewest and most rows of a probe; more if a column has more categories
KNOWN_VALUES = 2_000_000  # of all columns together, between which numbers are chosen
ROWS_PER_CALL = 2_000  # each call of an estimator looks at every column, and a wide table has many
TIED = 2e-4  # probabilities this close may change places within the default tolerance
IMPUTE = "Impute it in the estimator (SimpleImputer), or declare the column with nullable=False."
UNKNOWN = (
    "The contract allows this value: let the estimator accept it, for instance by "
    "OneHotEncoder(handle_unknown='ignore'), or limit the column in the contract."
)
LIMIT = "Set min and max of the column in the contract to what really occurs."

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class Probe(NamedTuple):
    """Rows that estimator and bundle both predict."""

    title: str
    features: pd.DataFrame  # (n_probe_rows, n_features)
    positions: NDArray[np.intp]  # of these rows in the test split, (n_probe_rows,)
    changed: tuple[str, ...] = ()  # features that are not as in the test split


class Comparison(NamedTuple):
    """What estimator and bundle predict for a probe: outputs `(n_probe_rows, n_labels)` and labels."""

    probe: Probe
    expected: Floats
    actual: Floats
    expected_labels: NDArray[np.intp]  # positions of the labels that the estimator decides on
    actual_labels: NDArray[np.intp]
    threshold: float | None = None

    @property
    def relabelled(self) -> NDArray[np.bool_]:
        """Whether each row gets another label.

        Returns:
            A mask, `(n_rows,)`; False where the two labels are tied.
        """
        rows = np.arange(len(self.expected))
        gap = np.abs(self.expected[rows, self.expected_labels] - self.expected[rows, self.actual_labels])
        if self.threshold is not None:
            gap = np.abs(self.expected[:, 1] - self.threshold)
        return (self.expected_labels != self.actual_labels) & (gap > TIED)


def check_parity(estimator: Estimator, run: Run, test: Dataset, tolerance: float) -> dict[str, float]:
    """Check that the bundle predicts what its estimator predicts.

    Both predict the whole test split, then samples of it in which one column at a time has other values that
    the contract allows: see `make_probes`.

    Args:
        estimator: Fitted.
        run: Computes the bundle's outputs, `(n_rows, n_labels)`, for features of `(n_rows, n_features)`.
        test: The test split.
        tolerance: Largest difference allowed, relative to the range of the estimator's outputs.

    Returns:
        `parity`, the largest difference, and `other_labels`, the number of rows with another label: 0.

    Raises:
        ProjectError: The outputs differ by more, a label differs, or an output is not finite.
    """
    whole = _compare(estimator, run, Probe("the test split", test.features, np.arange(len(test))), test)
    scale = max(float(np.ptp(whole.expected)), 1e-12)

    def measure(comparison: Comparison) -> float:
        distances = np.abs(comparison.expected - comparison.actual) / scale
        if comparison.probe.changed:  # outputs may be far larger than any of the test split
            distances /= np.maximum(1, np.abs(comparison.expected) / scale)
        distances = distances.max(axis=1)
        if comparison.relabelled.any() or not distances.max() <= tolerance:
            raise ProjectError(_explain(estimator, test, comparison, distances, tolerance))
        return float(distances.max())

    parity, rows = measure(whole), len(test)
    for probes in _batches(make_probes(test)):
        try:
            parity = max(parity, measure(_compare(estimator, run, _join(probes), test)))
        except ProjectError:
            for probe in probes:  # find the column that the message has to name
                measure(_compare(estimator, run, probe, test))
            raise
        rows += sum(len(probe.positions) for probe in probes)
    print(f"bundle: differs from the estimator by {parity:.1e} over {rows:,} rows")
    return {"parity": parity, "other_labels": 0}


def make_probes(test: Dataset) -> Iterator[Probe]:
    """Repeat a sample of the test rows, each time with other values in one column.

    The values are: none, if the column is nullable (also in all such columns together); the limits; each
    category; numbers between those of the test split. Wide contracts get fewer rows for each column.

    Args:
        test: The test split.

    Yields:
        Rows that the contract allows.
    """
    columns, names = test.contract.features, test.features.columns
    n_rows = int(np.clip(PROBE_ROWS // (2 * len(columns)), *COLUMN_ROWS))
    positions = np.unique(np.linspace(0, len(test) - 1, n_rows).astype(int))
    sample = test.features.iloc[positions].to_numpy()
    observed = test.features[:: test.features.size // KNOWN_VALUES + 1]

    def change(title: str, changed: tuple[str, ...], values: NDArray[np.float32]) -> Probe:
        """Put values, `(n_values, n_changed)`, into the sample: each one at least once."""
        count = max(len(sample), len(values))
        features = np.resize(sample, (count, sample.shape[1]))
        features[:, names.get_indexer(changed)] = np.resize(values, (count, len(changed)))
        frame = pd.DataFrame(features, columns=names)
        return Probe(f"test rows with {title}", frame, np.resize(positions, count), changed)

    nullable = {column.name: column.encoded_names for column in columns if column.nullable}
    if len(nullable) > 1:
        nullable["all nullable columns"] = tuple(name for part in nullable.values() for name in part)
    for title, changed in nullable.items():
        yield change(f"{title} missing", changed, np.full((1, len(changed)), np.nan, np.float32))
    for column in columns:
        values = domain_values(column, observed[list(column.encoded_names)].to_numpy(), n_rows)
        if len(values):
            yield change(f"other values of {column.name}", column.encoded_names, values)


def domain_values(column: Column, observed: NDArray[np.float32], n_values: int) -> NDArray[np.float32]:
    """List values that a column may have, and that the test split may lack.

    Args:
        column: A feature.
        observed: Values of the test split, of shape `(n_rows, n_encoded)`.
        n_values: About as many values are enough.

    Returns:
        Shape `(n_values, n_encoded)`: each category (for a list: none, as many as allowed, each alone), each
        hour, weekday and month; or the declared limits, and numbers between neighbours.
    """
    if column.kind == "time":
        steps = np.arange(24)
        return np.column_stack([steps + 59 / 60, steps % 7 + 1, steps % 12 + 1]).astype(np.float32)
    n_labels = len(column.labels)
    if n_labels and column.length is None:
        return np.arange(n_labels, dtype=np.float32)[:, None]
    if n_labels:
        categories = np.arange(n_labels)
        alone = categories[:: n_labels // 1000 + 1]
        none, most = np.zeros((1, n_labels), bool), categories[None, :] < (column.length or 0)
        return np.concatenate([none, most, alone[:, None] == categories]).astype(np.float32)
    limits = [
        np.full((1, observed.shape[1]), bound, np.float32)
        for limit, bound in zip((column.min, column.max), column.bounds, strict=True)
        if limit is not None
    ]
    between = np.column_stack([_midpoints(values, n_values) for values in observed.T])
    between = np.floor(between) if column.kind == "integer" else between
    values = np.concatenate([*limits, between])
    return values[np.isfinite(values).all(axis=1)]


def _midpoints(values: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Numbers between neighbours among some values, evenly chosen: shape `(count,)`; NaN without values."""
    distinct = np.unique(values[np.isfinite(values)])
    if not len(distinct):
        return np.full(count, np.nan, np.float32)
    lower = np.linspace(0, max(len(distinct) - 2, 0), count).astype(int)
    upper = np.minimum(lower + 1, len(distinct) - 1)
    return distinct[lower] + (distinct[upper] - distinct[lower]) / 2


def _batches(probes: Iterable[Probe]) -> Iterator[list[Probe]]:
    """Group probes for a call of the estimator."""
    batch: list[Probe] = []
    for probe in probes:
        batch.append(probe)
        if sum(len(probe.positions) for probe in batch) >= ROWS_PER_CALL:
            yield batch
            batch = []
    if batch:
        yield batch


def _join(probes: list[Probe]) -> Probe:
    """Make one probe of several."""
    features = pd.concat([probe.features for probe in probes], ignore_index=True)
    positions = np.concatenate([probe.positions for probe in probes])
    return Probe(f"{probes[0].title} and others", features, positions, probes[0].changed)


def _compare(estimator: Estimator, run: Run, probe: Probe, test: Dataset) -> Comparison:
    """Predict a probe with estimator and bundle; raise `ProjectError` where an output is not finite."""
    threshold = test.contract.decision_threshold
    expected, expected_labels = _predict(estimator, probe, test)
    try:
        actual = run(probe.features.to_numpy())
    except Exception as error:  # ONNX Runtime raises errors of its own
        raise ProjectError(f"bundle: ONNX Runtime fails on {probe.title}: {error}") from None
    broken = ~(np.isfinite(expected) & np.isfinite(actual)).all(axis=1)
    if broken.any():
        row = int(broken.argmax())
        advice = IMPUTE if probe.features.iloc[row].isna().any() else LIMIT
        raise ProjectError(
            f"bundle: {broken.sum()} of {len(broken)} predictions for {probe.title} are not finite; the "
            f"first is of {_describe(probe, row, test)}: estimator {expected[row]}, bundle {actual[row]}. "
            f"{advice}"
        )
    return Comparison(probe, expected, actual, expected_labels, predict_labels(actual, threshold), threshold)


def _predict(estimator: Estimator, probe: Probe, test: Dataset) -> tuple[Floats, NDArray[np.intp]]:
    """The estimator's outputs, and positions of its labels (of its best outputs, for other tasks)."""
    threshold = test.contract.decision_threshold
    try:
        outputs = predict_outputs(estimator, probe.features, test.contract)
        if test.contract.task != "classification" or threshold is not None:
            return outputs, predict_labels(outputs, threshold)
        return outputs, np.asarray(estimator.predict(probe.features), np.intp).ravel()
    except Exception as error:  # estimators raise errors of many kinds
        changed = probe.features[list(probe.changed)] if probe.changed else probe.features
        has_missing = changed.isna().any(axis=None)
        if not (probe.changed or has_missing):
            raise
        reason = str(error).partition("\n")[0]
        raise ProjectError(
            f"bundle: the estimator fails on {probe.title}: {reason}. {IMPUTE if has_missing else UNKNOWN}"
        ) from None


def _describe(probe: Probe, row: int, test: Dataset) -> str:
    """A row by its key, its changed features and those without a value."""
    features = probe.features.iloc[row]
    blank = features.index[features.isna()]
    values = [f"{name} {features[name]:.9g}" for name in probe.changed if name not in blank]
    parts = [f"{', '.join(test.contract.keys)} {test.key[probe.positions[row]]}", *values[:10]]
    parts += [f"missing {', '.join(blank[:10])}{', …' * (len(blank) > 10)}"] if len(blank) else []
    return ", ".join(parts)


def _explain(
    estimator: Estimator, test: Dataset, comparison: Comparison, distances: Floats, tolerance: float
) -> str:
    """How far estimator and bundle are apart, on which row most, and the likely causes."""
    probe, expected, actual, expected_labels, actual_labels, threshold = comparison
    relabelled = comparison.relabelled
    row = int(np.argmax(distances + relabelled * (np.max(distances) + 1)))

    def name(outputs: Floats, label: int) -> str:
        number = f"{outputs[row, label]:.4g}"
        return number if test.contract.task == "regression" else f"{test.contract.labels[label]} ({number})"

    causes = likely_causes(estimator, probe.features, row, expected)
    if threshold is None and relabelled[row] and expected_labels[row] != expected[row].argmax():
        causes = [
            "the estimator's `predict` does not return its most probable label, as the bundle always does: "
            "declare `decision_threshold` in the contract, or use another estimator"
        ]
    return (
        f"bundle: ONNX and estimator differ by {np.max(distances):.1e} of the outputs' range on "
        f"{probe.title}, bundle.parity_tolerance is {tolerance:.0e}; {relabelled.sum()} of {len(expected)} "
        "rows get another label, which fails at any tolerance.\n"
        f"- The worst row is {_describe(probe, row, test)}: estimator "
        f"{name(expected, expected_labels[row])}, ONNX {name(actual, actual_labels[row])}.\n"
        + "\n".join(f"- Likely cause: {cause}." for cause in causes)
    )


def likely_causes(estimator: Estimator, features: pd.DataFrame, row: int, expected: Floats) -> list[str]:
    """List the converter's known gaps that apply to an estimator, each with what to do.

    Args:
        estimator: Fitted.
        features: Of the predicted rows, shape `(n_rows, n_features)`.
        row: Position of the worst row.
        expected: The estimator's outputs, shape `(n_rows, n_labels)`.

    Returns:
        At least one cause.
    """
    kinds = {type(part).__name__ for part in nested_parts(estimator)}
    has_neighbours = any(kind.startswith("KNeighbors") for kind in kinds)
    inexact = ", ".join(sorted(kinds.intersection(INEXACT)))
    largest, span = np.abs(expected).max(), np.ptp(expected)
    gaps = {
        f"{inexact} before trees, which need no scaling: drop it": inexact and has_trees(estimator),
        "neighbours that are equally far in float32: use another estimator": has_neighbours,
        f"numbers up to {largest:.3g} in a range of {span:.3g}: float32 holds 7 digits. Let problem.PREPARE "
        "subtract a constant from the target": largest > 1000 * span,
    }
    causes = [cause for cause, applies in gaps.items() if applies]
    return causes or [f"{step_at_fault(estimator, features.iloc[[row]])}, which ONNX computes differently"]


def step_at_fault(estimator: Estimator, features: pd.DataFrame) -> str:
    """Find the first step of a pipeline that ONNX computes differently.

    Args:
        estimator: Fitted.
        features: Rows whose outputs differ, shape `(n_rows, n_features)`.

    Returns:
        The step's name and type; for an estimator that is no pipeline, its type.
    """
    *steps, last = getattr(estimator, "steps", [("estimator", estimator)])
    for count, (name, step) in enumerate(steps, 1):
        if _steps_differ(estimator[:count], features):
            return f"step {name} ({type(step).__name__})"
    return f"step {last[0]} ({type(last[1]).__name__})" if steps else type(estimator).__name__


def _steps_differ(steps: Estimator, features: pd.DataFrame) -> bool:
    """Whether ONNX transforms rows differently."""
    expected = steps.transform(features)
    expected = expected.toarray() if hasattr(expected, "toarray") else np.asarray(expected)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "steps.onnx"
        path.write_bytes(convert_steps(steps, features.shape[1]).SerializeToString())
        actual = Session(path).run(features.to_numpy())
    return expected.shape != actual.shape or not np.allclose(expected, actual, 1e-4, 1e-4, equal_nan=True)
