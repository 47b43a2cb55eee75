"""Writes recorded rows as Parquet files, without delaying any request.

Rows go to a folder, or to any address that fsspec knows, in one file every few seconds. If the store fails,
rows are buffered up to a limit, then the oldest are dropped. In a full folder, the oldest files make room
for new ones. `/metrics` counts buffered rows, dropped rows, deleted bytes and failures. A killed process
loses the rows of its last `INTERVAL`.
"""

import os
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from io import BytesIO
from math import inf
from pathlib import Path
from typing import Generic, TypeVar
from uuid import uuid4

import fsspec
import msgspec
from arro3.core import Table
from arro3.io import write_parquet

INTERVAL = 5.0  # seconds between two files
FLUSH_ROWS = 25_000  # rows that are written at once, before the interval ends
MAX_BUFFERED_ROWS = 50_000
MAX_BUFFERED_BYTES = 64 * 2**20
MAX_STORE_GB = 20.0  # of a folder: the default of the environment variable MAX_STORE_GB
ROOM = 0.99  # of the largest size, at which deleting stops, so that not each file needs a look at the folder
MEASURE_SECONDS = 60.0  # between two measurements of a folder, because other servers write there too
CLOSE_SECONDS = 5.0  # for the last file when the server stops
# A dictionary would cost time and space in columns whose values hardly repeat.
DICTIONARY: dict[Sequence[str], bool] = dict.fromkeys(("id", "time", "seconds"), False)


class Record(msgspec.Struct, gc=False):
    """Rows to be written.

    Attributes:
        time: When the first row was received, in seconds since 1970, UTC.
        n_rows: Number of rows.
        n_bytes: Size in memory.
    """

    time: float
    n_rows: int = 1
    n_bytes: int = 0


R = TypeVar("R", bound=Record)


class Writer(ABC, Generic[R]):
    """A thread that writes what is added.

    Attributes:
        buffered_rows: Rows that are not written yet.
        dropped_rows: Rows that will never be written.
        deleted_bytes: Size of the oldest files that were deleted because the folder was full.
        failures: Attempts to write that failed.
    """

    def __init__(self, address: str, max_gb: float = MAX_STORE_GB) -> None:
        """Prepare a writer; `start` starts its thread.

        Args:
            address: Folder or address of the store.
            max_gb: Largest size of the store in GB, if it is a folder.
        """
        self._address, self._max_gb = address.rstrip("/"), max_gb
        self.buffered_rows = self.dropped_rows = self.deleted_bytes = self.failures = self._buffered_bytes = 0
        self._folder_bytes, self._measured = 0, -inf
        self._process = uuid4().hex[:12]
        self._buffer: deque[R] = deque()
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._stopping = self._is_failing = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    @abstractmethod
    def table(self, records: list[R]) -> Table:
        """Convert records to the rows of one file.

        Args:
            records: The records, at least one, oldest first.

        Returns:
            The rows.
        """

    def start(self) -> None:
        """Start writing."""
        self._thread.start()

    def close(self) -> None:
        """Write what is buffered, unless the store takes longer than `CLOSE_SECONDS`."""
        self._stopping = True
        self._wake.set()
        self._thread.join(CLOSE_SECONDS)

    def add(self, record: R) -> None:
        """Buffer a record until it is written; drop the oldest ones if there are too many.

        Args:
            record: The record.
        """
        with self._lock:
            was_due = self._is_due()
            self._buffer.append(record)
            self.buffered_rows += record.n_rows
            self._buffered_bytes += record.n_bytes
            while self._is_too_much() and self._buffer and self.buffered_rows > record.n_rows:
                self._discard([self._buffer.popleft()])
            if self._is_due() and not was_due:  # once: if the store fails, the thread waits as usual
                self._wake.set()

    def write(self, records: list[R]) -> None:
        """Write one file: all of it or nothing.

        Args:
            records: The records, at least one, oldest first.
        """
        store, root = fsspec.core.url_to_fs(self._address)
        is_local = "file" in store.protocol
        if is_local:
            self._make_room(root)
        folder = f"{root}/{time.strftime('%Y-%m-%d', time.gmtime(records[0].time))}"
        store.makedirs(folder, exist_ok=True)
        file, name = BytesIO(), f"{folder}/{self._process}-{time.time_ns()}.parquet"
        write_parquet(self.table(records), file, compression="zstd(1)", column_dictionary_enabled=DICTIONARY)
        # An object store shows an object only when it is complete; a folder needs a draft, whose name is the
        # same each time: failures leave one at most.
        draft = f"{folder}/{self._process}.part" if is_local else name
        store.pipe_file(draft, file.getvalue())
        if is_local:
            store.mv(draft, name)
            self._folder_bytes += file.tell()

    def _make_room(self, root: str) -> None:
        """Delete the oldest files of a folder that has reached its largest size."""
        if time.monotonic() - self._measured > MEASURE_SECONDS:
            self._folder_bytes, self._measured = folder_bytes(root), time.monotonic()
        if self._folder_bytes < self._max_gb * 1e9:
            return
        if not self.deleted_bytes:
            self._warn(f"holds {self._max_gb:g} GB (MAX_STORE_GB): the oldest files are deleted")
        for path in _oldest_files(root):
            with suppress(FileNotFoundError):  # another server has deleted it
                size = path.stat().st_size
                path.unlink()
                self.deleted_bytes += size
                self._folder_bytes -= size
            with suppress(OSError):  # not empty
                path.parent.rmdir()
            if self._folder_bytes < ROOM * self._max_gb * 1e9:
                break

    def _is_due(self) -> bool:
        """Whether the buffer is to be written before the interval ends."""
        return self.buffered_rows >= FLUSH_ROWS or self._buffered_bytes >= MAX_BUFFERED_BYTES // 2

    def _is_too_much(self) -> bool:
        """Whether the buffer exceeds a limit; records that are just being written count."""
        return self.buffered_rows > MAX_BUFFERED_ROWS or self._buffered_bytes > MAX_BUFFERED_BYTES

    def _discard(self, records: list[R], is_written: bool = False) -> None:
        """Forget records that are written or dropped."""
        for record in records:
            self.buffered_rows -= record.n_rows
            self._buffered_bytes -= record.n_bytes
            self.dropped_rows += 0 if is_written else record.n_rows

    def _run(self) -> None:
        """Write the buffer every `INTERVAL`, earlier if it is due, and a last time when the server stops."""
        stopping = False
        while not stopping:
            self._wake.wait(INTERVAL)
            self._wake.clear()
            stopping = self._stopping
            with self._lock:
                records, self._buffer = list(self._buffer), deque()
            if records:
                self._try_to_write(records)

    def _try_to_write(self, records: list[R]) -> None:
        """Write records; put them back if the store fails."""
        try:
            self.write(records)
        except Exception as error:  # each store has exceptions of its own
            self.failures += 1
            if not self._is_failing:
                self._warn(f"cannot be written, rows are buffered: {error!r}")
            self._is_failing = True
            with self._lock:
                self._buffer.extendleft(reversed(records))
            return
        self._is_failing = False
        with self._lock:
            self._discard(records, is_written=True)

    def _warn(self, message: str) -> None:
        """Print a warning."""
        print(f"warning: {self._address} {message}"[:300], flush=True)


def folder_bytes(root: str) -> int:
    """Measure the files in a folder that has one folder per day.

    Args:
        root: The folder, which need not exist.

    Returns:
        Their size in bytes.
    """
    total = 0
    for day in Path(root).glob("????-??-??"):
        with suppress(FileNotFoundError):  # deleted meanwhile
            total += _day_bytes(day, day.stat().st_mtime_ns)
    return total


def _oldest_files(root: str) -> Iterator[Path]:
    """Yield the files of a folder by age."""
    for day in sorted(Path(root).glob("????-??-??")):
        yield from sorted(day.glob("*.parquet"), key=lambda path: path.name.rpartition("-")[2])


@lru_cache(maxsize=4096)
def _day_bytes(day: Path, changed: int) -> int:
    """Size of a day's files; only days that have changed are measured again."""
    return sum(file.stat().st_size for file in os.scandir(day) if file.name.endswith(".parquet"))
