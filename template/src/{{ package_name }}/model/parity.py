"""Parity: the bundle answers as its estimator does, with missing values too, or it is refused."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..contract import Contract
from ..contract.dataset import Dataset
from ..core.errors import ProjectError
from ..stats.metrics import Estimator, predict_outputs
from .onnx import parts

SAMPLE_ROWS = 100  # test rows that are asked about again for each nullable column: a wide table has many,
BLOCKS = 20  # so these are asked about together: each call of an estimator looks at every column
TIED = 2e-4  # probabilities so close may change places within the default tolerance: no other decision
IMPUTE = "Impute it in the estimator (SimpleImputer), or declare the column with nullable=False."
SCALERS = ("StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler", "PowerTransformer", "Normalizer")


class Probe(NamedTuple):
    """Rows that estimator and bundle are both asked about, in blocks of one size."""

    features: pd.DataFrame
    rows: NDArray[np.intp]  # their positions in the test split
    missing: tuple[str, ...] = ("",)  # what was taken away from each block

    @property
    def title(self) -> str:
        """What the rows are, for a message."""
        if not any(self.missing):
            return "the test split"
        return f"test rows with {' or '.join(self.missing)} missing"

    def blocks(self) -> "Iterator[Probe]":
        """Each block alone."""
        size = len(self.rows) // len(self.missing)
        for index, name in enumerate(self.missing):
            block = slice(index * size, (index + 1) * size)
            yield Probe(self.features.iloc[block], self.rows[block], (name,))

    def describe(self, position: int, test: Dataset) -> str:
        """A row by its key, and its features without a value."""
        absent = self.features.columns[self.features.iloc[position].isna()]
        blank = f", missing {', '.join(absent[:10])}{', …' * (len(absent) > 10)}" if len(absent) else ""
        return f"{test.contract.key} {test.key[self.rows[position]]}{blank}"


class Difference(NamedTuple):
    """Outputs of both for the rows of a probe, and which decisions differ."""

    expected: NDArray[np.float64]  # the estimator's, shape (n_rows, n_labels)
    actual: NDArray[np.float32]  # the bundle's
    predicted: NDArray[np.intp]  # positions of the labels that the estimator's `predict` answers
    served: NDArray[np.intp]  # positions of the labels that the bundle answers
    other: NDArray[np.bool_]  # rows whose labels differ, and are not tied


def check_parity(
    estimator: Estimator, run: Callable[[NDArray], NDArray], test: Dataset, tolerance: float
) -> dict[str, float]:
    """Prove that the bundle answers as the estimator does.

    Both answer the whole test split, then a sample of it with each nullable column missing, alone and all
    together.

    Args:
        estimator: fitted.
        run: the bundle's outputs for float32 features of shape (n_rows, n_features).
        test: the test split.
        tolerance: largest difference allowed, relative to the range of the estimator's outputs.

    Returns:
        `parity`, the largest difference, and `other_labels`, the number of rows with another label: 0.

    Raises:
        ProjectError: outputs differ by more, a label differs, or one of both has no finite answer.
    """
    features, contract = test.features, test.contract
    scale = 0.0

    def measure(probe: Probe) -> float:
        nonlocal scale
        difference = compare(estimator, run, probe, test)
        scale = scale or max(float(np.ptp(difference.expected)), 1e-12)  # of the test split, which is first
        distances = np.abs(difference.expected - difference.actual).max(axis=1) / scale
        if difference.other.any() or not distances.max() <= tolerance:
            raise ProjectError(explain(estimator, test, probe, difference, distances, tolerance))
        return float(distances.max())

    parity = measure(Probe(features, np.arange(len(features))))
    print(f"bundle: differs from the estimator by {parity:.1e} over {len(features):,} rows")
    for probe in incomplete(features, contract):
        try:
            parity = max(parity, measure(probe))
        except ProjectError:
            for block in probe.blocks():  # the message is to name one column
                measure(block)
            raise
    return {"parity": parity, "other_labels": 0}


def incomplete(features: pd.DataFrame, contract: Contract) -> Iterator[Probe]:
    """A sample of the test rows without each nullable column, and without all of them."""
    rows = np.unique(np.linspace(0, len(features) - 1, SAMPLE_ROWS).astype(int))
    sample = features.iloc[rows].to_numpy()
    nullable = [column for column in contract.features if column.nullable]
    absent = {column.name: column.encoded_names for column in nullable}
    if len(nullable) > 1:
        absent["all nullable columns"] = tuple(name for names in absent.values() for name in names)
    for titles in batched(absent, BLOCKS):
        values = [np.where(features.columns.isin(absent[it]), np.float32(np.nan), sample) for it in titles]
        table = pd.DataFrame(np.concatenate(values), columns=features.columns)
        yield Probe(table, np.tile(rows, len(titles)), titles)


def batched(names: Iterable[str], size: int) -> Iterator[tuple[str, ...]]:
    """Names, so many at a time."""
    left = iter(names)
    while batch := tuple(islice(left, size)):
        yield batch


def compare(
    estimator: Estimator, run: Callable[[NDArray], NDArray], probe: Probe, test: Dataset
) -> Difference:
    """Ask both; raise `ProjectError` where one of them has no finite answer."""
    contract = test.contract
    try:
        expected = predict_outputs(estimator, probe.features, contract)
        predicted = expected.argmax(axis=1)
        if contract.task == "classification":
            predicted = np.asarray(estimator.predict(probe.features), int).ravel()
    except ProjectError:
        raise
    except Exception as error:  # estimators raise errors of many kinds
        if not probe.features.isna().any(axis=None):
            raise
        reason = str(error).partition("\n")[0]
        raise ProjectError(f"bundle: the estimator fails on {probe.title}: {reason} {IMPUTE}") from None
    actual = run(probe.features.to_numpy())
    broken = ~(np.isfinite(expected) & np.isfinite(actual)).all(axis=1)
    if broken.any():
        row = probe.describe(int(broken.argmax()), test)
        raise ProjectError(
            f"bundle: {broken.sum()} of {len(broken)} answers on {probe.title} are not finite numbers; the "
            f"first is that of {row}: the estimator gives {expected[broken][0]}, the bundle "
            f"{actual[broken][0]}. {IMPUTE}"
        )
    served, every = actual.argmax(axis=1), np.arange(len(actual))
    gap = np.abs(expected[every, predicted] - expected[every, served])
    other = (predicted != served) & (gap > TIED) & (contract.task == "classification")
    return Difference(expected, actual, predicted, served, other)


def explain(
    estimator: Estimator,
    test: Dataset,
    probe: Probe,
    difference: Difference,
    distances: NDArray[np.float64],
    tolerance: float,
) -> str:
    """Say how far estimator and bundle are apart, on which row most, and why that may be."""
    expected, actual, predicted, served, other = difference
    contract = test.contract
    farthest = float(np.max(distances))
    row = int(np.argmax(np.where(other, distances + farthest + 1, distances)))

    def answer(values: NDArray, label: int) -> str:
        number = f"{values[row, label]:.4g}"
        return number if contract.task == "regression" else f"{contract.labels[label]} ({number})"

    causes = likely_causes(estimator, probe.features.iloc[row].to_numpy(), expected)
    if predicted[row] != expected[row].argmax() and other[row]:
        causes = [
            "the estimator's `predict` does not answer its most probable label, as the bundle always does "
            "(a tuned threshold, or SVC): take the classifier inside, or CalibratedClassifierCV around SVC"
        ]
    return (
        f"bundle: ONNX and estimator differ by {farthest:.1e} of the outputs' range on {probe.title}, "
        f"bundle.parity_tolerance is {tolerance:.0e}; {other.sum()} of {len(other)} rows get another label, "
        f"which is refused at any tolerance.\n"
        f"- The worst row is {probe.describe(row, test)}: the estimator answers "
        f"{answer(expected, predicted[row])}, ONNX {answer(actual, served[row])}.\n"
        + "\n".join(f"- Likely cause: {cause}." for cause in causes)
    )


def likely_causes(estimator: Estimator, row: NDArray[np.float32], expected: NDArray) -> list[str]:
    """The converter's known gaps that an estimator has, each with the way out.

    Args:
        estimator: fitted.
        row: the features that are answered worst, shape (n_features,).
        expected: the estimator's outputs, shape (n_rows, n_labels).
    """
    held = list(parts(estimator))
    kinds = {type(part).__name__ for part in held}
    trees = any(hasattr(part, "tree_") for part in held)
    boosting = [part for part in held if type(part).__name__.startswith("HistGradientBoosting")]
    scalers = ", ".join(sorted(kinds.intersection(SCALERS)))
    largest, span = np.abs(expected).max(), np.ptp(expected)
    known = {
        f"a scaler ({scalers}) before trees, which need none: drop it": scalers and (trees or boosting),
        "missing values in trees, whose way through them ONNX does not know: impute them in the estimator, "
        "or take HistGradientBoosting, which keeps it": trees and np.isnan(row).any(),
        "categorical_features of HistGradientBoosting, which ONNX lacks: leave it out, or OneHotEncoder": any(
            getattr(part, "is_categorical_", None) is not None for part in boosting
        ),
        "loss poisson or gamma of HistGradientBoosting, whose exponential ONNX lacks: take another": any(
            getattr(part, "loss", None) in ("poisson", "gamma") for part in boosting
        ),
        "isotonic calibration: take method='sigmoid'": any(
            getattr(part, "method", None) == "isotonic" for part in held
        ),
        "neighbours that are equally far in float32: take another estimator": any(
            kind.startswith("KNeighbors") for kind in kinds
        ),
        f"numbers up to {largest:.3g} that lie within {span:.3g}: float32 holds 7 digits. Let "
        "problem.PREPARE subtract a constant from the target": largest > 1000 * span,
    }
    causes = [cause for cause, holds in known.items() if holds]
    return causes or [
        f"a step of {type(estimator).__name__} that ONNX computes otherwise: take out one by one"
    ]
