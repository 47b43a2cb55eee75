"""Parity: the bundle predicts what its estimator predicts, also for missing values, or the build fails."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..contract.dataset import Dataset
from ..core.errors import ProjectError
from ..stats.metrics import Estimator, Floats, predict_outputs
from .onnx import nested_parts

SAMPLE_ROWS = 100  # test rows that are predicted again for each nullable column
COLUMNS_PER_CALL = 20  # each call of an estimator looks at every column, and a wide table has many
TIED = 2e-4  # probabilities this close may change places within the default tolerance
BOOSTING = "HistGradientBoosting"
IMPUTE = "Impute it in the estimator (SimpleImputer), or declare the column with nullable=False."
SCALERS = ("StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler", "PowerTransformer", "Normalizer")

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class Probe(NamedTuple):
    """Rows that estimator and bundle both predict."""

    title: str
    features: pd.DataFrame  # (n_probe_rows, n_features)
    positions: NDArray[np.intp]  # of these rows in the test split, (n_probe_rows,)


class Comparison(NamedTuple):
    """What estimator and bundle predict for a probe: outputs `(n_probe_rows, n_labels)` and labels."""

    probe: Probe
    expected: Floats
    actual: Floats
    expected_labels: NDArray[np.intp]  # positions of the labels that the estimator's `predict` returns
    actual_labels: NDArray[np.intp]

    @property
    def relabelled(self) -> NDArray[np.bool_]:
        """Whether each row gets another label.

        Returns:
            A mask, `(n_rows,)`; False where the two labels are tied.
        """
        rows = np.arange(len(self.expected))
        gap = np.abs(self.expected[rows, self.expected_labels] - self.expected[rows, self.actual_labels])
        return (self.expected_labels != self.actual_labels) & (gap > TIED)


def check_parity(estimator: Estimator, run: Run, test: Dataset, tolerance: float) -> dict[str, float]:
    """Check that the bundle predicts what its estimator predicts.

    Both predict the whole test split, then a sample of it with each nullable column missing, alone and all
    together.

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
    columns, scale = nullable_columns(test), max(float(np.ptp(whole.expected)), 1e-12)

    def measure(comparison: Comparison) -> float:
        distances = np.abs(comparison.expected - comparison.actual).max(axis=1) / scale
        if comparison.relabelled.any() or not distances.max() <= tolerance:
            raise ProjectError(_explain(estimator, test, comparison, distances, tolerance))
        return float(distances.max())

    def measure_blank(names: list[str]) -> float:
        probe = blank_probe(test, {name: columns[name] for name in names})
        return measure(_compare(estimator, run, probe, test))

    parity = measure(whole)
    print(f"bundle: differs from the estimator by {parity:.1e} over {len(test):,} rows")
    for start in range(0, len(columns), COLUMNS_PER_CALL):
        names = [*columns][start : start + COLUMNS_PER_CALL]
        try:
            parity = max(parity, measure_blank(names))
        except ProjectError:
            for name in names:  # find the column that the message has to name
                measure_blank([name])
            raise
    return {"parity": parity, "other_labels": 0}


def nullable_columns(test: Dataset) -> dict[str, tuple[str, ...]]:
    """List the sets of features that are blanked together.

    Args:
        test: The test split.

    Returns:
        Names of features, by the title of their set: each nullable column, and all of them.
    """
    columns = {column.name: column.encoded_names for column in test.contract.features if column.nullable}
    if len(columns) > 1:
        columns["all nullable columns"] = tuple(name for names in columns.values() for name in names)
    return columns


def blank_probe(test: Dataset, columns: dict[str, tuple[str, ...]]) -> Probe:
    """Repeat a sample of the test rows, each time with another set of features missing.

    Args:
        test: The test split.
        columns: Names of features, by the title of their set.

    Returns:
        The sample once for each set, in order.
    """
    positions = np.unique(np.linspace(0, len(test) - 1, SAMPLE_ROWS).astype(int))
    sample, names = test.features.iloc[positions].to_numpy(), test.features.columns
    blocks = [np.where(names.isin(blank), np.float32(np.nan), sample) for blank in columns.values()]
    features = pd.DataFrame(np.concatenate(blocks), columns=names)
    return Probe(f"test rows with {' or '.join(columns)} missing", features, np.tile(positions, len(blocks)))


def _compare(estimator: Estimator, run: Run, probe: Probe, test: Dataset) -> Comparison:
    """Predict a probe with estimator and bundle; raise `ProjectError` where an output is not finite."""
    expected, expected_labels = _predict(estimator, probe, test)
    actual = run(probe.features.to_numpy())
    broken = ~(np.isfinite(expected) & np.isfinite(actual)).all(axis=1)
    if broken.any():
        row = int(broken.argmax())
        raise ProjectError(
            f"bundle: {broken.sum()} of {len(broken)} predictions for {probe.title} are not finite; the "
            f"first is of {_describe(probe, row, test)}: estimator {expected[row]}, bundle {actual[row]}. "
            f"{IMPUTE}"
        )
    return Comparison(probe, expected, actual, expected_labels, actual.argmax(axis=1))


def _predict(estimator: Estimator, probe: Probe, test: Dataset) -> tuple[Floats, NDArray[np.intp]]:
    """The estimator's outputs, and positions of its labels (of its best outputs, for other tasks)."""
    try:
        outputs = predict_outputs(estimator, probe.features, test.contract)
        if test.contract.task != "classification":
            return outputs, outputs.argmax(axis=1)
        return outputs, np.asarray(estimator.predict(probe.features), np.intp).ravel()
    except Exception as error:  # estimators raise errors of many kinds
        if not probe.features.isna().any(axis=None):
            raise
        reason = str(error).partition("\n")[0]
        raise ProjectError(f"bundle: the estimator fails on {probe.title}: {reason} {IMPUTE}") from None


def _describe(probe: Probe, row: int, test: Dataset) -> str:
    """A row by its key, and its features without a value."""
    blank = probe.features.columns[probe.features.iloc[row].isna()]
    missing = f", missing {', '.join(blank[:10])}{', …' * (len(blank) > 10)}" if len(blank) else ""
    return f"{', '.join(test.contract.keys)} {test.key[probe.positions[row]]}{missing}"


def _explain(
    estimator: Estimator, test: Dataset, comparison: Comparison, distances: Floats, tolerance: float
) -> str:
    """How far estimator and bundle are apart, on which row most, and the likely causes."""
    probe, expected, actual, expected_labels, actual_labels = comparison
    relabelled = comparison.relabelled
    row = int(np.argmax(distances + relabelled * (np.max(distances) + 1)))

    def name(outputs: Floats, label: int) -> str:
        number = f"{outputs[row, label]:.4g}"
        return number if test.contract.task == "regression" else f"{test.contract.labels[label]} ({number})"

    causes = likely_causes(estimator, probe.features.iloc[row].to_numpy(), expected)
    if relabelled[row] and expected_labels[row] != expected[row].argmax():
        causes = [
            "the estimator's `predict` does not return its most probable label, as the bundle always does "
            "(a tuned threshold, or SVC): use the classifier inside, or CalibratedClassifierCV around SVC"
        ]
    return (
        f"bundle: ONNX and estimator differ by {np.max(distances):.1e} of the outputs' range on "
        f"{probe.title}, bundle.parity_tolerance is {tolerance:.0e}; {relabelled.sum()} of {len(expected)} "
        "rows get another label, which fails at any tolerance.\n"
        f"- The worst row is {_describe(probe, row, test)}: estimator "
        f"{name(expected, expected_labels[row])}, ONNX {name(actual, actual_labels[row])}.\n"
        + "\n".join(f"- Likely cause: {cause}." for cause in causes)
    )


def likely_causes(estimator: Estimator, row: NDArray[np.float32], expected: Floats) -> list[str]:
    """List the converter's known gaps that apply to an estimator, each with what to do.

    Args:
        estimator: Fitted.
        row: Features of the worst row, shape `(n_features,)`.
        expected: The estimator's outputs, shape `(n_rows, n_labels)`.

    Returns:
        At least one cause.
    """
    parts = nested_parts(estimator)
    kinds = {type(part).__name__ for part in parts}
    has_trees = any(hasattr(part, "tree_") for part in parts)
    boosting = [part for part in parts if type(part).__name__.startswith(BOOSTING)]
    has_log_link = any(getattr(part, "loss", None) in ("poisson", "gamma") for part in boosting)
    is_isotonic = any(getattr(part, "method", None) == "isotonic" for part in parts)
    categorical = any(getattr(part, "is_categorical_", None) is not None for part in boosting)
    has_neighbours = any(kind.startswith("KNeighbors") for kind in kinds)
    scalers = ", ".join(sorted(kinds.intersection(SCALERS)))
    largest, span = np.abs(expected).max(), np.ptp(expected)
    gaps = {
        f"a scaler ({scalers}) before trees, which need none: drop it": scalers and (has_trees or boosting),
        "missing values in trees, which ONNX sends another way: impute them in the estimator, or use "
        f"{BOOSTING}": has_trees and np.isnan(row).any(),
        f"categorical_features of {BOOSTING}, which ONNX lacks: drop it, or use OneHotEncoder": categorical,
        f"loss poisson or gamma of {BOOSTING}, whose exponential ONNX lacks: use another": has_log_link,
        "isotonic calibration: use method='sigmoid'": is_isotonic,
        "neighbours that are equally far in float32: use another estimator": has_neighbours,
        f"numbers up to {largest:.3g} in a range of {span:.3g}: float32 holds 7 digits. Let problem.PREPARE "
        "subtract a constant from the target": largest > 1000 * span,
    }
    causes = [cause for cause, applies in gaps.items() if applies]
    return causes or [
        f"a step of {type(estimator).__name__} that ONNX computes differently: remove the steps one by one"
    ]
