"""Prediction events: what was asked and answered, for monitoring. Each answered row is a row at `EVENTS`.

A request that was refused (422) or failed (500) is one row, without features and outputs.
"""

from itertools import count
from typing import Any, NamedTuple

import numpy as np
from arro3.core import Array, DataType, Table
from numpy.typing import NDArray

from .metrics import Bins
from .model import Model
from .writer import Writer


class Answered(NamedTuple):
    """One request: features and outputs have a row for each of its rows, if it was answered with 200."""

    id: str
    role: str  # champion, challenger, or stand-in: the champion for a challenger that did not answer
    time: float  # when it came, in seconds since 1970, UTC
    seconds: float  # until it was answered
    features: NDArray[np.float32] | None
    outputs: NDArray[np.float32] | None
    status: int = 200

    @property
    def rows(self) -> int:
        """Rows of the events."""
        return 1 if self.features is None else len(self.features)


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

    def write(self, kept: list[Answered]) -> None:
        """Write one file, and count the outputs."""
        super().write(kept)
        outputs = joined([it.outputs for it in kept], len(self.outputs))
        for column, bins in zip(outputs.T, self.outputs.values(), strict=True):
            bins.add_all(column)

    def table(self, kept: list[Answered]) -> Table:
        """One row for each answered one: which, when, by whom, features and outputs."""
        contract, sizes = self._model.contract, [it.rows for it in kept]
        times = np.array([it.time * 1e6 for it in kept], np.int64)
        seconds = np.array([it.seconds for it in kept], np.float32)
        statuses = np.array([it.status for it in kept], np.int16)
        of_request = np.repeat(np.arange(len(kept)), sizes)
        version = self._model.metadata.version
        columns: dict[str, Any] = {
            "id": Array([kept[index].id for index in of_request], type=DataType.utf8()),
            "row": Array.from_numpy(np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])),
            "time": Array.from_numpy(times[of_request]).cast(DataType.timestamp("us")),
            "seconds": Array.from_numpy(seconds[of_request]),
            "status": Array.from_numpy(statuses[of_request]),
            "model_version": Array([version] * len(of_request), type=DataType.utf8()),
            "role": Array([kept[index].role for index in of_request], type=DataType.utf8()),
        }
        place = count()
        places = [next(place) if status == 200 else None for status in statuses[of_request].tolist()]
        of_row = Array(places, type=DataType.int32())
        features = joined([it.features for it in kept], len(contract.feature_names))
        outputs = joined([it.outputs for it in kept], len(contract.labels))
        for name, column in zip(contract.feature_names, features.T, strict=True):
            columns[f"feature:{name}"] = Array.from_numpy(column.copy()).take(of_row)
        for label, column in zip(contract.labels, outputs.T, strict=True):
            columns[f"output:{label}"] = Array.from_numpy(column.copy()).take(of_row)
        return Table.from_pydict(columns)


def joined(parts: list[NDArray[np.float32] | None], columns: int) -> NDArray[np.float32]:
    """The rows of all parts that are there."""
    none = np.empty((0, columns), np.float32)
    return np.concatenate([none, *(part for part in parts if part is not None)])
