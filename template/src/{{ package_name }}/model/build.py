"""Bundle: the model as one self-describing folder, proven equal to the estimator it came from."""

import platform
import shutil
from importlib.metadata import version
from statistics import median
from time import perf_counter
from typing import Any

import joblib
import msgspec
import pandas as pd

from .. import declarations, params
from ..contract.dataset import Dataset, load_dataset
from ..contract.events import feature_columns, output_columns
from ..contract.tables import connect, literal, numbers, quote, read_row
from ..core.errors import ProjectError, cli
from ..core.files import write_json
from ..core.paths import BUNDLE, BUNDLE_REPORT, ESTIMATOR, TEST, TRAIN, TRAINING_REPORT
from ..core.shell import call
from ..stats.distributions import Distribution, distribution, model_columns
from .bundle import Metadata, Model, Session, content_version, hash_files
from .onnx import convert
from .parity import check_parity

DRAFT = BUNDLE.with_name("bundle.new")  # becomes the bundle when it is whole and proven
LIBRARIES = ("scikit-learn", "skl2onnx", "onnx", "onnxruntime", "numpy", "pandas", "duckdb")


def git_commit() -> str:
    """The commit that is checked out, or `uncommitted` before there is one."""
    try:
        return call("git", "rev-parse", "HEAD")
    except ProjectError:
        return "uncommitted"


def main() -> None:
    settings, contract = params.load(), declarations.load().contract
    estimator, test = joblib.load(ESTIMATOR), load_dataset(TEST, contract)
    for folder in (BUNDLE, DRAFT):
        shutil.rmtree(folder, ignore_errors=True)
    DRAFT.mkdir(parents=True)
    model = convert(estimator, contract).SerializeToString(deterministic=True)
    (DRAFT / "model.onnx").write_bytes(model)
    run = Session(DRAFT / "model.onnx").run
    parity = check_parity(estimator, run, test, settings.bundle.parity_tolerance)
    write_json(DRAFT / "contract.json", contract)
    write_json(DRAFT / "reference.json", reference(test, settings.memory_gb))
    write_json(DRAFT / "example.json", read_row(TEST, contract))
    metadata = Metadata(
        version=content_version(DRAFT),
        commit=git_commit(),
        data=hash_files(TRAIN, TEST),
        parameters={"split": settings.split, "train": settings.train},  # a source may hold a password
        metrics=msgspec.json.decode(TRAINING_REPORT.read_bytes())["mean"],
        libraries={"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
    )
    write_json(DRAFT / "metadata.json", metadata)
    measured = parity | {
        "size_mb": sum(path.stat().st_size for path in DRAFT.iterdir()) / 1e6,
        "latency_ms": latency(Model(DRAFT), test),
    }
    DRAFT.rename(BUNDLE)
    report: dict[str, Any] = msgspec.to_builtins(metadata)
    write_json(BUNDLE_REPORT, report | measured)


def reference(test: Dataset, memory_gb: float) -> dict[str, Distribution]:
    """What monitoring compares with: inputs as in training, outputs as for the test split."""
    contract = test.contract
    named = zip(numbers(contract), feature_columns(contract), strict=True)
    selected = ", ".join(f"{sql} AS {quote(name)}" for sql, name in named)
    answers = Session(DRAFT / "model.onnx").run(test.features.to_numpy())
    labels = output_columns(contract)
    with connect(memory_gb) as con:
        con.sql(f"CREATE TABLE inputs AS SELECT {selected} FROM {literal(TRAIN)}")
        con.register("outputs", pd.DataFrame(answers, columns=labels))
        return {
            name: distribution(con, "outputs" if name in labels else "inputs", name, categories)
            for name, categories in model_columns(contract).items()
        }


def latency(model: Model, test: Dataset, repeats: int = 200) -> float:
    """Milliseconds to answer the first test row, in the median."""
    row = test.features.to_numpy()[:1]
    taken = []
    for _ in range(repeats):
        started = perf_counter()
        model.predictions(model.run(row))
        taken.append(1000 * (perf_counter() - started))
    return median(taken)


if __name__ == "__main__":
    cli(main)
