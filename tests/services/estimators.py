"""Fit, convert and check one estimator after the other, in a project's environment: see test_estimators.py.

Prints a JSON object for each case: the largest difference between ONNX and estimator, the seconds that fit,
conversion and check took, and the message if the estimator is refused.
"""

import contextlib
import io
import json
import sys
import time
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np  # ty: ignore[import-not-found]
import pandas as pd  # ty: ignore[import-not-found]
from sklearn.pipeline import make_pipeline  # ty: ignore[import-not-found]
from sklearn.utils import all_estimators  # ty: ignore[import-not-found]

PACKAGE = sys.argv[1]
contracts = import_module(f"{PACKAGE}.contract")
dataset = import_module(f"{PACKAGE}.contract.dataset")
errors = import_module(f"{PACKAGE}.core.errors")
bundle = import_module(f"{PACKAGE}.model.bundle")
estimator = import_module(f"{PACKAGE}.model.estimator")
onnx = import_module(f"{PACKAGE}.model.onnx")
parity = import_module(f"{PACKAGE}.model.parity")
Object = Any  # objects of the project, whose types this module cannot name

NUMBERS = ("a", "price (€)", "home.dest")
COLOURS = ("red", "green", "blue", "black", "white", "none that training has")


def names() -> dict[str, Any]:
    """List what a case may name: every estimator of scikit-learn and of the boosting libraries."""
    namespace = {"np": np, "make_pipeline": make_pipeline, "NUMBERS": list(NUMBERS), **dict(all_estimators())}
    for library in ("lightgbm", "xgboost", "catboost"):
        namespace |= vars(import_module(library))
    return namespace


def make_contract(task: str) -> Object:
    """Make the contract of a task: "regression", or a number of labels; "?" if values may be missing."""
    kind, nullable = task.rstrip("?"), task.endswith("?")
    column = contracts.Column
    target = column("y", "number")
    if kind != "regression":
        target = column("y", "category", categories=tuple(f"label {label}" for label in range(int(kind))))
    numbers = (column(name, "number", -50, 100, nullable=nullable) for name in NUMBERS)
    colour = column("colour", "category", categories=COLOURS, nullable=nullable)
    task_name = "regression" if kind == "regression" else "classification"
    return contracts.Contract(task_name, "id", "y", (column("id", "text"), *numbers, colour, target))


def make_rows(contract: Object, path: Path, count: int, seed: int) -> Object:
    """Draw rows: numbers with one decimal, five of six colours, a tenth missing where that is allowed."""
    random = np.random.default_rng(seed)
    columns: dict[str, Any] = {}
    for name in NUMBERS:
        columns[name] = np.round(random.normal(20, 15, count).clip(-50, 100), 1)
    colours = random.integers(0, 5, count)
    score = columns["a"] / 15 + np.sin(columns["price (€)"] / 9) + (colours == 2) * 2
    score += random.normal(0, 0.5, count)
    columns["colour"] = np.array(COLOURS, object)[colours]
    if any(column.nullable for column in contract.features):
        for name in columns:
            columns[name] = pd.Series(columns[name]).where(random.random(count) > 0.1)
    columns["y"] = np.exp(score / 3) + 1
    if contract.task == "classification":
        edges = np.quantile(score, np.linspace(0, 1, len(contract.labels) + 1)[1:-1])
        columns["y"] = np.array(contract.labels)[np.digitize(score, edges)]
    columns["id"] = [f"r{row}" for row in range(count)]
    pd.DataFrame(columns).to_parquet(path)
    return dataset.load_dataset(path, contract)


def run(code: str, task: str, folder: Path, namespace: dict[str, Any]) -> float:
    """Return the largest difference between ONNX and estimator."""
    contract, model = make_contract(task), eval(code, namespace)  # noqa: S307
    estimator.check_estimator(model, contract)
    train, test = (make_rows(contract, folder / f"{seed}.parquet", 1500 // seed, seed) for seed in (1, 3))
    model.fit(train.features, train.target)
    (folder / "model.onnx").write_bytes(onnx.convert_estimator(model, contract).SerializeToString())
    return parity.check_parity(model, bundle.Session(folder / "model.onnx").run, test, 1e-4)["parity"]


def main() -> None:
    """Run the cases on stdin, a JSON list of pairs: code and task."""
    warnings.simplefilter("ignore")
    namespace, folder = names(), Path(sys.argv[2])
    for code, task in json.load(sys.stdin):
        result: dict[str, Any] = {"parity": None, "message": ""}
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                result["parity"] = run(code, task, folder, namespace)
            except errors.ProjectError as error:
                result["message"] = str(error)
        print(json.dumps(result | {"seconds": time.perf_counter() - start}), flush=True)


main()
