"""Writes prediction events: each row of each request with its features and outputs, for monitoring.

A rejected (422) or failed (500) request is one row without features and outputs. The columns are those of
`contract.events`.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from arro3.core import Array, ChunkedArray, DataType, Table
from numpy.typing import NDArray

from ..contract.events import COLUMNS, feature_columns, output_columns
from ..model.bundle import Model
from .metrics import Histogram
from .writer import MAX_STORE_GB, Record, Writer

Matrix = NDArray[np.float32]
BATCH_BYTES = 2**16  # of requests that are joined to a batch: about 100 with one row each
REQUEST_BYTES = 512  # upper bound of a request's size in memory without its features and outputs


class Request(NamedTuple):
    """One request to `/predict`.

    Attributes:
        id: The x-request-id.
        role: One of `contract.events.ROLES`.
        time: When it was received, in seconds since 1970, UTC.
        seconds: Until its answer was ready.
        status: HTTP status of the answer.
        features: Of shape `(n_rows, n_features)`, None unless the status is 200.
        outputs: Of shape `(n_rows, n_labels)`, None unless the status is 200.
    """

    id: str
    role: str
    time: float
    seconds: float
    status: int
    features: Matrix | None = None
    outputs: Matrix | None = None

    @property
    def n_rows(self) -> int:
        """Number of events: at least one."""
        return 1 if self.features is None else len(self.features)

    @property
    def n_bytes(self) -> int:
        """Size in memory."""
        if self.features is None or self.outputs is None:
            return REQUEST_BYTES
        return REQUEST_BYTES + self.features.nbytes + self.outputs.nbytes


@dataclass(frozen=True)
class Batch(Record):
    """Requests as columns, which take less memory than objects and less time to write.

    Attributes:
        requests: Columns of shape `(n_requests,)`: time, seconds, status and n_rows.
        ids: The id of each request.
        roles: The role of each request.
        features: Features of all rows with status 200, flat, row after row.
        outputs: Outputs of these rows, flat, row after row.
    """

    requests: dict[str, NDArray[Any]]
    ids: tuple[str, ...]
    roles: tuple[str, ...]
    features: Matrix
    outputs: Matrix

    @classmethod
    def of(cls, requests: list[Request]) -> "Batch":
        """Convert requests to columns.

        Args:
            requests: The requests, at least one, oldest first.

        Returns:
            The batch.
        """
        ids, roles, times, seconds, statuses, features, outputs = zip(*requests, strict=True)
        columns = {
            "time": np.array(times),
            "seconds": np.array(seconds, np.float32),
            "status": np.array(statuses, np.int16),
            "n_rows": np.array([request.n_rows for request in requests], np.int32),
        }
        features, outputs = _join(features), _join(outputs)
        n_bytes = REQUEST_BYTES * len(requests) + features.nbytes + outputs.nbytes
        return cls(times[0], int(columns["n_rows"].sum()), n_bytes, columns, ids, roles, features, outputs)


def _join(matrices: Iterable[Any]) -> Matrix:
    """Concatenate matrices to one flat array; joining bytes avoids a numpy call per matrix."""
    return np.frombuffer(b"".join(matrix for matrix in matrices if matrix is not None), np.float32)


def _random_ids() -> Iterator[str]:
    """Yield ids of 128 random bits, which cannot be guessed: whoever knows an id can label its prediction.

    Many are drawn at once: one system call per id would take longer than everything else here.
    """
    while True:
        digits = os.urandom(16 * 1024).hex()
        yield from (digits[start : start + 32] for start in range(0, len(digits), 32))


class EventWriter(Writer[Batch]):
    """Writes the events of one server.

    Attributes:
        outputs: Histogram of each output that was written, by its label.
    """

    def __init__(self, model: Model, address: str, max_gb: float = MAX_STORE_GB) -> None:
        """Prepare a writer for events.

        Args:
            model: The model that is served.
            address: Folder or address of the store.
            max_gb: Largest size of the store in GB, if it is a folder.
        """
        super().__init__(address, max_gb)
        self._version, self._contract, self._ids = model.metadata.version, model.contract, _random_ids()
        self._recent: deque[Request] = deque()  # not in a batch yet
        self._recent_bytes = 0
        self.outputs = {label: Histogram(edges) for label, edges in model.output_edges.items()}

    def new_id(self) -> str:
        """Return an id for a request that has none."""
        return next(self._ids)

    def record(self, request: Request) -> None:
        """Record a request and its answer.

        Args:
            request: The request.
        """
        self._recent.append(request)
        self._recent_bytes += request.n_bytes
        if self._recent_bytes >= BATCH_BYTES:
            self._batch()

    def _batch(self) -> None:
        """Add the recent requests to the buffer. Both the server's thread and the writer's do so."""
        requests, self._recent_bytes = [], 0
        with suppress(IndexError):
            while True:
                requests.append(self._recent.popleft())
        if requests:
            self.add(Batch.of(requests))

    @property
    def buffered_rows(self) -> int:
        """Rows that are not written yet."""
        self._batch()
        return super().buffered_rows

    def _take(self) -> list[Batch]:
        """Take all requests out of the buffer."""
        self._batch()
        return super()._take()

    def write(self, records: list[Batch]) -> None:
        """Write one file, and count the outputs in it.

        Args:
            records: The batches, at least one, oldest first.
        """
        super().write(records)
        outputs = np.concatenate([batch.outputs for batch in records]).reshape(-1, len(self.outputs))
        for histogram, values in zip(self.outputs.values(), outputs.T, strict=True):
            histogram.add_all(values)

    def table(self, records: list[Batch]) -> Table:
        """Convert batches to events: first those with status 200, then one row for each other request.

        Args:
            records: The batches, at least one, oldest first.

        Returns:
            The events, with the columns of `contract.events`.
        """
        columns = {
            name: np.concatenate([batch.requests[name] for batch in records]) for name in records[0].requests
        }
        is_answered = columns["status"] == 200
        order = np.argsort(~is_answered, kind="stable")
        n_rows = columns["n_rows"][order]
        request = np.repeat(order, n_rows)  # position of each row's request
        first_row = np.repeat(n_rows.cumsum() - n_rows, n_rows)  # position of its request's first row
        times = (columns["time"] * 1e6).astype(np.int64)
        values = (
            _texts(chain(*(batch.ids for batch in records))).take(Array.from_numpy(request)),
            Array.from_numpy((np.arange(len(request)) - first_row).astype(np.int32)),
            Array.from_numpy(times[request]).cast(DataType.timestamp("us")),
            Array.from_numpy(columns["seconds"][request]),
            Array.from_numpy(columns["status"][request]),
            _texts([self._version] * len(request)),
            _texts(chain(*(batch.roles for batch in records))).take(Array.from_numpy(request)),
        )
        events: dict[str, Any] = dict(zip(COLUMNS, values, strict=True))
        missing = Array([None] * int((~is_answered).sum()), type=DataType.float32())
        events |= _numbers(feature_columns(self._contract), [batch.features for batch in records], missing)
        events |= _numbers(output_columns(self._contract), [batch.outputs for batch in records], missing)
        return Table.from_pydict(events)


def _texts(values: Iterable[str]) -> Array:
    """Convert texts to an Arrow array."""
    return Array([*values], type=DataType.utf8())


def _numbers(names: list[str], parts: list[Matrix], missing: Array) -> dict[str, Array]:
    """Convert flat arrays of rows to one Arrow array per column, with missing values at the end."""
    matrix = np.concatenate(parts).reshape(-1, len(names))
    return {
        name: ChunkedArray([Array.from_numpy(values.copy()), missing]).combine_chunks()
        for name, values in zip(names, matrix.T, strict=True)
    }
