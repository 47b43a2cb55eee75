"""The bundle: a model as a folder, loaded and run; outputs become predictions in the contract's words."""

import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..contract import TOP_K, Contract
from ..contract.events import output_column
from ..core.errors import ProjectError
from ..stats.metrics import best_items, predict_labels

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read on import: ONNX Runtime reports its use otherwise
import onnxruntime as ort

HASHED_FILES = ("model.onnx", "contract.json", "reference.json")
PREPARE = "prepare.sql"  # `problem.PREPARE` of the training rows, for batch files with the source's columns


class Metadata(msgspec.Struct):
    """Where a bundle comes from.

    Attributes:
        version: The first twelve digits of `sha256`, for people.
        commit: The git commit that it was built at; `…-dirty` if code or parameters were changed since.
        data: SHA-256 of the training and test rows.
        parameters: Sections of `params.yaml`.
        metrics: Metrics of the cross-validation.
        libraries: Versions of libraries.
        sha256: Hash of the content, equal for equal models; empty in bundles of releases before 0.5.
    """

    version: str
    commit: str
    data: str
    parameters: dict[str, Any]
    metrics: dict[str, float]
    libraries: dict[str, str]
    sha256: str = ""


class Bins(msgspec.Struct):
    """The edges of the bins of a distribution in `reference.json`."""

    edges: list[float] = []


class Label(msgspec.Struct):
    """A classification: the predicted label, and the probability of each."""

    label: str
    probabilities: dict[str, float]


class Value(msgspec.Struct):
    """A regression or forecast."""

    value: float


class Item(msgspec.Struct):
    """One entry of a ranking."""

    item: str
    score: float


class Ranking(msgspec.Struct):
    """The best items, best first; fewer if the user has seen nearly all."""

    items: list[Item]


Prediction = Label | Value | Ranking
PREDICTIONS: dict[str, type[Prediction]] = {"classification": Label, "regression": Value, "ranking": Ranking}
"""The type of a prediction, by task."""


class OutputError(ArithmeticError):
    """A model's output is not a finite number, so there is no prediction. The message names the row."""


def hash_files(*paths: Path) -> str:
    """Hash the content of files.

    Args:
        paths: Files, in the order in which they are hashed.

    Returns:
        One SHA-256 over all of them, in hexadecimal.
    """
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def content_hash(bundle: Path) -> str:
    """Hash the content of a bundle.

    Args:
        bundle: The folder.

    Returns:
        The SHA-256, equal for equal content.
    """
    return hash_files(*(bundle / name for name in HASHED_FILES))


def content_version(sha256: str) -> str:
    """Shorten the hash of a bundle for people. Twelve digits can be forged.

    Args:
        sha256: As returned by `content_hash`.

    Returns:
        Its first twelve digits.
    """
    return sha256[:12]


class Session:
    """The ONNX file of a bundle, ready to run."""

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        # One thread: rows are small, and a server runs several processes.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(path.read_bytes(), options)
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute the model's outputs.

        Args:
            features: Of shape `(n_rows, n_features)`, in the order of `Contract.feature_names`.

        Returns:
            Of shape `(n_rows, n_labels)`: probabilities or scores; for a regression, `(n_rows, 1)`: values.
        """
        outputs: Any = self._session.run(self._outputs, {"features": features})[0]
        return outputs


class Model:
    """A loaded bundle."""

    def __init__(self, folder: Path) -> None:
        """Load a bundle; raise `ProjectError` if a file is missing or broken, or has another version."""
        try:
            self.contract: Contract = _read(folder / "contract.json", Contract)
            self.metadata: Metadata = _read(folder / "metadata.json", Metadata)
            self.example: dict[str, Any] = _read(folder / "example.json", dict[str, Any])
            reference: dict[str, Bins] = _read(folder / "reference.json", dict[str, Bins])
            self.output_edges = {
                label: reference[output_column(label)].edges for label in self.contract.labels
            }
            self.run = Session(folder / "model.onnx").run
            self.sha256, metadata = content_hash(folder), self.metadata
            expected = metadata.sha256 or metadata.version
            if not self.sha256.startswith(expected) or metadata.version != content_version(self.sha256):
                message = f"its content has the SHA-256 {self.sha256}, but metadata.json says {expected}"
                raise ValueError(message)
        except Exception as error:  # ONNX Runtime raises its own errors for a broken file
            raise ProjectError(
                f"no usable bundle in {folder}: {error}. "
                "`make pipeline` builds the bundle, `make pull` downloads it."
            ) from None

    def predictions(self, outputs: NDArray[np.float32]) -> list[Prediction]:
        """Express outputs in the contract's words.

        Args:
            outputs: As returned by `run`, of shape `(n_rows, n_labels)`.

        Returns:
            One prediction for each row.

        Raises:
            OutputError: An output is not finite.
        """
        labels = self.contract.labels
        if not np.isfinite(outputs).all():
            row, label = np.argwhere(~np.isfinite(outputs))[0].tolist()
            raise OutputError(f"row {row}: the model's output for {labels[label]} is {outputs[row, label]}")
        if self.contract.task == "regression":
            return [Value(value) for value in outputs[:, 0].tolist()]
        if self.contract.task == "ranking":
            return [
                Ranking([Item(labels[item], float(outputs[row, item])) for item in items])
                for row, items in enumerate(self._offered(outputs))
            ]
        predicted = predict_labels(outputs, self.contract.decision_threshold)
        return [
            Label(labels[label], dict(zip(labels, scores, strict=True)))
            for label, scores in zip(predicted.tolist(), outputs.tolist(), strict=True)
        ]

    def _offered(self, outputs: NDArray[np.float32]) -> list[list[int]]:
        """Positions of the best items of each row, best first, without those that the user has seen."""
        best = best_items(outputs, TOP_K)
        if not self.contract.seen_slices:
            return best.tolist()
        return [items[scores[items] > 0].tolist() for items, scores in zip(best, outputs, strict=True)]


def _read(path: Path, kind: Any) -> Any:
    """Read a JSON file as a type."""
    return msgspec.json.decode(path.read_bytes(), type=kind)
