"""Batch: answers for a whole CSV or Parquet file, of any size, in bounded memory.

    python -m <package>.serving.batch IN OUT

Each row comes out with what the API would answer, or with `error`: the rules that it breaks.
"""

import argparse
import os
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from duckdb.func import PythonUDFType

from ..stage import ProjectError, run_stage
from ..tables import connect, encoded, literal, quote, reasons, texts
from .model import TOP, Model


def scores(model: Model, features: pa.ChunkedArray) -> pa.Array:
    """Model outputs, a list for each row; a missing feature is NaN to the model."""
    values = features.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    outputs = model.run(values.reshape(len(features), -1).astype(np.float32, copy=False))
    starts = np.arange(len(outputs) + 1, dtype=np.int32) * outputs.shape[1]
    return pa.ListArray.from_arrays(starts, outputs.ravel())


def answer_columns(model: Model) -> str:
    """SQL for the answer's columns, from `scores`."""
    labels = model.contract.labels
    if model.contract.task == "regression":
        return "scores[1] AS value"
    if model.contract.task == "ranking":
        best = f"list_grade_up(scores, 'DESC')[:{TOP}]"
        return f"list_transform({best}, lambda i: {texts(labels)}[i]) AS items"
    each = ", ".join(f"scores[{i + 1}] AS {quote(f'probability_{label}')}" for i, label in enumerate(labels))
    return f"{texts(labels)}[list_position(scores, list_max(scores))] AS label, {each}"


def read(path: Path) -> str:
    """SQL for reading a file by its ending."""
    kinds = {
        ".csv": f"read_csv({literal(path)}, all_varchar=true)",
        ".parquet": f"read_parquet({literal(path)})",
    }
    if path.suffix not in kinds or not path.is_file():
        raise ProjectError(f"batch: {path} is not a .csv or .parquet file")
    return kinds[path.suffix]


def batch(model: Model, source: Path, target: Path) -> tuple[int, int]:
    """Answer each row of `source` into `target`; return the counts of rows and of refused ones."""
    columns = model.contract.features
    features = ", ".join(f"({sql})::FLOAT" for column in columns for sql in encoded(column))
    with connect() as con:
        con.sql(f"CREATE VIEW input AS FROM {read(source)}")
        absent = {column.name for column in columns} - set(con.view("input").columns)
        if absent:
            raise ProjectError(f"batch: {source} lacks {', '.join(sorted(absent))} of the contract")
        run = partial(scores, model)
        con.create_function("score", run, ["FLOAT[]"], "FLOAT[]", type=PythonUDFType.ARROW)
        con.sql(f"""
            CREATE VIEW checked AS
                SELECT *, {reasons(columns)} AS error, [{features}] AS features FROM input;
            CREATE VIEW scored AS
                SELECT *, CASE WHEN error IS NULL THEN score(features) END AS scores FROM checked;
            COPY (SELECT * EXCLUDE (error, features, scores), {answer_columns(model)}, error
                FROM scored) TO {literal(target)}
        """)
        con.remove_function("score")
        return con.sql(f"SELECT count(*), count(error) FROM {read(target)}").fetchall()[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer each row of a CSV or Parquet file.")
    parser.add_argument("source", type=Path, help="file with the contract's columns, and others")
    parser.add_argument("target", type=Path, help="file to write, .csv or .parquet")
    parser.add_argument("--bundle", type=Path, default=os.environ.get("BUNDLE", "models/bundle"))
    given = parser.parse_args()
    rows, refused = batch(Model(Path(given.bundle)), given.source, given.target)
    print(f"batch: {rows - refused:,} rows answered, {refused:,} refused (their `error` says why)")


if __name__ == "__main__":
    run_stage(main)
