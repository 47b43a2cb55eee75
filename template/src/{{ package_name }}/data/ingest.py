"""Ingest: fetch rows from the source and add them to `data/raw.parquet`, each key once.

Rows stay as the source has them; `validate` reads them by the contract. The stage runs when its
parameters change or when asked to (`make ingest`), so that a pipeline run is about one known state
of the data.
"""

import os
import tempfile
from collections.abc import Iterator
from glob import glob
from itertools import groupby
from pathlib import Path

from .. import declarations, params
from ..contract import Contract
from ..contract.tables import Connection, connect, explain_errors, fetch_one, literal, text_list
from ..core.errors import ProjectError, cli
from ..core.paths import RAW
from ..declarations import Declarations
from .merge import Part, count_rounded, describe, fold, key_text, merge
from .source import identity, reason_to_replace

CHUNK = 100_000


def fetch(con: Connection, ingest: params.Ingest, problem: Declarations, folder: Path) -> list[Part]:
    """Open the source as tables; what has to be downloaded goes to `folder`."""
    if ingest.source == "sample":
        if problem.fetch is None:
            raise ProjectError("ingest.source is 'sample', which problem.py lacks; CI trains on it")
        con.register("sample", problem.fetch())
        return [describe(con, "sample")]
    if ingest.query:
        database = os.path.expandvars(ingest.source)  # passwords come from the environment
        return parquet_tables(con, tuple(query_parts(database, ingest.query, folder)))
    files = local_files(ingest.source, folder)
    if ".parquet" in ingest.source or ".pq" in ingest.source:
        return parquet_tables(con, files)
    # CSV is read as text: the contract decides on types, and says so where a value does not fit.
    return [describe(con, f"read_csv({text_list(files)}, all_varchar=true, union_by_name=true)")]


def parquet_tables(con: Connection, files: tuple[str, ...]) -> list[Part]:
    """One table for neighbouring files with the same types: those of others need care."""
    typed = groupby(files, lambda file: describe(con, f"read_parquet({literal(file)})").columns)
    return [
        describe(con, f"read_parquet({text_list(tuple(group))}, union_by_name=true)") for _, group in typed
    ]


def query_parts(address: str, query: str, folder: Path) -> Iterator[str]:
    """Run `query` at the database `address`, chunk by chunk into parquet files in `folder`."""
    import pandas as pd
    import sqlalchemy
    import sqlalchemy.exc
    from tqdm import tqdm

    try:
        engine = sqlalchemy.create_engine(address)
        with engine.connect().execution_options(stream_results=True) as connection:
            chunks = pd.read_sql(sqlalchemy.text(query), connection, chunksize=CHUNK, dtype_backend="pyarrow")
            for index, chunk in enumerate(tqdm(chunks, desc="ingest", unit=" chunks")):
                part = folder / f"{index:06}.parquet"
                chunk.to_parquet(part, index=False)
                yield str(part)
    except (sqlalchemy.exc.SQLAlchemyError, pd.errors.DatabaseError, ImportError) as error:
        said = str(error).splitlines()[0]
        raise ProjectError(f"ingest.source: the database does not answer ingest.query: {said}") from None


def local_files(source: str, folder: Path) -> tuple[str, ...]:
    """Find the files of a path, glob or address; what is elsewhere is downloaded to `folder`."""
    import fsspec

    cache = {"cache_storage": str(folder), "same_names": True}
    try:
        if "://" in source:
            files = fsspec.open_local(f"simplecache::{source}", simplecache=cache)
        else:
            files = glob(source)  # noqa: PTH207 (a path may be absolute)
    except IndexError:
        files = ()  # how fsspec says that a glob has no match
    except Exception as error:  # every storage client raises errors of its own
        raise ProjectError(f"ingest.source: {source!r} cannot be read: {error!r}") from None
    if not files:
        raise ProjectError(
            f"ingest.source: nothing at {source!r}. Give 'sample', a path, a glob, an address with "
            "its scheme (https://…, s3://…), or a SQLAlchemy address together with ingest.query."
        )
    return (files,) if isinstance(files, str) else tuple(sorted(files))


def write_rows(con: Connection, query: str, raw: Path, source: dict[str, str]) -> int:
    """Write the rows of a query to `raw`, with the source's identity as metadata; return their count."""
    fresh = raw.with_suffix(".new.parquet")
    metadata = ", ".join(f"{name}: {literal(value)}" for name, value in source.items())
    con.sql(f"COPY ({query}) TO {literal(fresh)} (KV_METADATA {{{metadata}}})")
    fresh.replace(raw)
    return fetch_one(con, f"SELECT count(*) FROM {literal(raw)}")[0]


def check_keys(con: Connection, fetched: list[Part], key: str) -> None:
    """Refuse a source without the key, or with one of which nobody can know what it was."""
    names = list(dict.fromkeys(name for part in fetched for name, _ in part.columns.values()))
    if key not in names:
        raise ProjectError(
            f"ingest: the source has no column {key!r}, the contract's key; it has "
            f"{', '.join(names)}. The key keeps the name that it has in the source."
        )
    refuse_rounded_keys(con, fetched, key, "the source", "Fetch it as an integer or as text.")


def refuse_rounded_keys(con: Connection, parts: list[Part], key: str, what: str, way_out: str) -> None:
    """Stop at keys of which nobody can know what they were."""
    rounded = sum(count_rounded(con, part, key) for part in parts)
    if rounded:
        raise ProjectError(
            f"ingest: {what} has the key {key!r} as a float, and {rounded:,} of its values are so large that "
            f"one float stands for several keys. {way_out}"
        )


def known_rows(con: Connection, fetched: list[Part], contract: Contract, raw: Path) -> list[Part]:
    """The rows ingested before whose keys are not fetched: none, if it is another table altogether."""
    if not raw.exists():
        return []
    old = describe(con, literal(raw))
    if fold(contract.key) not in old.columns:
        print(f"ingest: {raw} has no {contract.key!r}: another problem's table; starting anew")
        return []
    refuse_rounded_keys(con, [old], contract.key, str(raw), "Start anew: make ingest RESET=1.")
    # Rows without a key cannot be told apart: the last fetch's stay, and `validate` rejects them.
    tables = (f"SELECT {key_text(part, contract)} AS key FROM {part.table}" for part in fetched)
    keys = f"SELECT key FROM ({' UNION ALL '.join(tables)}) WHERE key IS NOT NULL"
    return [Part(f"(FROM {old.table} WHERE {key_text(old, contract)} NOT IN ({keys}))", old.columns)]


def ingest(con: Connection, settings: params.Ingest, problem: Declarations, folder: Path) -> tuple[int, int]:
    """Fetch rows and add them to `data/raw.parquet`; return how many came, and how many there are."""
    contract, replaces = problem.contract, reason_to_replace(con, settings, RAW)
    fetched = fetch(con, settings, problem, folder)
    check_keys(con, fetched, contract.key)
    known = [] if replaces else known_rows(con, fetched, contract, RAW)
    merged = merge(con, [*known, *fetched], contract, exact="" if known else contract.key)
    total = write_rows(con, merged, RAW, identity(settings))
    if replaces:
        print(f"ingest: {replaces}")
    return sum(fetch_one(con, f"SELECT count(*) FROM {part.table}")[0] for part in fetched), total


def main() -> None:
    settings, problem = params.load(), declarations.load()
    RAW.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, connect(settings.memory_gb) as con:
        with explain_errors(f"ingest.source: {settings.ingest.source!r} cannot be read"):
            rows, total = ingest(con, settings.ingest, problem, Path(folder))
        print(f"ingest: {rows:,} rows fetched; {total:,} rows in all")


if __name__ == "__main__":
    cli(main)
