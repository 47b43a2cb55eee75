"""Batch predictions for a CSV or Parquet file of any size, in bounded memory.

    python -m <package>.serving.batch [--prepare] IN OUT

Each row is written with the prediction that the API would return, or with an `error`: the rules that it
breaks, or that the model's output is not finite.

With `--prepare`, the file has the source's columns, and gets the contract's by `problem.PREPARE`, as the
training rows did. The bundle holds this SQL, so problem.py and the libraries of training are not needed.
"""

import argparse
import os
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyRelation as Relation
from duckdb.func import PythonUDFType

from ..contract import TOP_K, Contract
from ..contract.tables import (
    Connection,
    connect,
    encode_features,
    explain_errors,
    fetch_one,
    literal,
    prepare_rows,
    quote,
    rejection_reasons,
    text_list,
    to_array,
)
from ..core.errors import ProjectError, cli
from ..model.bundle import PREPARE, Model
from ..stats.metrics import predict_labels

_IS_FINITE = "len(list_filter(__outputs, lambda x: NOT isfinite(x))) = 0"
_NOT_FINITE = "the model's output is not a finite number"


def predict_file(model: Model, source: Path, target: Path, prepare: str | None = None) -> tuple[int, int]:
    """Predict each row of a file.

    Args:
        model: The model.
        source: File with the contract's features, .csv or .parquet. Other columns are copied.
        target: File to write, .csv or .parquet.
        prepare: `problem.PREPARE`, if the file has the source's columns instead. Of these, only the key is
            copied, and the rows are written in its order.

    Returns:
        The number of rows that are written, and how many of them have an error.

    Raises:
        ProjectError: A file cannot be read or written, or has missing or conflicting columns.
    """
    contract, written = model.contract, _file(target)
    written_columns = _written_columns(contract)
    columns = ", ".join(f"{sql} AS {quote(name)}" for name, sql in written_columns.items())
    copied, order = "* EXCLUDE (__reasons, __scores)", ""
    if prepare is not None:
        copied = ", ".join(map(quote, contract.keys))
        order = f"ORDER BY {_key_order(contract)}"  # SQL with a window function leaves rows in any order
    with connect() as con, explain_errors(f"batch: cannot predict {source} into {target}"):
        rows = con.sql(f"FROM {_file(source)}")
        if prepare is None:
            _check_columns(contract, written_columns, rows.columns, source)
        else:
            rows = _prepare(con, rows, prepare, contract)
        rows.to_view("input")
        con.create_function("run", partial(_run, model), ["FLOAT[]"], "FLOAT[]", type=PythonUDFType.ARROW)
        decide = partial(_predict_labels, contract)
        con.create_function("predict_label", decide, ["FLOAT[]"], "BIGINT", type=PythonUDFType.ARROW)
        con.sql(f"""
            CREATE VIEW checked AS SELECT *, {rejection_reasons(contract.features)} AS __reasons,
                {encode_features(contract)} AS __features FROM input;
            CREATE VIEW scored AS SELECT *,
                CASE WHEN len(__reasons) = 0 THEN run(__features) END AS __outputs FROM checked;
            CREATE VIEW predicted AS SELECT * EXCLUDE (__outputs, __features),
                CASE WHEN {_IS_FINITE} THEN __outputs END AS __scores FROM scored;
            COPY (SELECT {copied}, {columns} FROM predicted {order}) TO {literal(target)}
        """)
        con.remove_function("run")
        con.remove_function("predict_label")
        return fetch_one(con, f"SELECT count(*), count({quote([*written_columns][-1])}) FROM {written}")


def _prepare(con: Connection, rows: Relation, prepare: str, contract: Contract) -> Relation:
    """Key and features of rows with the source's columns."""
    prepared = prepare_rows(con, rows, prepare)
    needed = dict.fromkeys([*contract.keys, *(column.name for column in contract.features)])
    if missing := [name for name in needed if name not in prepared.columns]:
        raise ProjectError(f"batch: problem.PREPARE makes no column {', '.join(missing)} of this file")
    return prepared.select(", ".join(map(quote, needed)))


def _key_order(contract: Contract) -> str:
    """Columns to sort by; in a CSV file, a number is a text."""
    numbers = {key for key in contract.keys if contract.column(key).kind in ("integer", "number")}
    return ", ".join(
        f"TRY_CAST({quote(key)} AS DOUBLE)" if key in numbers else quote(key) for key in contract.keys
    )


def _read_prepare(bundle: Path) -> str:
    """The SQL that prepared the rows of a bundle's training."""
    try:
        return (bundle / PREPARE).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ProjectError(
            f"batch: {bundle} has no {PREPARE}, so it is of a release before 0.4. Build it again with `make "
            "pipeline`, or predict a file that has the contract's columns, without --prepare."
        ) from None


def _predict_labels(contract: Contract, outputs: pa.ChunkedArray) -> pa.Array:
    """Positions of the predicted labels, for lists of outputs."""
    scores = to_array(outputs, len(contract.labels))
    return pa.array(predict_labels(scores, contract.decision_threshold))


def _run(model: Model, features: pa.ChunkedArray) -> pa.Array:
    """Run the model on lists of features, in which a missing value is null; return lists of outputs."""
    outputs = model.run(to_array(features, len(model.contract.feature_names)))
    starts = np.arange(len(outputs) + 1, dtype=np.int32) * outputs.shape[1]
    return pa.ListArray.from_arrays(starts, outputs.ravel())


def _written_columns(contract: Contract) -> dict[str, str]:
    """Name and SQL of each column that is added, the error last; with a prefix if the contract has a name."""
    error = f"""CASE WHEN len(__reasons) > 0 THEN array_to_string(__reasons, '; ')
        WHEN __scores IS NULL THEN {literal(_NOT_FINITE)} END"""
    columns = _prediction_columns(contract) | {"error": error}
    taken = {column.name.casefold() for column in contract.columns}
    while taken & {name.casefold() for name in columns}:
        columns = {f"predicted_{name}": sql for name, sql in columns.items()}
    return columns


def _prediction_columns(contract: Contract) -> dict[str, str]:
    """Name of each prediction column, and its SQL from `__scores`."""
    labels = contract.labels
    if contract.task == "regression":
        return {"value": "__scores[1]"}
    if contract.task == "ranking":
        best = f"list_grade_up(__scores, 'DESC')[:{TOP_K}]"
        if contract.seen_slices:  # of a user who has seen nearly all, what is left
            best = f"list_filter({best}, lambda i: __scores[i] > 0)"
        return {"items": f"list_transform({best}, lambda i: {text_list(labels)}[i])"}
    label = f"{text_list(labels)}[predict_label(__scores) + 1]"
    each = {f"probability_{label}": f"__scores[{index + 1}]" for index, label in enumerate(labels)}
    return {"label": label, **each}


def _file(path: Path) -> str:
    """SQL that reads a file."""
    readers = {".csv": "read_csv({}, all_varchar=true)", ".parquet": "read_parquet({})"}
    if path.suffix not in readers or not path.parent.is_dir():
        raise ProjectError(f"batch: {path} must end in .csv or .parquet, in a folder that exists")
    return readers[path.suffix].format(literal(path))


def _check_columns(contract: Contract, written: dict[str, str], columns: list[str], source: Path) -> None:
    """Stop if the file lacks a feature, or has a column that predictions would replace."""
    if missing := [column.name for column in contract.features if column.name not in columns]:
        raise ProjectError(f"batch: {source} lacks columns of the contract: {', '.join(missing)}")
    present = {name.casefold() for name in columns}  # SQL ignores case
    if taken := [name for name in written if name.casefold() in present]:
        raise ProjectError(f"batch: {source} already has the columns {', '.join(taken)}; rename them")


def main() -> None:
    """Predict a file."""
    parser = argparse.ArgumentParser(description="Predict each row of a CSV or Parquet file.")
    parser.add_argument("source", type=Path, help="file with the contract's features, .csv or .parquet")
    parser.add_argument("target", type=Path, help="file to write, .csv or .parquet")
    parser.add_argument("--bundle", type=Path, default=os.environ.get("BUNDLE", "models/bundle"))
    help_text = "the file has the source's columns: run problem.PREPARE on it first"
    parser.add_argument("--prepare", action="store_true", help=help_text)
    arguments = parser.parse_args()
    bundle = Path(arguments.bundle)
    prepare = _read_prepare(bundle) if arguments.prepare else None
    n_rows, n_errors = predict_file(Model(bundle), arguments.source, arguments.target, prepare)
    print(f"batch: {n_rows - n_errors:,} rows predicted, {n_errors:,} rejected (see the column `error`)")


if __name__ == "__main__":
    cli(main)
