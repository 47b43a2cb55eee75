"""Prediction events: what was asked and answered, for monitoring, written beside the path of a request.

Each answered row becomes a row of Parquet at `EVENTS`, a folder or an address that fsspec knows, in a file
every few seconds. A store that fails costs no request anything: rows wait, up to a limit beyond which the
oldest are dropped, and the metrics say so. What a killed process had not yet written is lost: `INTERVAL`.
"""

import threading
import time
from collections import deque
from itertools import count
from typing import Any, NamedTuple
from uuid import uuid4

import fsspec
import numpy as np
from arro3.core import Array, DataType, Table
from arro3.io import write_parquet
from numpy.typing import NDArray
from prometheus_client import Counter, Gauge

from .model import Model

INTERVAL = 5.0  # seconds between files
MOST_WAITING = 50_000  # rows
LAST_CHANCE = 5.0  # seconds that the store has when the server is told to go

WAITING = Gauge("event_waiting_rows", "Answered rows that are not written yet")
DROPPED = Counter("event_dropped_rows", "Answered rows that were given up, because the store took none")
FAILURES = Counter("event_write_failures", "Attempts to write events that failed")


class Answered(NamedTuple):
    """One request: features and outputs have a row for each of its rows."""

    id: str
    role: str  # champion or challenger
    time: float  # when it came, in seconds since 1970, UTC
    seconds: float  # until it was answered
    features: NDArray[np.float32]
    outputs: NDArray[np.float32]


class Events:
    """The events of one server, written by a thread of its own."""

    def __init__(self, model: Model, address: str) -> None:
        """Events of `model` for the store at `address`."""
        self._model, self._address = model, address.rstrip("/")
        self._process, self._numbers = uuid4().hex[:12], count()
        self._waiting: deque[Answered] = deque()
        self._rows, self._lock = 0, threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write_until_stopped, daemon=True)
        WAITING.set_function(lambda: self._rows)

    def new_id(self) -> str:
        """A name for a request that brings none."""
        return f"{self._process}-{next(self._numbers)}"

    def record(self, answered: Answered) -> None:
        """Let a request wait to be written."""
        with self._lock:
            self._waiting.append(answered)
            self._rows += len(answered.features)
            while self._rows > MOST_WAITING and self._waiting:
                dropped = len(self._waiting.popleft().features)
                self._rows -= dropped
                DROPPED.inc(dropped)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def close(self) -> None:
        """Write what waits, if the store is quick about it."""
        self._stop.set()
        self._thread.join(LAST_CHANCE)

    def _write_until_stopped(self) -> None:
        stopped = warned = False
        while not stopped:
            stopped = self._stop.wait(INTERVAL)
            with self._lock:
                taken, self._waiting = self._waiting, deque()
            try:
                if taken:
                    self._write(list(taken))
            except Exception as error:  # every store raises errors of its own
                FAILURES.inc()
                if not warned:
                    print(f"warning: {self._address} takes no events, they wait: {error!r}"[:300], flush=True)
                warned = True
                with self._lock:
                    self._waiting.extendleft(reversed(taken))
            else:
                warned = False
                with self._lock:
                    self._rows -= sum(len(it.features) for it in taken)

    def _write(self, requests: list[Answered]) -> None:
        """Write one file: whole, or not at all."""
        store, root = fsspec.core.url_to_fs(self._address)
        day = time.strftime("%Y-%m-%d", time.gmtime(requests[0].time))
        store.makedirs(f"{root}/{day}", exist_ok=True)
        name = f"{root}/{day}/{self._process}-{time.time_ns()}.parquet"
        with store.open(f"{name}.part", "wb") as file:
            write_parquet(self._table(requests), file, compression="zstd(1)")
        store.mv(f"{name}.part", name)

    def _table(self, requests: list[Answered]) -> Table:
        """One row for each answered one: which, when, by whom, features and outputs."""
        sizes = [len(it.features) for it in requests]
        features = np.concatenate([it.features for it in requests])
        outputs = np.concatenate([it.outputs for it in requests])
        times = np.array([it.time * 1e6 for it in requests], np.int64)
        seconds = np.array([it.seconds for it in requests], np.float32)
        of_request = np.repeat(np.arange(len(requests)), sizes)
        version = self._model.metadata.version
        columns: dict[str, Any] = {
            "id": Array([requests[index].id for index in of_request], type=DataType.utf8()),
            "row": Array.from_numpy(np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])),
            "time": Array.from_numpy(times[of_request]).cast(DataType.timestamp("us")),
            "seconds": Array.from_numpy(seconds[of_request]),
            "status": Array.from_numpy(np.full(len(features), 200, np.int16)),
            "model_version": Array([version] * len(features), type=DataType.utf8()),
            "role": Array([requests[index].role for index in of_request], type=DataType.utf8()),
        }
        for index, name in enumerate(self._model.contract.feature_names):
            columns[f"feature:{name}"] = Array.from_numpy(features[:, index].copy())
        for index, label in enumerate(self._model.contract.labels):
            columns[f"output:{label}"] = Array.from_numpy(outputs[:, index].copy())
        return Table.from_pydict(columns)
