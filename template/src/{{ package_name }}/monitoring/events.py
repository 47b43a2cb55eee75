"""Reading what servers recorded, wherever it lies."""

from datetime import datetime, timedelta
from pathlib import Path

import fsspec

from ..contract.events import FALLBACK, FALLBACK_0_2, LABELS_FOLDER, LABELS_FOLDER_0_2
from ..contract.tables import Connection, explain_errors, fetch_one, literal, text_list
from ..core.errors import ProjectError

_ROLE = f"if(role = {literal(FALLBACK_0_2)}, {literal(FALLBACK)}, role)"


def find_files(address: str, folder: Path, first_day: str = "") -> list[str]:
    """The Parquet or CSV files at an address, from the folder of a day on; those elsewhere are fetched.

    Labels in a subfolder of events are left out.
    """
    try:
        store, root = fsspec.core.url_to_fs(address)
        found = [
            path
            for path in sorted(store.find(root))
            if path.endswith((".parquet", ".csv"))
            and path.split("/")[-2] >= first_day
            and not {LABELS_FOLDER, LABELS_FOLDER_0_2} & {*path.removeprefix(root).split("/")}
        ]
        if "file" in store.protocol or not found:
            return found
        folder.mkdir()
        fetched = [str(folder / f"{index}{Path(path).suffix}") for index, path in enumerate(found)]
        store.get(found, fetched)
    except Exception as error:  # every store raises errors of its own
        raise ProjectError(f"{address} cannot be read: {error!r}") from None
    return fetched


def read_events(
    con: Connection, address: str, since: datetime | None, folder: Path, every: bool = False
) -> int:
    """Make the table `asked` of the events since then, and the view `kept` of all answered ones.

    Gives the number of events in `asked`; without any file there is neither.
    """
    # A file lies in the folder of its first request's day, and may reach into the next.
    first_day = f"{since - timedelta(days=1):%Y-%m-%d}" if since and not every else ""
    files = find_files(address, folder, first_day)
    if not files:
        return 0
    condition = f"time > {literal(since.isoformat())}::TIMESTAMP" if since else "time IS NOT NULL"
    with explain_errors(f"the events in {address} cannot be read"):
        source = f"read_parquet({text_list(tuple(files))}, union_by_name=true)"
        events = f"SELECT * REPLACE ({_ROLE} AS role) FROM {source}"
        con.sql(f"CREATE VIEW kept AS {events} WHERE status = 200")
        con.sql(f"CREATE TABLE asked AS {events} WHERE {condition}")
    return fetch_one(con, "SELECT count(*) FROM asked")[0]
