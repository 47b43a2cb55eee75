"""Batch: answers for a whole CSV or Parquet file, of any size, in bounded memory.

    python -m <package>.serving.batch IN OUT

Each row comes out with what the API would answer, or with `error`: the rules that it breaks, or that the
model has no finite answer.
"""

import argparse
import os
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from duckdb.func import PythonUDFType

from ..contract import TOP_K, Contract
from ..contract.tables import connect, explained, literal, numbers, one, quote, reasons, texts
from ..core.errors import ProjectError, cli
from ..model.bundle import Model

FINITE = "len(list_filter(__outputs, lambda x: NOT isfinite(x))) = 0"
NO_ANSWER = "the model gives a number that is not finite"


def scores(model: Model, features: pa.ChunkedArray) -> pa.Array:
    """Model outputs, a list for each row; a missing feature is NaN to the model."""
    values = features.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    outputs = model.run(values.reshape(len(features), -1).astype(np.float32, copy=False))
    starts = np.arange(len(outputs) + 1, dtype=np.int32) * outputs.shape[1]
    return pa.ListArray.from_arrays(starts, outputs.ravel())


def answer_columns(contract: Contract) -> dict[str, str]:
    """The answer's columns: name, and SQL from `__scores`."""
    labels = contract.labels
    if contract.task == "regression":
        return {"value": "__scores[1]"}
    if contract.task == "ranking":
        best = f"list_grade_up(__scores, 'DESC')[:{TOP_K}]"
        return {"items": f"list_transform({best}, lambda i: {texts(labels)}[i])"}
    label = f"{texts(labels)}[list_position(__scores, list_max(__scores))]"
    each = {f"probability_{label}": f"__scores[{index + 1}]" for index, label in enumerate(labels)}
    return {"label": label, **each}


def file(path: Path) -> str:
    """SQL for reading a file by its ending."""
    kinds = {
        ".csv": f"read_csv({literal(path)}, all_varchar=true)",
        ".parquet": f"read_parquet({literal(path)})",
    }
    if path.suffix not in kinds or not path.parent.is_dir():
        raise ProjectError(f"batch: {path} is not a .csv or .parquet file in a folder that is there")
    return kinds[path.suffix]


def check_columns(contract: Contract, present: list[str], source: Path) -> None:
    """Refuse a file that lacks a feature, or has a column named as the answer's."""
    absent = [column.name for column in contract.features if column.name not in present]
    if absent:
        raise ProjectError(f"batch: {source} lacks {', '.join(absent)} of the contract")
    if taken := [name for name in (*answer_columns(contract), "error") if name in present]:
        raise ProjectError(
            f"batch: {source} has {', '.join(taken)} already, as the answer would; rename them"
        )


def batch(model: Model, source: Path, target: Path) -> tuple[int, int]:
    """Answer each row of `source` into `target`; return the counts of rows and of refused ones."""
    contract, written = model.contract, file(target)
    answers = ", ".join(f"{sql} AS {quote(name)}" for name, sql in answer_columns(contract).items())
    with connect() as con, explained(f"batch: {source} cannot be answered into {target}"):
        con.sql(f"CREATE VIEW input AS FROM {file(source)}")
        check_columns(contract, con.view("input").columns, source)
        run = partial(scores, model)
        con.create_function("score", run, ["FLOAT[]"], "FLOAT[]", type=PythonUDFType.ARROW)
        con.sql(f"""
            CREATE VIEW checked AS SELECT *, {reasons(contract.features)} AS __reasons,
                [{", ".join(numbers(contract))}] AS __features FROM input;
            CREATE VIEW scored AS SELECT *,
                CASE WHEN len(__reasons) = 0 THEN score(__features) END AS __outputs FROM checked;
            CREATE VIEW answered AS SELECT * EXCLUDE (__outputs, __features),
                CASE WHEN {FINITE} THEN __outputs END AS __scores FROM scored;
            COPY (SELECT * EXCLUDE (__reasons, __scores), {answers},
                CASE WHEN len(__reasons) > 0 THEN array_to_string(__reasons, '; ')
                    WHEN __scores IS NULL THEN {literal(NO_ANSWER)} END AS error FROM answered)
                TO {literal(target)}
        """)
        con.remove_function("score")
        return one(con, f"SELECT count(*), count(error) FROM {written}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer each row of a CSV or Parquet file.")
    parser.add_argument("source", type=Path, help="file with the contract's columns, and others")
    parser.add_argument("target", type=Path, help="file to write, .csv or .parquet")
    parser.add_argument("--bundle", type=Path, default=os.environ.get("BUNDLE", "models/bundle"))
    given = parser.parse_args()
    rows, refused = batch(Model(Path(given.bundle)), given.source, given.target)
    print(f"batch: {rows - refused:,} rows answered, {refused:,} refused (their `error` says why)")


if __name__ == "__main__":
    cli(main)
