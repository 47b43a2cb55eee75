"""Prediction events: what was asked and answered, for monitoring. Each answered row is a row at `EVENTS`.

A request that was refused (422) or failed (500) is one row, without features and outputs.
"""

from array import array
from collections.abc import Collection, Iterable
from itertools import chain, count
from typing import Any, NamedTuple

import numpy as np
from arro3.core import Array, ChunkedArray, DataType, Table
from numpy.typing import NDArray

from .metrics import Bins
from .model import Model
from .writer import Writer

A_BATCH = 1000  # rows, after which another is begun
Matrix = NDArray[np.float32]


class Answered(NamedTuple):
    """One request: features and outputs have a row for each of its rows, if it was answered with 200."""

    id: str
    role: str  # champion, challenger, or stand-in: the champion for a challenger that did not answer
    time: float  # when it came, in seconds since 1970, UTC
    seconds: float  # until it was answered
    features: Matrix | None
    outputs: Matrix | None
    status: int = 200


class Batch:
    """Requests that wait to be written, column by column: that takes less memory, and less time later."""

    def __init__(self, time: float) -> None:
        """The first came at a time."""
        self.time, self.rows = time, 0
        self.ids: list[str] = []
        self.roles: list[str] = []
        self.times, self.seconds = array("d"), array("f")
        self.statuses, self.sizes = array("h"), array("i")
        self.features, self.outputs = array("f"), array("f")

    def add(self, answered: Answered) -> int:
        """Add a request; give the number of its rows: one, if it was refused."""
        request, role, came, seconds, features, outputs, status = answered
        rows = 1
        if features is not None and outputs is not None:
            rows = len(features)
            self.features.frombytes(features.tobytes())
            self.outputs.frombytes(outputs.tobytes())
        self.ids.append(request)
        self.roles.append(role)
        self.times.append(came)
        self.seconds.append(seconds)
        self.statuses.append(status)
        self.sizes.append(rows)
        self.rows += rows
        return rows


class Events(Writer):
    """The events of one server."""

    def __init__(self, model: Model, address: str) -> None:
        """Events of `model` for the store at `address`."""
        super().__init__(address)
        self._model, self._numbers = model, count()
        self.outputs = {label: Bins(edges) for label, edges in model.output_edges.items()}

    def new_id(self) -> str:
        """A name for a request that brings none."""
        return f"{self.process}-{next(self._numbers)}"

    def record(self, answered: Answered) -> None:
        """Let a request wait to be written."""
        with self._lock:
            if not self._waiting or self._waiting[-1].rows >= A_BATCH:
                self._waiting.append(Batch(answered.time))
            self._count(self._waiting[-1].add(answered))

    def write(self, kept: list[Batch]) -> None:
        """Write one file, and count the outputs."""
        super().write(kept)
        outputs = matrix([it.outputs for it in kept], self.outputs)
        for column, bins in zip(outputs.T, self.outputs.values(), strict=True):
            bins.add_all(column)

    def table(self, kept: list[Batch]) -> Table:
        """One row for each answered one: which, when, by whom, features and outputs; then those refused."""
        statuses = np.concatenate([it.statuses for it in kept])
        order = np.argsort(statuses != 200, kind="stable")
        sizes = np.concatenate([it.sizes for it in kept])[order]
        request = np.repeat(order, sizes)  # of each row
        row = np.arange(len(request)) - np.repeat(sizes.cumsum() - sizes, sizes)
        times = (np.concatenate([it.times for it in kept]) * 1e6).astype(np.int64)
        seconds, place = np.concatenate([it.seconds for it in kept]), Array.from_numpy(request)
        columns: dict[str, Any] = {
            "id": texts(chain(*(it.ids for it in kept))).take(place),
            "row": Array.from_numpy(row.astype(np.int32)),
            "time": Array.from_numpy(times[request]).cast(DataType.timestamp("us")),
            "seconds": Array.from_numpy(seconds[request]),
            "status": Array.from_numpy(statuses[request]),
            "model_version": texts([self._model.metadata.version] * len(request)),
            "role": texts(chain(*(it.roles for it in kept))).take(place),
        }
        contract, refused = self._model.contract, int((statuses != 200).sum())
        features = matrix([it.features for it in kept], contract.feature_names)
        outputs = matrix([it.outputs for it in kept], contract.labels)
        columns |= named("feature", contract.feature_names, features, refused)
        return Table.from_pydict(columns | named("output", contract.labels, outputs, refused))


def texts(values: Iterable[str]) -> Array:
    """A column of texts."""
    return Array([*values], type=DataType.utf8())


def matrix(parts: list[array], names: Collection[str]) -> Matrix:
    """Rows of named columns."""
    return np.concatenate(parts).reshape(-1, len(names))


def named(kind: str, names: tuple[str, ...], answered: Matrix, refused: int) -> dict[str, Array]:
    """Columns of a kind: what was answered, and nothing for so many that were refused."""
    none = Array([None] * refused, type=DataType.float32())
    return {
        f"{kind}:{name}": ChunkedArray([Array.from_numpy(column.copy()), none]).combine_chunks()
        for name, column in zip(names, answered.T, strict=True)
    }
