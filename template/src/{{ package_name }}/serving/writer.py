"""Rows that a server keeps, written as Parquet beside the path of a request.

They go to a folder or an address that fsspec knows, in a file every few seconds. A store that fails costs no
request anything: rows wait, up to a limit beyond which the oldest are dropped, and the metrics say so. A
folder that is full takes no more rows, and keeps what it has. What a killed process had not yet written is
lost: `INTERVAL`.
"""

import math
import os
import re
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
from arro3.core import Table
from arro3.io import write_parquet

AT_ONCE = 100  # requests that are added up together: one by one, each would take several times as long
INTERVAL = 5.0  # seconds between files,
FULL = 25_000  # or so many rows
MOST_WAITING = 50_000  # rows,
MOST_BYTES = 64 * 2**20  # or so much memory, before the oldest are dropped
MAX_STORE_GB = 20.0  # in a folder, unless the variable of that name says otherwise
MEASURED = 60.0  # seconds between looks at what a folder holds: other servers write there too
# No dictionary for columns whose values hardly repeat: it would cost time and space.
DISTINCT: dict[Sequence[str], bool] = dict.fromkeys(("id", "time", "seconds"), False)
DAY = re.compile(r"\d{4}-\d\d-\d\d").fullmatch
LAST_CHANCE = 5.0  # seconds that the store has when the server is told to go
Days = dict[Path, tuple[int, int]]  # when a day's folder changed, in nanoseconds, and its bytes


class FullError(Exception):
    """A folder holds all that it may."""


class Writer(ABC):
    """A thread that writes what was recorded, and counts what it cannot.

    What waits has a `time`, in seconds since 1970, UTC, when its first row came, a number of `rows`, and a
    `size` in bytes.
    """

    def __init__(self, address: str, max_gb: float = MAX_STORE_GB) -> None:
        """Write to the store at `address`; if that is a folder, until it holds so much."""
        self.address, self._max_gb = address.rstrip("/"), max_gb
        self._rows = self._size = self.dropped_rows = self.failures = 0
        self._held, self._measured = 0, -math.inf
        self._days: Days = {}
        self.process = uuid4().hex[:12]
        self._waiting: deque[Any] = deque()
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._write_until_stopped, daemon=True)

    @abstractmethod
    def table(self, kept: list[Any]) -> Table:
        """What was recorded as the rows of a file."""

    def write(self, kept: list[Any]) -> None:
        """Write one file: whole, or not at all.

        Raises:
            FullError: the store is a folder that holds what it may.
        """
        store, root = fsspec.core.url_to_fs(self.address)
        local = "file" in store.protocol
        if local and self._is_full(root):
            raise FullError
        day = time.strftime("%Y-%m-%d", time.gmtime(kept[0].time))
        store.makedirs(f"{root}/{day}", exist_ok=True)
        name = f"{root}/{day}/{self.process}-{time.time_ns()}.parquet"
        file = BytesIO()
        write_parquet(self.table(kept), file, compression="zstd(1)", column_dictionary_enabled=DISTINCT)
        if not local:  # other stores show an object once it is whole
            store.pipe_file(name, file.getvalue())
            return
        draft = f"{root}/{day}/{self.process}.part"  # the same each time: what failed leaves no more than one
        store.pipe_file(draft, file.getvalue())
        store.mv(draft, name)
        self._held += file.tell()

    def _is_full(self, root: str) -> bool:
        """Whether a folder holds what it may."""
        if time.monotonic() - self._measured > MEASURED:
            self._held, self._measured = folder_size(root, self._days), time.monotonic()
        return self._held >= self._max_gb * 1e9

    def _count(self, new: Any) -> None:
        """One more waits: wake the thread when rows are many, drop the oldest when they are too many."""
        rows, size = self._rows, self._size
        self._rows, self._size = rows + new.rows, size + new.size
        while self._is_too_much() and self._waiting and self._rows > new.rows:  # what is alone may be large
            oldest = self._waiting.popleft()
            self._forget(oldest)
            self.dropped_rows += oldest.rows
        if rows < FULL <= self._rows or size < MOST_BYTES // 2 <= self._size:
            self._wake.set()

    def _is_too_much(self) -> bool:
        """Whether more waits than may."""
        return self._rows > MOST_WAITING or self._size > MOST_BYTES

    def _forget(self, gone: Any) -> None:
        """One waits no more."""
        self._rows -= gone.rows
        self._size -= gone.size

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
            except FullError:
                warned = warned or self._warn(f"holds {self._max_gb:g} GB (MAX_STORE_GB), rows are dropped")
                self._let_go(taken, dropped=True)
            except Exception as error:  # every store raises errors of its own
                self.failures += 1
                warned = warned or self._warn(f"takes no rows, they wait: {error!r}")
                with self._lock:
                    self._waiting.extendleft(reversed(taken))
            else:
                warned = warned and not taken
                self._let_go(taken)

    def _warn(self, why: str) -> bool:
        print(f"warning: {self.address} {why}"[:300], flush=True)
        return True

    def _let_go(self, taken: deque[Any], dropped: bool = False) -> None:
        """What was taken waits no more."""
        with self._lock:
            for gone in taken:
                self._forget(gone)
                self.dropped_rows += gone.rows if dropped else 0


def folder_size(root: str, known: Days) -> int:
    """Bytes of the files in a folder that has a folder for each day.

    Args:
        root: The folder.
        known: What days held when they were looked at; of these, only those that changed are looked at again.
    """
    days = [day for day in Path(root).glob("*-*-*") if DAY(day.name)]
    for day in days:
        with suppress(FileNotFoundError):  # taken away, or a draft that has become a file
            changed = day.stat().st_mtime_ns
            if known.get(day, (0, 0))[0] != changed:
                known[day] = changed, sum(map(file_size, os.scandir(day)))
    return sum(known[day][1] for day in days if day in known)


def file_size(file: os.DirEntry[str]) -> int:
    """Bytes of a file, which may be gone."""
    with suppress(FileNotFoundError):
        return file.stat().st_size
    return 0
