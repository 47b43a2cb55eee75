"""Ingest: fetch rows from the source and add those that are new or changed to the folder `data/raw`.

Rows stay as the source has them; `validate` reads them by the contract. The stage runs when its parameters
change or on `make ingest`, so that every other stage works on one fixed state of the data.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from glob import glob
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import msgspec

from .. import declarations, params
from ..contract import Contract
from ..contract.tables import Connection, connect, explain_errors, fetch_one, literal, prepare_rows, text_list
from ..core.errors import ProjectError, cli
from ..core.files import dvc_hash, locked_hashes, readable_json
from ..core.paths import RAW
from ..core.secrets import mask_secrets, mask_variables
from . import raw
from .csv import explain_csv, open_csv, read_formats
from .interval import Interval, choose_interval
from .merge import Table, count_rounded, fold, inspect_table, merge
from .selection import hide_personal, select_columns

if TYPE_CHECKING:
    import pandas as pd

Sample = Callable[[], "pd.DataFrame"]
Read = Callable[[Path], "pd.DataFrame"]

CHUNK_ROWS = 100_000
# Beside the folder, all of which DVC stores.
DRAFT, CHANGED = RAW.with_suffix(".new.parquet"), RAW.with_suffix(".changed.parquet")
KEYLESS = "the source has no key, so its rows replace all others"
SAMPLE = params.Ingest()


def source_identity(ingest: params.Ingest) -> dict[str, str]:
    """Describe a source without its secrets, as Parquet metadata of its rows.

    Args:
        ingest: The parameters that name the source.

    Returns:
        `source` and `query`.
    """
    return {"source": mask_secrets(ingest.source), "query": ingest.query or ""}


def _read_identity(con: Connection, ingest: params.Ingest) -> dict[str, str]:
    """Read which source the newest rows in `data/raw` come from; empty if that is unknown."""
    metadata = raw.read_metadata(con, raw.raw_files()[-1])
    if "source" in metadata:
        return {"source": mask_secrets(metadata["source"]), "query": metadata["query"]}
    # Files of 0.2.0 and older have no metadata, but dvc.lock has the hash of the last run's parameters.
    candidates = (source for source in (ingest, SAMPLE) if _is_locked(source))
    return next(map(source_identity, candidates), {})


def _is_locked(ingest: params.Ingest) -> bool:
    """Whether the last run that DVC knows had this source, perhaps before 0.5, or after the update to it."""
    former = params.Ingest(ingest.source, ingest.query)
    updated = params.Ingest(ingest.source, ingest.query, keep_undeclared=True, personal="keep")
    hashes = {dvc_hash(readable_json(settings)) for settings in (ingest, former, updated)}
    return not hashes.isdisjoint(locked_hashes("ingest", "deps").values())


def reason_to_replace(con: Connection, ingest: params.Ingest) -> str:
    """Decide whether fetched rows replace the rows in `data/raw` or are added to them.

    Args:
        con: Any connection.
        ingest: The parameters that name the source.

    Returns:
        Why the rows are replaced; empty if the fetched rows are added.

    Raises:
        ProjectError: The source has changed, and the user must decide.
    """
    mode = os.environ.get("INGEST")  # set by `make ingest`
    if not raw.raw_files() or mode == "keep":
        return ""
    if mode == "reset":
        return "RESET=1: earlier rows are replaced"
    former, current = _read_identity(con, ingest), source_identity(ingest)
    if former == current:
        return ""
    if former == source_identity(SAMPLE):
        return "the rows of the sample are replaced by the rows of the source"
    was, new = (former["source"], current["source"]) if former else ("another source", "this one")
    if former.get("source") == current["source"]:
        was, new = "another query", "this one"
    raise ProjectError(
        f"ingest: the rows in {RAW} come from {was}; params.yaml now names {new}. No row was changed. "
        "If this is another table, replace the rows: `make ingest RESET=1`. If it is the same table at a "
        "new address, add its rows: `make ingest KEEP=1`."
    )


def expand(ingest: params.Ingest, interval: Interval | None) -> params.Ingest:
    """Put the environment and the interval into source and query.

    Args:
        ingest: The parameters that name the source.
        interval: None if neither has a placeholder.

    Returns:
        The parameters without variables. They may hold secrets.
    """
    fill = interval.fill if interval else str
    source, query = (fill(os.path.expandvars(text)) for text in (ingest.source, ingest.query or ""))
    return msgspec.structs.replace(ingest, source=source, query=query or None)


@contextmanager
def hide_secrets(ingest: params.Ingest) -> Generator[None]:
    """Keep the secrets of source and query out of the message of an error.

    Args:
        ingest: The parameters that name the source, as the user wrote them.

    Yields:
        Nothing.

    Raises:
        ProjectError: The error, without the secrets.
    """
    try:
        with explain_errors(f"ingest.source: {ingest.source!r} cannot be read"), explain_csv():
            yield
    except ProjectError as error:
        raise ProjectError(mask_variables(str(error), f"{ingest.source} {ingest.query}")) from error.__cause__


def fetch_tables(
    con: Connection,
    ingest: params.Ingest,
    folder: Path,
    sample: Sample | None = None,
    read: Read | None = None,
) -> list[Table]:
    """Open the source as one table or more.

    Args:
        con: Connection that will read the tables.
        ingest: The parameters that name the source.
        folder: Folder for downloaded files; it must exist as long as the tables are read.
        sample: Function that returns the rows of source `sample`; None if the project has none.
        read: Function that returns the rows of a file; None: the files are CSV or Parquet.

    Returns:
        The tables. Files with the same column types share a table.

    Raises:
        ProjectError: The source does not exist or cannot be read.
    """
    if ingest.source == "sample":
        if sample is None:
            raise ProjectError("ingest.source is 'sample', but problem.py has no function `sample`")
        frame = sample()
        _reject_doubled(frame.columns, "problem.sample")
        con.register("sample", frame)
        return [inspect_table(con, "sample")]
    if ingest.query:
        return _open_parquet(con, tuple(_run_query(ingest.source, ingest.query, folder)))
    files = _find_files(ingest.source, folder)
    if read is not None:
        return _open_parquet(con, tuple(_read_files(files, read, folder)))
    if ".parquet" in ingest.source or ".pq" in ingest.source:
        return _open_parquet(con, files)
    return [open_csv(con, files, ingest.csv)]


def _open_parquet(con: Connection, files: tuple[str, ...]) -> list[Table]:
    """Open neighbouring files of the same types as one table; DuckDB would promote differing types."""
    groups = groupby(files, lambda file: inspect_table(con, f"read_parquet({literal(file)})").types)
    tables = (f"read_parquet({text_list(tuple(group))}, union_by_name=true)" for _, group in groups)
    return [inspect_table(con, table) for table in tables]


def _read_files(files: tuple[str, ...], read: Read, folder: Path) -> Iterator[str]:
    """Read files by `problem.read`, and write the rows of each to a Parquet file in `folder`."""
    from tqdm import tqdm

    for index, file in enumerate(tqdm(files, desc="ingest", unit=" files", disable=len(files) == 1)):
        path = folder / f"read-{index:06}.parquet"
        problem = f"ingest: problem.read fails on {file!r}"
        try:
            frame = read(Path(file))
        except Exception as error:  # the function is the user's
            raise ProjectError(f"{problem}: {declarations.locate_error(error)}") from error
        try:
            _reject_doubled(frame.columns, "problem.read")
            frame.to_parquet(path, index=False)
        except (ProjectError, OSError):  # such as a full disk
            raise
        except Exception as error:  # so are the values
            raise ProjectError(
                f"{problem}: {error}. It must return a DataFrame, in which a value is a number, a text, a "
                "time or a flat list of these, such as array.ravel()."
            ) from None
        yield str(path)


def _run_query(address: str, query: str, folder: Path) -> Iterator[str]:
    """Run a query at a database and write its rows, chunk by chunk, to Parquet files in `folder`."""
    import pandas as pd
    from sqlalchemy import create_engine, exc, text
    from tqdm import tqdm

    try:
        engine = create_engine(address)
        with engine.connect().execution_options(stream_results=True) as connection:
            chunks = pd.read_sql(text(query), connection, chunksize=CHUNK_ROWS, dtype_backend="pyarrow")
            for index, chunk in enumerate(tqdm(chunks, desc="ingest", unit=" chunks")):
                _reject_doubled(chunk.columns, "ingest.query")
                path = folder / f"{index:06}.parquet"
                chunk.to_parquet(path, index=False)
                yield str(path)
    except (exc.SQLAlchemyError, pd.errors.DatabaseError, ImportError) as error:
        cause = str(error).splitlines()[0]
        raise ProjectError(f"ingest.query failed at the database of ingest.source: {cause}") from None


def _find_files(source: str, folder: Path) -> tuple[str, ...]:
    """Find the files of a path, glob or address; remote files are downloaded to `folder`."""
    import fsspec

    cache = {"cache_storage": str(folder), "same_names": True}
    try:
        if "://" in source:
            files = fsspec.open_local(f"simplecache::{source}", simplecache=cache)
        else:
            files = glob(source)  # noqa: PTH207 (a path may be absolute)
    except IndexError:
        files = ()  # fsspec's answer to a glob without a match
    except Exception as error:  # every storage client has its own errors
        raise ProjectError(f"ingest.source: {source!r} cannot be read: {error!r}") from None
    if not files:
        raise ProjectError(
            f"ingest.source: no file at {source!r}. Use 'sample', a path, a glob, an address "
            "with its scheme (https://…, s3://…), or a SQLAlchemy address together with ingest.query."
        )
    return (files,) if isinstance(files, str) else tuple(sorted(files))


def _reject_doubled(names: Iterable[str], place: str) -> None:
    """Stop at columns that DuckDB could not tell apart."""
    counts = Counter(fold(str(name)) for name in names)
    if doubled := [name for name, count in counts.items() if count > 1]:
        raise ProjectError(
            f"ingest: {place} gives the column {doubled[0]!r} {counts[doubled[0]]} times (in any case). "
            "Name each once, as in SELECT a.id, b.id AS b_id."
        )


def _reject_nested(fetched: list[Table], contract: Contract) -> None:
    """Stop at columns with parts of their own."""
    for column in contract.columns:
        types = (table.types.get(fold(column.name), "") for table in fetched)
        if nested := next((each for each in types if each.startswith(("STRUCT", "MAP", "UNION"))), ""):
            raise ProjectError(
                f"ingest: the column {column.name!r} of the source has parts of its own ({nested}). Let "
                f"PREPARE select one by another name: SELECT {column.name}.part AS part, and declare that."
            )


def _has_key(con: Connection, fetched: list[Table], contract: Contract, prepare: str) -> bool:
    """Whether the source has the key, so that known rows can be replaced; else `prepare` must make it."""
    names = dict.fromkeys(name for table in fetched for name in table.names)
    if not (missing := [key for key in contract.keys if key not in names]):
        return True
    rows = con.sql(merge(con, fetched, contract))
    with suppress(duckdb.Error):
        if not set(contract.keys) - set(prepare_rows(con, rows, prepare).columns):
            return False
    raise ProjectError(
        f"ingest: the source has no column {', '.join(map(repr, missing))}, which is the contract's key; its "
        f"columns are {', '.join(names)}. Name the key as the source does, or let problem.PREPARE make it: "
        "each ingest then replaces all rows."
    )


def _reject_rounded_keys(
    con: Connection, tables: list[Table], keys: tuple[str, ...], place: str, action: str
) -> None:
    """Stop at keys whose original value is lost."""
    for key in keys:
        rounded = [count_rounded(con, table, key) for table in tables]
        if count := sum(each for each, _ in rounded):
            example = next(value for _, value in rounded if value is not None)
            raise ProjectError(
                f"ingest: {place} has the key {key!r} as a float, and {count:,} of its values are so large "
                f"that one float stands for several keys, such as {example:.0f}. {action}"
            )


def _reason_not_to_add(con: Connection, contract: Contract) -> str:
    """Why rows cannot be added to those of `data/raw`; empty if they can."""
    if not (files := raw.raw_files()):
        return ""
    earlier = raw.open_files(con, files, contract)
    if missing := [key for key in contract.keys if fold(key) not in earlier.types]:
        return f"{RAW} has no column {missing[0]!r}: it belongs to another problem and is replaced"
    action = "Replace the rows: make ingest RESET=1."
    _reject_rounded_keys(con, [earlier], contract.keys, str(RAW), action)
    return ""


class Result(msgspec.Struct, frozen=True):
    """What an ingest did.

    Attributes:
        fetched: The number of fetched rows.
        stored: How many of them are new or changed.
        reason: Why they replace all earlier rows; empty if they do not.
    """

    fetched: int
    stored: int
    reason: str


def ingest(
    con: Connection,
    settings: params.Ingest,
    contract: Contract,
    folder: Path,
    sample: Sample | None = None,
    prepare: str = "SELECT * FROM raw",
    read: Read | None = None,
) -> Result:
    """Fetch rows and add those that are new or changed to `data/raw`, as one file.

    Args:
        con: Connection for all tables.
        settings: The parameters that name the source.
        contract: Its key decides which rows are the same.
        folder: Folder for downloaded files.
        sample: Function that returns the rows of source `sample`; None if the project has none.
        prepare: `problem.PREPARE`. If it makes the key, known rows cannot be found in the source: the fetched
            rows replace all others.
        read: `problem.read`, for files that are no table; None if the project has none.

    Returns:
        The numbers of rows.

    Raises:
        ProjectError: The source is another one, cannot be read, or has no usable key.
    """
    reason = reason_to_replace(con, settings)
    interval = choose_interval(settings, () if reason else raw.interval_ends(con))
    if interval and not reason:
        raw.reject_merged_interval(con, interval.until)
    fetched = fetch_tables(con, expand(settings, interval), folder, sample, read)
    fetched = [read_formats(table, contract, settings.csv) for table in fetched]
    _reject_nested(fetched, contract)
    has_key = _has_key(con, fetched, contract, prepare)
    is_snapshot = settings.mode == raw.REPLACE or not has_key
    fetched = select_columns(con, fetched, contract, prepare, settings.keep_undeclared)
    fetched = hide_personal(con, fetched, contract, prepare, settings.personal)
    _reject_rounded_keys(con, fetched, contract.keys, "the source", "Read the key as an integer or as text.")
    if not reason and not is_snapshot:
        reason = _reason_not_to_add(con, contract)
    mode = raw.REPLACE if reason or is_snapshot else raw.APPEND
    metadata = source_identity(settings) | {"time": f"{datetime.now(UTC):{raw.ISO}}"}
    if interval:
        metadata["until"] = f"{interval.until:{raw.ISO}}"
    time = interval.until if interval else None
    DRAFT.parent.mkdir(exist_ok=True)
    try:
        query = merge(con, fetched, contract, integer_key=True)
        n_fetched = n_stored = raw.write_rows(con, query, metadata, DRAFT)
        if n_fetched == 0 and (mode == raw.REPLACE or not raw.raw_files()):
            raise ProjectError("ingest: the source has no rows. Nothing was changed.")
        if reason or not raw.raw_files():
            raw.add_file(DRAFT, mode, time)
        else:
            n_stored = _add_changed_rows(con, contract, mode, metadata, time)
    finally:
        DRAFT.unlink(missing_ok=True)
        CHANGED.unlink(missing_ok=True)
    return Result(n_fetched, n_stored, reason or KEYLESS * (not has_key))


def _add_changed_rows(
    con: Connection, contract: Contract, mode: str, metadata: dict[str, str], time: datetime | None
) -> int:
    """Add those rows of the draft to `data/raw` that are new or changed; return their number."""
    changed = raw.changed_rows(con, DRAFT, contract)
    count = "SELECT count(*) FROM ({})"
    n_fetched = fetch_one(con, count.format(f"FROM {literal(DRAFT)}"))[0]
    n_changed = fetch_one(con, count.format(changed))[0]
    if mode == raw.REPLACE:
        if n_changed or raw.count_rows(con, contract) != n_fetched:
            raw.add_file(DRAFT, mode)
    elif n_changed == n_fetched > 0:
        raw.add_file(DRAFT, mode, time)
    elif n_changed:
        raw.write_rows(con, changed, metadata, CHANGED)
        raw.add_file(CHANGED, mode, time)
    return n_changed


def _check_pulled(ingest: params.Ingest) -> None:
    """Stop if earlier rows are not here: the next files would be stored without them."""
    if raw.raw_files() or str(RAW) not in locked_hashes("ingest", "outs"):
        return
    if os.environ.get("INGEST") != "reset" and ingest.source != "sample" and not _is_locked(SAMPLE):
        raise ProjectError(
            f"ingest: dvc.lock names the rows of earlier ingests, which are not in {RAW}. Get them: dvc pull "
            "ingest. If they are lost, fetch all rows again: make ingest RESET=1"
        )


def _run(settings: params.Params, problem: declarations.Declarations) -> Result | None:
    """Do what INGEST says; None if no rows were fetched."""
    action = os.environ.get("INGEST")
    _check_pulled(settings.ingest)
    raw.remove_replaced()  # of an ingest that was killed
    with tempfile.TemporaryDirectory() as folder, connect(settings.memory_gb) as con:
        is_former = action != "reset" and raw.take_former()
        if is_former and action is None and _is_locked(settings.ingest):
            return None  # the pipeline needs rows, not new ones
        if action == "compact":
            raw.compact(con, problem.contract, DRAFT)
            return None
        with hide_secrets(settings.ingest):
            source = (problem.contract, Path(folder), problem.fetch, problem.prepare, problem.read)
            return ingest(con, settings.ingest, *source)


def main() -> None:
    """Run the stage."""
    settings, problem = params.load(), declarations.load()
    with raw.lock_folder():
        result = _run(settings, problem)
    if result is None:
        return
    if result.reason:
        print(f"ingest: {result.reason}")
    print(f"ingest: {result.fetched:,} rows fetched, {result.stored:,} of them new or changed")
    if len(files := raw.raw_files()) > raw.MANY_FILES:
        print(f"ingest: {RAW} has {len(files)} files. Merge them: make compact")


if __name__ == "__main__":
    cli(main)
