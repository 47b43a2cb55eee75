"""Rows that a server keeps, written as Parquet beside the path of a request.

They go to a folder or an address that fsspec knows, in a file every few seconds. A store that fails costs no
request anything: rows wait, up to a limit beyond which the oldest are dropped, and the metrics say so. What a
killed process had not yet written is lost: `INTERVAL`.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from io import BytesIO
from typing import Any
from uuid import uuid4

import fsspec
from arro3.core import Table
from arro3.io import write_parquet

AT_ONCE = 100  # requests that are added up together: one by one, each would take several times as long
INTERVAL = 5.0  # seconds between files,
FULL = 25_000  # or so many rows
MOST_WAITING = 50_000  # rows
# No dictionary for columns whose values hardly repeat: it would cost time and space.
DISTINCT: dict[Sequence[str], bool] = dict.fromkeys(("id", "time", "seconds"), False)
LAST_CHANCE = 5.0  # seconds that the store has when the server is told to go


class Writer(ABC):
    """A thread that writes what was recorded, and counts what it cannot.

    What waits has a `time`, in seconds since 1970, UTC, when its first row came, and a number of `rows`.
    """

    def __init__(self, address: str) -> None:
        """Write to the store at `address`."""
        self.address = address.rstrip("/")
        self._rows = self.dropped_rows = self.failures = 0
        self.process = uuid4().hex[:12]
        self._waiting: deque[Any] = deque()
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._write_until_stopped, daemon=True)

    @abstractmethod
    def table(self, kept: list[Any]) -> Table:
        """What was recorded as the rows of a file."""

    def write(self, kept: list[Any]) -> None:
        """Write one file: whole, or not at all."""
        store, root = fsspec.core.url_to_fs(self.address)
        day = time.strftime("%Y-%m-%d", time.gmtime(kept[0].time))
        store.makedirs(f"{root}/{day}", exist_ok=True)
        name = f"{root}/{day}/{self.process}-{time.time_ns()}.parquet"
        file = BytesIO()
        write_parquet(self.table(kept), file, compression="zstd(1)", column_dictionary_enabled=DISTINCT)
        if "file" not in store.protocol:  # other stores show an object once it is whole
            store.pipe_file(name, file.getvalue())
            return
        store.pipe_file(f"{name}.part", file.getvalue())
        store.mv(f"{name}.part", name)

    def _count(self, rows: int) -> None:
        """So many more wait: wake the thread when they are many, drop the oldest when they are too many."""
        before, self._rows = self._rows, self._rows + rows
        while self._rows > MOST_WAITING and self._waiting:
            dropped = self._waiting.popleft().rows
            self._rows -= dropped
            self.dropped_rows += dropped
        if before < FULL <= self._rows:
            self._wake.set()

    @property
    def waiting_rows(self) -> int:
        """Rows that are not written yet."""
        return self._rows

    def _take(self) -> deque[Any]:
        """Hand over what waits."""
        with self._lock:
            taken, self._waiting = self._waiting, deque()
        return taken

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def close(self) -> None:
        """Write what waits, if the store is quick about it."""
        self._stopping = True
        self._wake.set()
        self._thread.join(LAST_CHANCE)

    def _write_until_stopped(self) -> None:
        stopping = warned = False
        while not stopping:
            self._wake.wait(INTERVAL)
            self._wake.clear()
            stopping = self._stopping
            taken = self._take()
            try:
                if taken:
                    self.write(list(taken))
            except Exception as error:  # every store raises errors of its own
                self.failures += 1
                if not warned:
                    print(f"warning: {self.address} takes no rows, they wait: {error!r}"[:300], flush=True)
                warned = True
                with self._lock:
                    self._waiting.extendleft(reversed(taken))
            else:
                warned = False
                with self._lock:
                    self._rows -= sum(kept.rows for kept in taken)
