"""Prediction events: what was asked and answered, for monitoring. Each answered row is a row at `EVENTS`.

A request that was refused (422) or failed (500) is one row, without features and outputs.
"""

import os
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from arro3.core import Array, ChunkedArray, DataType, Table
from numpy.typing import NDArray

from ..contract.events import COLUMNS, feature_columns, output_columns
from ..model.bundle import Model
from .metrics import Bins
from .writer import AT_ONCE, MAX_STORE_GB, Writer

Matrix = NDArray[np.float32]
LARGE = 2**16  # bytes of a request's features and outputs, which are not added up with others
REQUEST_BYTES = 512  # that a request takes while it waits, beside its features and outputs


class Answered(NamedTuple):
    """One request: features and outputs have a row for each of its rows, if it was answered with 200."""

    id: str
    role: str  # one of `contract.events.ROLES`
    time: float  # when it came, in seconds since 1970, UTC
    seconds: float  # until it was answered
    features: Matrix | None
    outputs: Matrix | None
    status: int = 200

    @property
    def rows(self) -> int:
        """Rows of the event: one, if the request was refused."""
        return 1 if self.features is None else len(self.features)


class Batch:
    """Requests that wait to be written, column by column: that takes less memory, and less time later."""

    def __init__(self, answered: Sequence[Answered]) -> None:
        """Requests in the order in which they came."""
        self.ids, self.roles, times, seconds, features, outputs, statuses = zip(*answered, strict=True)
        self.time, self.times = times[0], np.array(times)
        self.seconds, self.statuses = np.array(seconds, np.float32), np.array(statuses, np.int16)
        self.sizes = np.array([it.rows for it in answered], np.int32)
        self.rows = int(self.sizes.sum())
        self.features, self.outputs = joined(features), joined(outputs)
        self.size = self.features.nbytes + self.outputs.nbytes + REQUEST_BYTES * len(answered)


def joined(parts: Iterable[Any]) -> Matrix:
    """All numbers of matrices, or none, in a row: by their bytes, for numpy would look at each part anew."""
    return np.frombuffer(b"".join(it for it in parts if it is not None), np.float32)


def new_ids() -> Iterator[str]:
    """Ids of 128 random bits, which nobody can guess: who knows one may label its prediction.

    Many are drawn at once, because to ask the system takes several times as long as all else here.
    """
    while True:
        drawn = os.urandom(16 * 1024).hex()
        yield from (drawn[start : start + 32] for start in range(0, len(drawn), 32))


class Events(Writer):
    """The events of one server."""

    def __init__(self, model: Model, address: str, max_gb: float = MAX_STORE_GB) -> None:
        """Events of `model` for the store at `address`: at most so much, if it is a folder."""
        super().__init__(address, max_gb)
        self._model, self._ids = model, new_ids()
        self._fresh: deque[Answered] = deque()
        row_bytes = 4 * len(model.contract.feature_names + model.contract.labels)
        self._many = max(1, min(AT_ONCE, LARGE // row_bytes))  # rows that do not wait for those of others
        self.outputs = {label: Bins(edges) for label, edges in model.output_edges.items()}

    def new_id(self) -> str:
        """A name for a request that brings none."""
        return next(self._ids)

    def record(self, answered: Answered) -> None:
        """Let a request wait to be written."""
        self._fresh.append(answered)
        if len(self._fresh) >= AT_ONCE or answered.rows >= self._many:
            self._settle()

    def _settle(self) -> None:
        """Put what is fresh into columns."""
        with self._lock:
            fresh = [self._fresh.popleft() for _ in range(len(self._fresh))]
            if fresh:
                self._waiting.append(Batch(fresh))
                self._count(self._waiting[-1])

    @property
    def waiting_rows(self) -> int:
        """Rows that are not written yet."""
        self._settle()
        return super().waiting_rows

    def _take(self) -> deque[Batch]:
        """Hand over what waits."""
        self._settle()
        return super()._take()

    def write(self, kept: list[Batch]) -> None:
        """Write one file, and count the outputs."""
        super().write(kept)
        outputs = matrix([it.outputs for it in kept], self.outputs)
        for index, bins in enumerate(self.outputs.values()):
            bins.add(outputs[:, index])

    def table(self, kept: list[Batch]) -> Table:
        """One row for each answered one: which, when, by whom, features and outputs; then those refused."""
        statuses = np.concatenate([it.statuses for it in kept])
        order = np.argsort(statuses != 200, kind="stable")
        sizes = np.concatenate([it.sizes for it in kept])[order]
        request = np.repeat(order, sizes)  # of each row
        row = np.arange(len(request)) - np.repeat(sizes.cumsum() - sizes, sizes)
        times = (np.concatenate([it.times for it in kept]) * 1e6).astype(np.int64)
        seconds, place = np.concatenate([it.seconds for it in kept]), Array.from_numpy(request)
        values = (
            texts(chain(*(it.ids for it in kept))).take(place),
            Array.from_numpy(row.astype(np.int32)),
            Array.from_numpy(times[request]).cast(DataType.timestamp("us")),
            Array.from_numpy(seconds[request]),
            Array.from_numpy(statuses[request]),
            texts([self._model.metadata.version] * len(request)),
            texts(chain(*(it.roles for it in kept))).take(place),
        )
        columns: dict[str, Any] = dict(zip(COLUMNS, values, strict=True))
        contract, refused = self._model.contract, int((statuses != 200).sum())
        features = matrix([it.features for it in kept], contract.feature_names)
        outputs = matrix([it.outputs for it in kept], contract.labels)
        columns |= named(feature_columns(contract), features, refused)
        return Table.from_pydict(columns | named(output_columns(contract), outputs, refused))


def texts(values: Iterable[str]) -> Array:
    """A column of texts."""
    return Array([*values], type=DataType.utf8())


def matrix(parts: list[Matrix], names: Collection[str]) -> Matrix:
    """Rows of named columns."""
    return np.concatenate(parts).reshape(-1, len(names))


def named(names: list[str], answered: Matrix, refused: int) -> dict[str, Array]:
    """Columns of these names: what was answered, and nothing for so many that were refused."""
    none = Array([None] * refused, type=DataType.float32())
    return {
        name: ChunkedArray([Array.from_numpy(answered[:, index].copy()), none]).combine_chunks()
        for index, name in enumerate(names)
    }
