"""Read prediction events and labels from a folder or an object store.

Rows of one customer, patient or machine may be alike, so they are not as many independent observations. If
the contract has a group and requests name it, groups are the units of monitoring, as of the evaluation.
Else clients are, if there are at least `MIN_UNITS`; fewer are taken for fixed senders, such as the instances
of one service, whose rows are independent.
"""

from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import fsspec

from ..contract.events import FALLBACK, FALLBACK_0_2, LABELS_FOLDER, LABELS_FOLDER_0_2, OPTIONAL_COLUMNS
from ..contract.tables import Connection, explain_errors, fetch_one, literal, quote, text_list
from ..core.errors import ProjectError

MIN_UNITS = 30  # with fewer, a bootstrap of units is too certain (Cameron, Gelbach and Miller, 2008)
_ROLE = f"if(role = {literal(FALLBACK_0_2)}, {literal(FALLBACK)}, role)"


def find_files(address: str, folder: Path, first_day: str = "") -> list[str]:
    """Find the Parquet and CSV files at an address; those of an object store are downloaded.

    Labels in a subfolder of events are left out.

    Args:
        address: Path, or URL of an object store.
        folder: Folder for downloads; it must not exist.
        first_day: Leaves out folders of earlier days (YYYY-MM-DD).

    Returns:
        Paths of local files, sorted by address.

    Raises:
        ProjectError: The address cannot be read.
    """
    try:
        store, root = fsspec.core.url_to_fs(address)
        paths = [
            path
            for path in sorted(store.find(root))
            if path.endswith((".parquet", ".csv"))
            and path.split("/")[-2] >= first_day
            and not {LABELS_FOLDER, LABELS_FOLDER_0_2} & {*path.removeprefix(root).split("/")}
        ]
        if "file" in store.protocol or not paths:
            return paths
        folder.mkdir()
        downloads = [str(folder / f"{index}{Path(path).suffix}") for index, path in enumerate(paths)]
        store.get(paths, downloads)
    except Exception as error:  # every store raises errors of its own
        raise ProjectError(f"{address} cannot be read: {error!r}") from None
    return downloads


def split_readable(con: Connection, files: list[str]) -> tuple[list[str], list[str]]:
    """Tell files that can be read from broken ones: one that was cut off must not hide all others.

    Args:
        con: A database.
        files: CSV or Parquet files.

    Returns:
        Readable files, and broken ones, each in the given order.
    """
    if _are_readable(con, files):  # one query, as there may be a hundred thousand
        return files, []
    readable = {file: _are_readable(con, [file]) for file in files}
    return [file for file in files if readable[file]], [file for file in files if not readable[file]]


def _are_readable(con: Connection, files: list[str]) -> bool:
    """Whether files have the end that Parquet needs, which is what a cut-off file lacks; CSV needs none."""
    parquet = tuple(file for file in files if file.endswith(".parquet"))
    try:
        if parquet:
            con.execute(f"SELECT num_rows FROM parquet_file_metadata({text_list(parquet)})").fetchall()
    except duckdb.Error:
        return False
    return True


def read_events(
    con: Connection, address: str, since: datetime | None, folder: Path, all_predictions: bool = False
) -> tuple[int, list[str]]:
    """Create the table `events` of the requests' rows since a time, and the view `predictions`.

    Args:
        con: Database without these two.
        address: Path, or URL of an object store.
        since: UTC without an offset; None for all events.
        folder: Folder for downloads; it must not exist.
        all_predictions: Whether `predictions` (the successful rows) reaches back before `since`.

    Returns:
        The number of events, and the files that cannot be read; without any other file, neither table nor
        view is created.

    Raises:
        ProjectError: The address cannot be read.
    """
    # A file is in the folder of its first request's day, and may reach into the next.
    first_day = f"{since - timedelta(days=1):%Y-%m-%d}" if since and not all_predictions else ""
    files, broken = split_readable(con, find_files(address, folder, first_day))
    if not files:
        return 0, broken
    condition = f"time > {literal(since.isoformat())}::TIMESTAMP" if since else "time IS NOT NULL"
    with explain_errors(f"the events in {address} cannot be read"):
        source = f"read_parquet({text_list(tuple(files))}, union_by_name=true)"
        columns = con.sql(f"FROM {source} LIMIT 0").columns
        missing = "".join(
            f", NULL::{sql_type} AS {quote(name)}"
            for name, sql_type in OPTIONAL_COLUMNS.items()
            if name not in columns
        )
        rows = f"SELECT * REPLACE ({_ROLE} AS role){missing} FROM {source}"
        con.sql(f"CREATE VIEW predictions AS {rows} WHERE status = 200")
        con.sql(f"CREATE TABLE events AS {rows} WHERE {condition}")
    return fetch_one(con, "SELECT count(*) FROM events")[0], broken


def find_unit(con: Connection, table: str) -> str | None:
    """Find the units of a table: rows of one unit may be alike.

    Args:
        con: Database with the events.
        table: Events as SQL: the name of a table, or a query in parentheses.

    Returns:
        SQL of a row's unit; None if rows are taken to be independent.
    """
    counts = 'count(DISTINCT "group"), count(DISTINCT client)'
    n_groups, n_clients = fetch_one(con, f"SELECT {counts} FROM {table}")
    if n_groups:
        return 'coalesce("group", client, hash(id))'
    return "coalesce(client, hash(id))" if n_clients >= MIN_UNITS else None
