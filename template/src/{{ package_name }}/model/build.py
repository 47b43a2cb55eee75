"""Build: write the bundle, a self-describing folder, and check that it predicts as the estimator does."""

import platform
import shutil
from importlib.metadata import version
from statistics import median
from timeit import repeat

import joblib
import msgspec
import pandas as pd

from .. import declarations, params
from ..contract.dataset import Dataset, load_dataset
from ..contract.events import feature_columns, output_columns
from ..contract.tables import connect, encode_monitored, literal, quote, read_column, read_row
from ..core.errors import ProjectError, cli
from ..core.files import read_json, write_json
from ..core.git import changes, exists
from ..core.paths import BUNDLE, BUNDLE_REPORT, ESTIMATOR, SOURCES, TEST, TRAIN, TRAINING_REPORT
from ..core.shell import call
from ..stats.distributions import Distribution, compute_distributions, estimate_design_effects, model_columns
from .bundle import PREPARE, Metadata, Model, Session, content_hash, content_version, hash_files
from .onnx import convert_estimator
from .parity import Run, check_parity

DRAFT = BUNDLE.with_name("bundle.new")  # renamed to the bundle when it is complete and checked
LIBRARIES = ("scikit-learn", "skl2onnx", "onnx", "onnxruntime", "numpy", "pandas", "duckdb")


def compute_reference(run: Run, test: Dataset, memory_gb: float) -> dict[str, Distribution]:
    """Compute what monitoring compares with.

    Args:
        run: Computes the bundle's outputs.
        test: The test split.
        memory_gb: Memory limit of DuckDB, in GB.

    Returns:
        Distribution by event column: features of the training split, outputs for the test split.
    """
    contract = test.contract
    unit = f", {quote(contract.group)} AS unit" if contract.group else ""
    columns = zip(encode_monitored(contract), feature_columns(contract), strict=True)
    selected = ", ".join(f"{sql} AS {quote(name)}" for sql, name in columns)
    frame = pd.DataFrame(run(test.features.to_numpy()), columns=output_columns(contract))
    if contract.group:
        frame["unit"] = read_column(test.path, quote(contract.group))
    with connect(memory_gb) as con:
        con.sql(f"CREATE TABLE inputs AS SELECT {selected}{unit} FROM {literal(TRAIN)}")
        con.register("frame", frame)
        con.sql("CREATE TABLE outputs AS FROM frame")  # DuckDB looks at all columns of a frame in each query
        reference, categories = {}, model_columns(contract)
        for table, names in (("inputs", feature_columns(contract)), ("outputs", output_columns(contract))):
            part = compute_distributions(con, table, {name: categories[name] for name in names})
            if contract.group:
                for name, effect in estimate_design_effects(con, table, part).items():
                    part[name].design_effect = effect
            reference |= part
        return reference


def measure_latency(model: Model, test: Dataset, repeats: int = 200) -> float:
    """Measure how long one row takes.

    Args:
        model: The bundle.
        test: Its first row is predicted.
        repeats: Number of measurements.

    Returns:
        Their median, in milliseconds.
    """
    row = test.features.to_numpy()[:1]
    return 1000 * median(repeat(lambda: model.predictions(model.run(row)), number=1, repeat=repeats))


def _name_commit() -> str:
    """The commit whose code and parameters made the model; `…-dirty`, with a warning, if they are changed."""
    if not exists("HEAD"):
        return "uncommitted"
    commit = call("git", "rev-parse", "HEAD")
    if edited := changes(SOURCES):
        print(f"warning: no commit has the code of this bundle, so it names {commit}-dirty:\n{edited}")
        return f"{commit}-dirty"
    return commit


def _make_metadata(settings: params.Params, problem: declarations.Declarations) -> Metadata:
    """Where the bundle in `DRAFT` comes from."""
    code = "\n".join(declarations.stage_inputs(problem)["estimator"])
    versions = {name: version(name) for name in LIBRARIES} | declarations.library_versions(code)["estimator"]
    sha256 = content_hash(DRAFT)
    return Metadata(
        version=content_version(sha256),
        sha256=sha256,
        commit=_name_commit(),
        data=hash_files(TRAIN, TEST),
        parameters={"split": settings.split, "train": settings.train},  # a source may hold a password
        metrics=read_json(TRAINING_REPORT)["mean"],
        libraries={"python": platform.python_version()} | versions,
    )


def main() -> None:
    """Convert the estimator, check parity, and write the bundle and its report."""
    settings, problem = params.load(), declarations.load()
    contract = problem.contract
    estimator, test = joblib.load(ESTIMATOR), load_dataset(TEST, contract)
    for folder in (BUNDLE, DRAFT):
        shutil.rmtree(folder, ignore_errors=True)
    DRAFT.mkdir(parents=True)
    model = convert_estimator(estimator, contract).SerializeToString(deterministic=True)
    (DRAFT / "model.onnx").write_bytes(model)
    try:
        run = Session(DRAFT / "model.onnx").run
    except Exception as error:  # ONNX Runtime raises errors of its own
        raise ProjectError(
            f"bundle: ONNX Runtime cannot load {type(estimator).__name__}: {error}. "
            "Replace the step that it names."
        ) from None
    parity = check_parity(estimator, run, test, settings.bundle.parity_tolerance)
    write_json(DRAFT / "contract.json", contract)
    (DRAFT / PREPARE).write_text(problem.prepare, encoding="utf-8")
    write_json(DRAFT / "reference.json", compute_reference(run, test, settings.memory_gb))
    write_json(DRAFT / "example.json", read_row(TEST, contract))
    metadata = _make_metadata(settings, problem)
    write_json(DRAFT / "metadata.json", metadata)
    budget = {
        "size_mb": sum(path.stat().st_size for path in DRAFT.iterdir()) / 1e6,
        "latency_ms": measure_latency(Model(DRAFT), test),
    }
    DRAFT.rename(BUNDLE)
    write_json(BUNDLE_REPORT, msgspec.to_builtins(metadata) | parity | budget)


if __name__ == "__main__":
    cli(main)
