"""Ingest: fetch rows from the source and add them to `data/raw.parquet`, each key once.

Rows stay as the source has them; `validate` reads them by the contract. The stage runs when its
parameters change or when asked to (`make ingest`), so that a pipeline run is about one known state
of the data.
"""

import os
import tempfile
from collections.abc import Iterator
from glob import glob
from pathlib import Path

from duckdb import DuckDBPyRelation as Relation

from .. import params, problem
from ..contract import Contract
from ..contract.tables import Connection, connect, explained, literal, one, quote, texts, typed
from ..stage import RAW, ProjectError

CHUNK = 100_000


def fetch(con: Connection, ingest: params.Ingest, folder: Path) -> Relation:
    """Open the source as a table; what has to be downloaded goes to `folder`."""
    if ingest.source == "sample":
        sample = getattr(problem, "sample", None)  # gone, once one's own data is in
        if sample is None:
            raise ProjectError("ingest.source is 'sample', which problem.py lacks; CI trains on it")
        return con.from_df(sample())
    if ingest.query:
        address = os.path.expandvars(ingest.source)  # passwords come from the environment
        parts = tuple(query_parts(address, ingest.query, folder))
        return con.sql(f"FROM read_parquet({texts(parts)}, union_by_name=true)")
    files = texts(local_files(ingest.source, folder))
    if ".parquet" in ingest.source or ".pq" in ingest.source:
        return con.sql(f"FROM read_parquet({files}, union_by_name=true)")
    # CSV is read as text: the contract decides on types, and says so where a value does not fit.
    return con.sql(f"FROM read_csv({files}, all_varchar=true, union_by_name=true)")


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


def add(con: Connection, new: Relation, contract: Contract, raw: Path) -> int:
    """Write `raw` and `new` to `raw`, the new row where both have a key; return the new count."""
    if contract.key not in new.columns:
        raise ProjectError(
            f"ingest: the source has no column {contract.key!r}, the contract's key; it has "
            f"{', '.join(new.columns)}. The key keeps the name that it has in the source."
        )
    new.to_view("new")
    con.sql(f"CREATE VIEW old AS {known_rows(con, contract, raw)}")
    key = typed(contract.column(contract.key))
    # Rows without a key cannot be told apart: the last fetch's stay, and `validate` rejects them.
    keys = f"SELECT {key} FROM new WHERE {key} IS NOT NULL"
    fresh = raw.with_suffix(".new.parquet")
    kept = f"SELECT * FROM old WHERE {key} NOT IN ({keys})"
    con.sql(f"COPY ({kept} UNION ALL BY NAME FROM new) TO {literal(fresh)}")
    fresh.replace(raw)
    return one(con, f"SELECT count(*) FROM {literal(raw)}")[0]


def known_rows(con: Connection, contract: Contract, raw: Path) -> str:
    """SQL for the rows ingested before: none, if what is there is another table altogether."""
    if raw.exists():
        if contract.key in con.read_parquet(str(raw)).columns:
            return f"FROM {literal(raw)}"
        print(f"ingest: {raw} has no {contract.key!r}: another problem's table; starting anew")
    return f"SELECT NULL AS {quote(contract.key)} WHERE false"


def main() -> None:
    settings = params.load()
    RAW.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, connect(settings.memory_gb) as con:
        with explained(f"ingest.source: {settings.ingest.source!r} cannot be read"):
            new = fetch(con, settings.ingest, Path(folder))
            total = add(con, new, problem.CONTRACT, RAW)
        print(f"ingest: {len(new):,} rows fetched; {total:,} rows in all")


if __name__ == "__main__":
    main()
