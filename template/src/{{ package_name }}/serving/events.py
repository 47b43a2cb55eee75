"""Writes prediction events: each row of each request with its features and outputs, for monitoring.

A rejected (422) or failed (500) request is one row without features and outputs. The columns are those of
`contract.events`. Groups and clients are recorded as hashes, because they may be personal data.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from arro3.core import Array, ChunkedArray, DataType, Table
from numpy.typing import NDArray

from ..contract import Contract
from ..contract.events import COLUMNS, feature_columns, output_columns
from ..model.bundle import Model
from .metrics import Histogram
from .writer import MAX_STORE_GB, Record, Writer

Matrices = list[NDArray[np.float32] | None]  # features or outputs of each request
REQUEST_BYTES = 1024  # upper bound of a request's size in memory without what is counted row by row
HASH_BYTES = 40  # size in memory of a group's hash, with its place in a list


class Request(Record, kw_only=True, gc=False):
    """One request to `/predict`.

    Attributes:
        id: The x-request-id.
        role: One of `contract.events.ROLES`.
        seconds: From its receipt to its answer.
        status: HTTP status of the answer.
        client: Hash of the client, None if it is unknown.
        rejected_column: The first column that broke a rule; None unless the status is 422.
        groups: Hash of each row's group, None if it is unknown; empty without a group in the contract.
        features: Of shape `(n_rows, n_monitored)`, None unless the status is 200.
        outputs: Of shape `(n_rows, n_labels)`, None unless the status is 200.
    """

    id: str
    role: str
    seconds: float
    status: int
    client: int | None = None
    rejected_column: str | None = None
    groups: Sequence[int | None] = ()
    features: NDArray[np.float32] | None = None
    outputs: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        self.n_bytes = REQUEST_BYTES
        if self.features is not None and self.outputs is not None:
            self.n_rows = len(self.features)
            self.n_bytes += self.features.nbytes + self.outputs.nbytes + HASH_BYTES * len(self.groups)


class EventWriter(Writer[Request]):
    """Writes the events of one server.

    Attributes:
        outputs: Histogram of each output that was written, by its label.
    """

    def __init__(
        self, model: Model, address: str, max_gb: float = MAX_STORE_GB, hash_key: bytes = b""
    ) -> None:
        """Prepare a writer for events.

        Args:
            model: The model that is served.
            address: Folder or address of the store.
            max_gb: Largest size of the store in GB, if it is a folder.
            hash_key: Secret of all servers with this store. Without one, whoever reads the events can find
                a guessable id (an address, a customer number) by hashing all of them.
        """
        super().__init__(address, max_gb)
        self._contract, self._hash_key = model.contract, hash_key[: blake2b.MAX_KEY_SIZE]
        self._version, self._ids = model.metadata.version, _random_ids()
        self._features, self._outputs = feature_columns(model.contract), output_columns(model.contract)
        self.outputs = {label: Histogram(edges) for label, edges in model.output_edges.items()}

    def new_id(self) -> str:
        """Draw an id for a request that has none.

        Returns:
            32 hexadecimal digits.
        """
        return next(self._ids)

    def hash_id(self, value: str | float | None) -> int | None:
        """Hash the id of a group or client.

        Args:
            value: The id; None or empty if it is unknown.

        Returns:
            64 bits: equal on all servers with the same key. None for an unknown id.
        """
        if value is None or value == "":
            return None
        text = value if isinstance(value, str) else f"{value:.0f}"
        digest = blake2b(text.encode(errors="replace"), digest_size=8, key=self._hash_key)
        return int.from_bytes(digest.digest())

    def summarize(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Replace the numbers of long lists by a summary.

        Args:
            features: Of shape `(n_rows, n_features)`, in the order of `Contract.feature_names`.

        Returns:
            Of shape `(n_rows, n_monitored)`, in the order of `Contract.monitored_names`.
        """
        if self._contract.monitored_names == self._contract.feature_names:
            return features
        return np.hstack([*_monitored_parts(features, self._contract)])

    def write(self, records: list[Request]) -> None:
        """Write one file, and count the outputs in it.

        Args:
            records: The requests, at least one, oldest first.
        """
        super().write(records)
        outputs = _stack([request.outputs for request in records], len(self.outputs))
        for index, histogram in enumerate(self.outputs.values()):
            histogram.add_all(outputs[:, index])

    def table(self, records: list[Request]) -> Table:
        """Convert requests to events: first those with status 200, then one row for each other request.

        Args:
            records: The requests, at least one, oldest first.

        Returns:
            The events, with the columns of `contract.events`.
        """
        requests = sorted(records, key=lambda request: request.features is None)
        n_rows = np.array([request.n_rows for request in requests])
        request_of_row = np.repeat(np.arange(len(requests)), n_rows)
        first_row = np.repeat(n_rows.cumsum() - n_rows, n_rows)  # of the row's request

        def texts(values: list[str] | list[str | None]) -> Array:
            return Array(values, type=DataType.utf8()).take(Array.from_numpy(request_of_row))

        def numbers(values: list[float], kind: type[np.number], scale: float = 1) -> Array:
            return Array.from_numpy((np.array(values) * scale).astype(kind)[request_of_row])

        values = (
            texts([request.id for request in requests]),
            Array.from_numpy((np.arange(len(first_row)) - first_row).astype(np.int32)),
            numbers([request.time for request in requests], np.int64, 1e6).cast(DataType.timestamp("us")),
            numbers([request.seconds for request in requests], np.float32),
            numbers([request.status for request in requests], np.int16),
            texts([self._version] * len(requests)),
            texts([request.role for request in requests]),
            _hashes(hashed for request in requests for hashed in request.groups or [None] * request.n_rows),
            _hashes(request.client for request in requests).take(Array.from_numpy(request_of_row)),
            texts([request.rejected_column for request in requests]),
        )
        events: dict[str, Any] = dict(zip(COLUMNS, values, strict=True))
        n_missing = sum(request.features is None for request in requests)
        events |= _numbers(self._features, [request.features for request in requests], n_missing)
        events |= _numbers(self._outputs, [request.outputs for request in requests], n_missing)
        return Table.from_pydict(events)


def _random_ids() -> Iterator[str]:
    """Yield ids of 128 random bits, which cannot be guessed: whoever knows an id can label its prediction.

    Many are drawn at once: one system call per id would take longer than everything else here.
    """
    while True:
        digits = os.urandom(16 * 1024).hex()
        yield from (digits[start : start + 32] for start in range(0, len(digits), 32))


def _monitored_parts(features: NDArray[np.float32], contract: Contract) -> Iterator[NDArray[np.float32]]:
    """Yield the features of each column, or their summary (SQL: `tables.encode_monitored`)."""
    start = 0
    for column in contract.features:
        end = start + len(column.encoded_names)
        part = features[:, start:end]
        if column.is_summarized:
            part = part.astype(float)  # as SQL computes: equal numbers have no deviation
            part = np.column_stack([part.mean(1), part.std(1), part.min(1), part.max(1)])
        yield part.astype(np.float32, copy=False)
        start = end


def _hashes(values: Iterable[int | None]) -> Array:
    """Convert hashes to an Arrow array."""
    return Array([*values], type=DataType.uint64())


def _stack(matrices: Matrices, n_columns: int) -> NDArray[np.float32]:
    """Stack matrices to shape `(n_rows, n_columns)`; joining bytes avoids a numpy call per matrix."""
    joined = b"".join(matrix.data for matrix in matrices if matrix is not None)
    return np.frombuffer(joined, np.float32).reshape(-1, n_columns)


def _numbers(names: list[str], matrices: Matrices, n_missing: int) -> dict[str, Array]:
    """Convert matrices to one Arrow array per column, with so many missing values at the end."""
    missing = Array([None] * n_missing, type=DataType.float32())
    columns = _stack(matrices, len(names)).T.copy()
    return {
        name: ChunkedArray([Array.from_numpy(columns[index, :]), missing]).combine_chunks()
        for index, name in enumerate(names)
    }
