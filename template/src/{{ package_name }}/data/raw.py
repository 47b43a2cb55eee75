"""Raw rows: a folder of Parquet files, one for each ingest, in which the newest row of a key counts.

A file is never changed, so DVC stores only new ones. Its name says how old its rows are, and whether it
replaces all older files; its metadata say when it was written and from which source.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Collection, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

import duckdb

from ..contract import Contract
from ..contract.tables import Connection, explain_errors, fetch_one, literal, quote, text_list
from ..core.errors import ProjectError
from ..core.files import locked_hashes
from ..core.paths import RAW
from .merge import Table, exact_text, fold, inspect_table, key_text, merge

APPEND, REPLACE = "append", "replace"  # the last part of a file's name
FORMER = Path("data/raw.parquet")  # the only file up to 0.4
ISO = "%Y-%m-%dT%H:%M:%SZ"  # of times in metadata
FILE = "__raw_file"  # the column with the name of a row's file
METADATA = ("time", "source", "query", "until", "compacted")
MANY_FILES = 200  # each costs a little whenever rows are read


def raw_files() -> tuple[Path, ...]:
    """List the files that count.

    Returns:
        The newest file that replaces all older ones, and all newer files, oldest first.
    """
    files = sorted(RAW.glob("*.parquet"))
    starts = [index for index, file in enumerate(files) if file.stem.endswith(REPLACE)]
    return tuple(files[starts[-1] if starts else 0 :])


def open_files(con: Connection, files: tuple[Path, ...], contract: Contract) -> Table:
    """Open files as one table without changing any value.

    Args:
        con: Connection that will read the files.
        files: One file or more.
        contract: Its kinds decide how columns of differing types are combined.

    Returns:
        The rows of all files, with the file of each in the column `FILE`.
    """
    opened = [(str(file), inspect_table(con, f"read_parquet({literal(file)})").types) for file in files]
    groups = (tuple(file for file, _ in group) for _, group in groupby(opened, lambda item: item[1]))
    options = f"union_by_name=true, filename={literal(FILE)}"
    tables = [inspect_table(con, f"read_parquet({text_list(group)}, {options})") for group in groups]
    return inspect_table(con, f"({merge(con, tables, contract)})")


def newest_rows(con: Connection, contract: Contract) -> str:
    """Write SQL for the rows that count: those of the newest file that has their key.

    Args:
        con: Connection that will read the rows.
        contract: The contract, with the key. Rows without a key count as rows of one key.

    Returns:
        A SELECT statement. With several files it gives the rows in no fixed order.

    Raises:
        ProjectError: There are no rows.
    """
    if not (files := raw_files()):
        raise ProjectError(
            f"{RAW} has no rows. Fetch them (make ingest) or pull those of dvc.lock (dvc pull)"
        )
    rows = open_files(con, files, contract)
    if len(files) == 1:
        return f"SELECT * EXCLUDE ({FILE}) FROM {rows.sql}"
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE superseded AS
        SELECT {_any_key(rows, contract)} AS key, max({FILE}) AS newest FROM {rows.sql}
        GROUP BY key HAVING min({FILE}) < max({FILE})
    """)
    return f"""
        SELECT rows.* EXCLUDE ({FILE}) FROM {rows.sql} AS rows
        ANTI JOIN superseded ON {_any_key(rows, contract)} = superseded.key AND {FILE} < superseded.newest
    """


def _any_key(rows: Table, contract: Contract) -> str:
    """SQL for the key as text; empty for a row without a key."""
    return f"coalesce({key_text(rows, contract)}, '')"


def changed_rows(con: Connection, fetched: Path, contract: Contract) -> str:
    """Write SQL for those fetched rows that `data/raw` does not have yet.

    Args:
        con: Connection that will read the rows.
        fetched: Parquet file of the fetched rows.
        contract: The contract, with the key.

    Returns:
        A SELECT statement: all rows of each key that is new, or whose rows have changed.
    """
    rows, files = inspect_table(con, literal(fetched)), raw_files()
    key = _any_key(rows, contract)
    con.execute(f"CREATE OR REPLACE TEMP TABLE fetched_keys AS SELECT DISTINCT {key} AS key FROM {rows.sql}")
    # The keys alone are read first: they are a small part of large files.
    stored = open_files(con, files, contract)
    is_fetched = f"{_any_key(stored, contract)} IN (SELECT key FROM fetched_keys)"
    hits = con.sql(f"SELECT DISTINCT {FILE} FROM {stored.sql} WHERE {is_fetched}").fetchall()
    if not hits:
        return f"FROM {rows.sql}"
    stored = open_files(con, tuple(file for file in files if (str(file),) in hits), contract)
    # What is left out since the last ingest does not count as changed.
    declared = {fold(column.name) for column in contract.columns}
    names = rows.types.keys() | (stored.types.keys() & declared)
    # A key may have several rows in a file, which validation rejects: it is unchanged if all are.
    digest = _digest(stored, rows, names)
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE unchanged AS
        SELECT key FROM (
            SELECT key, arg_max(digest, file) AS digest FROM (
                SELECT {_any_key(stored, contract)} AS key, {FILE} AS file, {digest} AS digest
                FROM {stored.sql} WHERE {is_fetched} GROUP BY 1, 2
            ) GROUP BY key
        ) JOIN (SELECT {key} AS key, {_digest(rows, stored, names)} AS digest FROM {rows.sql} GROUP BY 1)
        USING (key, digest)
    """)
    return f"FROM {rows.sql} WHERE {key} NOT IN (SELECT key FROM unchanged)"


def _digest(table: Table, other: Table, names: Collection[str]) -> str:
    """SQL for a digest of rows, whatever their order: the same for equal values in both tables."""
    values = []
    for name in sorted(names):
        is_alike = table.types.get(name) == other.types.get(name)
        values.append(quote(name) if is_alike else exact_text(table, name) if name in table.types else "NULL")
    return f"count(*) || ' ' || sum(hash({', '.join(values)})::HUGEINT)"


def count_rows(con: Connection, contract: Contract) -> int:
    """Count the rows that count.

    Args:
        con: Any connection.
        contract: The contract, with the key.

    Returns:
        The number of rows; 0 before the first ingest.
    """
    return fetch_one(con, f"SELECT count(*) FROM ({newest_rows(con, contract)})")[0] if raw_files() else 0


def write_rows(con: Connection, query: str, metadata: dict[str, str], target: Path) -> int:
    """Write rows to a Parquet file.

    Args:
        con: Connection that can read the rows.
        query: A SELECT statement.
        metadata: Texts by name, for the file's metadata.
        target: The file; it is replaced.

    Returns:
        The number of rows.

    Raises:
        OSError: The disk is full.
    """
    pairs = ", ".join(f"{name}: {literal(value)}" for name, value in metadata.items())
    try:
        return fetch_one(con, f"COPY ({query}) TO {literal(target)} (KV_METADATA {{{pairs}}})")[0]
    except duckdb.IOException as error:
        if (reason := os.strerror(errno.ENOSPC)) not in str(error):
            raise
        raise OSError(errno.ENOSPC, reason, str(target)) from None


def read_metadata(con: Connection, file: Path) -> dict[str, str]:
    """Read the metadata of a file.

    Args:
        con: Any connection.
        file: A file of `data/raw`.

    Returns:
        Texts by name; empty for files of 0.2.0 and before.
    """
    pairs = con.sql(f"SELECT decode(key), decode(value) FROM parquet_kv_metadata({literal(file)})").fetchall()
    return {name: value for name, value in pairs if name in METADATA}


def add_file(draft: Path, mode: str, time: datetime | None = None) -> Path:
    """Put a file into `data/raw`, where it counts from now on, complete or not at all.

    Args:
        draft: The file; it is moved.
        mode: `APPEND`, or `REPLACE` if it replaces all other files.
        time: Until when its rows come from the source, in UTC; None: now. Files count in the order of time,
            and in that of ingestion for equal times.

    Returns:
        The new path.
    """
    RAW.mkdir(parents=True, exist_ok=True)
    stamp = f"{time or datetime.now(UTC):%Y%m%dT%H%M%S}"
    stamps = [file.stem[: len(stamp)] for file in raw_files()]
    # A clock that was set back makes no row older, and rows of the past are newer than a file that replaces.
    stamp = max([stamp, *(stamps[:1] if time and mode == APPEND else stamps)])
    numbers = [int(file.stem.split("-")[1]) for file in RAW.glob(f"{stamp}-*.parquet")]
    target = RAW / f"{stamp}-{max(numbers, default=-1) + 1:04}-{mode}.parquet"
    draft.replace(target)
    remove_replaced()
    return target


def remove_replaced() -> None:
    """Delete the files that a newer one replaces."""
    for file in {*RAW.glob("*.parquet")} - {*raw_files()}:
        file.unlink()


def interval_ends(con: Connection) -> list[str]:
    """List the ends of the intervals whose rows are stored.

    Args:
        con: Any connection.

    Returns:
        Times in UTC, as text.
    """
    return [end for file in raw_files() if (end := read_metadata(con, file).get("until"))]


@contextmanager
def lock_folder() -> Generator[None]:
    """Let only one process change `data/raw`: a second one would delete the drafts of the first.

    The kernel releases the lock of a process that is killed.

    Yields:
        Nothing.

    Raises:
        ProjectError: Another process changes it.
    """
    RAW.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(RAW.parent, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ProjectError(f"ingest: another ingest is changing {RAW}. Wait until it is done.") from None
        yield
    finally:
        os.close(folder)


def reject_merged_interval(con: Connection, until: datetime) -> None:
    """Stop if rows of an interval would count as newer than rows of later intervals.

    Args:
        con: Any connection.
        until: The end of the interval.

    Raises:
        ProjectError: `compact` has merged the rows of later intervals.
    """
    metadata = read_metadata(con, files[0]) if (files := raw_files()) else {}
    if "compacted" in metadata and f"{until:{ISO}}" < (end := metadata.get("until", "")):
        raise ProjectError(
            f"ingest: the interval ends at {until:%Y-%m-%d %H:%M:%S}, but make compact has merged rows up "
            f"to {end}, so it is not known which of them are newer. Fetch all rows from the start of the "
            "interval on: give SINCE without UNTIL."
        )


def compact(con: Connection, contract: Contract, draft: Path) -> None:
    """Merge all files into one, without the rows that do not count.

    Args:
        con: Connection for the rows.
        contract: The contract, with the key.
        draft: Where to write the file before it is complete.
    """
    files = raw_files()
    if len(files) <= 1:
        return
    metadata = read_metadata(con, files[-1]) | {"compacted": "yes"}
    end = max(interval_ends(con), default="")
    if end:
        metadata["until"] = end
    with explain_errors(f"compact: {RAW}"):
        write_rows(con, newest_rows(con, contract), metadata, draft)
    add_file(draft, REPLACE, datetime.strptime(end, ISO).replace(tzinfo=UTC) if end else None)


def take_former() -> bool:
    """Carry `data/raw.parquet` of 0.4 and before over into `data/raw`.

    Returns:
        Whether there was one.

    Raises:
        ProjectError: It is neither here nor in DVC's cache or remote.
    """
    locked = locked_hashes("ingest", "outs").get(str(FORMER))
    if raw_files() or not (FORMER.exists() or locked):
        return False
    RAW.mkdir(parents=True, exist_ok=True)
    if not FORMER.exists() and locked:
        _fetch(locked, FORMER)
    FORMER.replace(RAW / f"00000000T000000-0000-{REPLACE}.parquet")
    print(f"ingest: {FORMER} of the former release is now the first file in {RAW}")
    return True


def _fetch(md5: str, target: Path) -> None:
    """Copy a file from DVC's cache or remote, by its hash."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo

    with Repo() as repo:
        try:
            if not repo.cache.local.exists(md5):
                repo.cloud.pull([HashInfo("md5", md5)])
            draft = Path(shutil.copyfile(repo.cache.local.oid_to_path(md5), target.with_suffix(".new")))
            draft.replace(target)
        except (DvcException, OSError) as error:
            raise ProjectError(
                f"ingest: {target} of dvc.lock is neither here nor in DVC's cache or remote: {error}. "
                "Run `dvc push` where it is; or fetch all rows again: make ingest RESET=1"
            ) from None
