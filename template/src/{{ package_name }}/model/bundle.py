"""The bundle at work: outputs for rows, and answers in the contract's words."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ..contract import Contract
from ..contract.events import output_column
from ..core.errors import ProjectError

TOP = 10


class Metadata(msgspec.Struct):
    """Where a bundle comes from. `version` is the hash of its content, equal for equal models."""

    version: str
    commit: str
    data: str
    parameters: dict[str, Any]
    metrics: dict[str, float]
    libraries: dict[str, str]


class Reference(msgspec.Struct):
    """Of a distribution in `reference.json`: the bounds of its bins."""

    edges: list[float] = []


class Label(msgspec.Struct):
    """A classification: the most probable label, and the probability of each."""

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
    """The best items, best first."""

    items: list[Item]


Answer = Label | Value | Ranking
ANSWERS: dict[str, type[Answer]] = {"classification": Label, "regression": Value, "ranking": Ranking}


class NoAnswerError(ArithmeticError):
    """Outputs that are no finite numbers, of which no answer can be made; the message names the row."""


def digest(*paths: Path) -> str:
    """One SHA-256 over files, in the given order."""
    found = hashlib.sha256()
    for path in paths:
        found.update(path.read_bytes())
    return found.hexdigest()


def content_version(bundle: Path) -> str:
    """The version that a bundle's content has: equal content, equal version."""
    return digest(*(bundle / name for name in ("model.onnx", "contract.json", "reference.json")))[:12]


class Session:
    """The ONNX file of a bundle at work."""

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        # One thread: rows are small, and a server's parallelism is its processes.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(path.read_bytes(), options)
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Outputs of shape (rows, labels) for float32 features of shape (rows, feature names)."""
        outputs: Any = self._session.run(self._outputs, {"features": features})[0]
        return outputs


class Model:
    """A loaded bundle."""

    def __init__(self, folder: Path) -> None:
        """Load a bundle; raise `ProjectError` if a part is missing, broken or of another version."""
        try:
            self.contract = msgspec.json.decode((folder / "contract.json").read_bytes(), type=Contract)
            self.metadata = msgspec.json.decode((folder / "metadata.json").read_bytes(), type=Metadata)
            self.example: dict[str, Any] = msgspec.json.decode((folder / "example.json").read_bytes())
            reference = msgspec.json.decode(
                (folder / "reference.json").read_bytes(), type=dict[str, Reference]
            )
            self.output_edges = {it: reference[output_column(it)].edges for it in self.contract.labels}
            self.run = Session(folder / "model.onnx").run
            if (found := content_version(folder)) != self.metadata.version:
                raise ValueError(f"its content is {found}, but it says {self.metadata.version}")
        except Exception as error:  # ONNX Runtime raises errors of its own for a broken file
            raise ProjectError(
                f"no usable bundle in {folder}: {error}. `make pipeline` makes one, `dvc pull` fetches one."
            ) from None

    def answers(self, outputs: NDArray[np.float32]) -> list[Answer]:
        """One answer for each row of outputs; raise `NoAnswerError` if one has none."""
        labels = self.contract.labels
        if not np.isfinite(outputs).all():
            row, label = np.argwhere(~np.isfinite(outputs))[0].tolist()
            raise NoAnswerError(f"row {row}: the model gives {outputs[row, label]} for {labels[label]}")
        if self.contract.task == "regression":
            return [Value(value) for value in outputs[:, 0].tolist()]
        if self.contract.task == "ranking":
            best = np.argsort(-outputs, axis=1, kind="stable")[:, :TOP]
            return [
                Ranking([Item(labels[item], float(scores[item])) for item in items])
                for items, scores in zip(best.tolist(), outputs, strict=True)
            ]
        return [
            Label(labels[best], dict(zip(labels, scores, strict=True)))
            for best, scores in zip(outputs.argmax(axis=1).tolist(), outputs.tolist(), strict=True)
        ]
