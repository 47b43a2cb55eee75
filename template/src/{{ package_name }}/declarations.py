"""The declarations of `problem.py`, checked and with defaults.

`load()` reads them. As the first stage of the pipeline, this module writes parameters, declarations and the
versions of libraries to `.params/`, one file each. The other stages depend on the files that they use, so a
change reruns only the stages whose result it can change.
"""

import ast
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import msgspec

from . import params
from .contract import Column, Contract
from .contract.expectations import BehaviouralTest, Cost, Kpi, ModelCardInfo
from .core.errors import ProjectError, cli, warn_once
from .core.files import readable_json, write

if TYPE_CHECKING:
    from .contract.dataset import Dataset
    from .stats.metrics import CustomMetric, Metric

PACKAGE = Path(__file__).parent
PARAMS = Path(".params")
MAX_ITEMS = 5_000  # categories of all lists and of a ranking together
RENAMED = {"BEHAVIOURAL_TESTS": "BEHAVIOURS", "MODEL_CARD": "ABOUT"}  # former names, read until 0.5
LIBRARIES = {
    "data": ("duckdb", "numpy", "pandas", "pyarrow"),
    "training": ("scikit-learn", "scipy"),
    "onnx": ("onnx", "onnxmltools", "onnxruntime", "skl2onnx"),
}


def _no_search(trial: Any) -> dict[str, Any]:
    """Stand for the search space of a problem that declares none."""
    raise ProjectError(
        "problem.py has no function `search`, which returns the settings that `make tune` varies"
    )


@dataclass(frozen=True)
class Declarations:
    """What `problem.py` declares.

    Attributes:
        contract: The columns and their roles (`CONTRACT`).
        kpis: All KPIs (`KPIS`).
        primary_kpi: The KPI that models are compared by.
        behavioural_tests: `BEHAVIOURAL_TESTS`; none by default.
        model_card: `MODEL_CARD`.
        prepare: SQL from the source's table `raw` to the contract's columns (`PREPARE`).
        baseline: A column that serves as prediction (`BASELINE`); None: class shares, or the median.
        estimator: Function of a seed and settings that returns an unfitted estimator.
        search: Function of an Optuna trial that returns settings of `estimator`.
        fetch: Function that returns the sample data (`sample`); None without sample data.
        read: Function that reads a file of the source which is no table (`read`); None: files are tables.
        cost: What decisions cost (`COST`); None: not known, and no metric.
        custom_metrics: Functions by name of the metric (`METRICS`), see `stats.metrics.CustomMetric`.
        sample_weight: A column that says how much a row counts in training and evaluation
            (`SAMPLE_WEIGHT`); None: all rows alike. It is no feature unless it is declared as one.
    """

    contract: Contract
    kpis: tuple[Kpi, ...]
    primary_kpi: Kpi
    behavioural_tests: tuple[BehaviouralTest, ...]
    model_card: ModelCardInfo
    prepare: str
    baseline: str | None
    estimator: Callable[..., Any]
    search: Callable[[Any], dict[str, Any]]
    fetch: Callable[[], Any] | None
    read: Callable[[Path], Any] | None = None
    cost: Cost | None = None
    custom_metrics: Mapping[str, "CustomMetric"] = field(default_factory=dict)
    sample_weight: str | None = None

    def make_metrics(self, contract: Contract) -> dict[str, "Metric"]:
        """Make all metrics that are reported.

        Args:
            contract: That of the model, with its decision threshold.

        Returns:
            Metrics by name: the default ones of the task, those of `METRICS` and the KPIs, and `cost` if
            `COST` is declared.

        Raises:
            ProjectError: A KPI has a metric that the task does not have.
        """
        from .stats.metrics import make_metrics  # here, because every stage imports this module

        names = [*(["cost"] if self.cost else []), *(kpi.metric for kpi in self.kpis)]
        return make_metrics(contract, names, self.custom_metrics)

    def read_split(self, path: Path, contract: Contract | None = None) -> "Dataset":
        """Read a split with the declared baseline, sample weights and costs.

        Args:
            path: The Parquet file.
            contract: Says which columns are features; None: the declared contract.

        Returns:
            The rows in the order of the file.
        """
        from .contract.dataset import load_dataset

        return load_dataset(path, contract or self.contract, self.baseline, self.sample_weight, self.cost)


def load() -> Declarations:
    """Read `problem.py`.

    Returns:
        Its declarations, defaults filled in.

    Raises:
        ProjectError: It cannot be imported, lacks a declaration, or declares something invalid.
    """
    problem = _import_problem()
    kpis = _read(problem, "KPIS", tuple[Kpi, ...])
    if not callable(estimator := getattr(problem, "estimator", None)):
        raise ProjectError("problem.py has no function `estimator`, which returns the model to train")
    sample_weight = _read(problem, "SAMPLE_WEIGHT", str | None, None)
    return Declarations(
        contract=_settle_weight(_settle_key(_read(problem, "CONTRACT", Contract)), sample_weight),
        kpis=kpis,
        primary_kpi=_find_primary(kpis),
        behavioural_tests=_read(problem, "BEHAVIOURAL_TESTS", tuple[BehaviouralTest, ...], ()),
        model_card=_read(problem, "MODEL_CARD", ModelCardInfo),
        prepare=_read(problem, "PREPARE", str, "SELECT * FROM raw"),
        baseline=_read(problem, "BASELINE", str | None, None),
        estimator=estimator,
        search=getattr(problem, "search", _no_search),
        fetch=getattr(problem, "sample", None),
        read=getattr(problem, "read", None),
        cost=_read(problem, "COST", Cost | None, None),
        custom_metrics=_read_metrics(problem),
        sample_weight=sample_weight,
    )


def _import_problem() -> ModuleType:
    """Import problem.py; an error of it names the line of the package where it was raised."""
    try:
        return import_module(f"{__package__}.problem")
    except ProjectError:
        raise
    except SyntaxError as error:
        place = f"{Path(error.filename or 'problem.py').name}, line {error.lineno}"
        raise ProjectError(f"{place}: {type(error).__name__}: {error.msg}") from error
    except Exception as error:
        raise ProjectError(locate_error(error)) from error


def locate_error(error: Exception) -> str:
    """Describe an error of the user's code.

    Args:
        error: Raised in problem.py or custom/, or in a library that they call.

    Returns:
        The line of problem.py or custom/ that it came from, its type and its message.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(PACKAGE / "custom")]
    own = own or [frame for frame in frames if Path(frame.filename) == PACKAGE / "problem.py"] or frames
    return f"{Path(own[-1].filename).name}, line {own[-1].lineno}: {type(error).__name__}: {error}"


def _read(problem: ModuleType, name: str, kind: Any, *default: Any) -> Any:
    """Return a declaration by its present or its former name, after a check of its type."""
    old = RENAMED.get(name, "")
    if hasattr(problem, old) and not hasattr(problem, name):
        warn_once(f"problem.py: {old} is now {name}; rename it")
        value = getattr(problem, old)
    elif not default and not hasattr(problem, name):
        raise ProjectError(f"problem.py has no {name}")
    else:
        value = getattr(problem, name, *default)
    try:
        msgspec.convert(msgspec.to_builtins(value), kind)
    except (msgspec.ValidationError, TypeError) as error:
        raise ProjectError(f"problem.{name}: {error}") from None
    return value


def _settle_key(contract: Contract) -> Contract:
    """State that the key is no feature unless its column asks for it: up to 0.3 it was one by default."""
    key = contract.column(contract.keys[0])
    is_default = contract.key_is_feature is None and key.feature is None
    if is_default and contract.key != contract.time and key in contract.features:
        return msgspec.structs.replace(contract, key_is_feature=False)
    return contract


def _settle_weight(contract: Contract, sample_weight: str | None) -> Contract:
    """State that the column of the sample weights is no feature unless problem.py asks for it."""
    columns = tuple(
        msgspec.structs.replace(column, feature=False)
        if column.name == sample_weight and column.feature is None
        else column
        for column in contract.columns
    )
    return contract if columns == contract.columns else msgspec.structs.replace(contract, columns=columns)


def _read_metrics(problem: ModuleType) -> dict[str, "CustomMetric"]:
    """Return `METRICS`; reject what is not a function of target, outputs and weights."""
    metrics = getattr(problem, "METRICS", {})
    if not isinstance(metrics, Mapping):
        raise ProjectError(f"problem.METRICS must be a dict from names to functions; it is {metrics!r}")
    for name, function in metrics.items():
        try:
            inspect.signature(function).bind(None, None, None)
        except TypeError as error:
            raise ProjectError(
                f"problem.METRICS: {name!r} must be a function of target (n_rows,), outputs (n_rows, "
                f"n_labels) and weights (n_rows,) that returns a number: {error}"
            ) from None
    return dict(metrics)


def make_estimator(make: Callable[..., Any], settings: params.Train) -> Any:
    """Call `problem.estimator` with the settings of `params.yaml`.

    Args:
        make: `problem.estimator`.
        settings: Seed and keyword arguments.

    Returns:
        The estimator, not fitted.

    Raises:
        ProjectError: The function does not take a setting.
    """
    try:
        return make(settings.seed, **settings.estimator)
    except TypeError as error:
        raise ProjectError(
            f"train.estimator in params.yaml does not fit problem.estimator: {error}"
        ) from None


def check_expectations(declarations: Declarations) -> None:
    """Check that KPIs, metrics, costs, sample weights and behavioural tests fit the contract.

    Args:
        declarations: Those of `problem.py`.

    Raises:
        ProjectError: A metric is none of the task's, or the contract lacks a column, label or category.
    """
    _check_size(declarations.contract)
    _check_cost(declarations.cost, declarations.contract)
    _check_sample_weight(declarations.sample_weight, declarations.contract)
    _check_metrics(declarations)
    _check_behavioural_tests(declarations.behavioural_tests, declarations.contract)


def _check_size(contract: Contract) -> None:
    """Reject so many categories that events and monitoring would need more memory than they may have."""
    lists = [column for column in contract.features if column.kind == "category" and column.length]
    counts = {f"list {column.name}": len(column.categories) for column in lists}
    counts |= {f"target {contract.target}": len(contract.labels)} if contract.task == "ranking" else {}
    if sum(counts.values()) > MAX_ITEMS:
        parts = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        raise ProjectError(
            f"problem.CONTRACT: lists and ranking have {sum(counts.values()):,} categories ({parts}); the "
            f"limit is {MAX_ITEMS:,}, since each is a number of every event. Leave out rare items, use fewer "
            "lists, or let another system choose candidates and rank those."
        )


def _check_metrics(declarations: Declarations) -> None:
    """Reject KPIs without a metric of the task, and own metrics with the name of a standard one."""
    from .stats.metrics import is_standard

    for name in declarations.custom_metrics:
        if is_standard(name, declarations.contract.task):
            raise ProjectError(f"problem.METRICS: {name!r} is a standard metric; choose another name")
    try:
        metrics = declarations.make_metrics(declarations.contract)
    except ProjectError as error:
        raise ProjectError(f"problem.KPIS: {error}") from None
    if "cost" in metrics and not declarations.cost:
        raise ProjectError("problem.KPIS: the metric cost needs COST in problem.py: COST = Cost(5, 'amount')")


def _find_amounts(declaration: str, name: str, contract: Contract) -> Column:
    """Return a column that holds a number in every row, or reject it."""
    column = next((column for column in contract.kept if column.name == name), None)
    if not column or column.kind not in ("number", "integer") or column.nullable or column.length:
        raise ProjectError(
            f"problem.{declaration}: {name!r} must be a column of the contract, of kind number or integer, "
            "and neither personal, nor nullable, nor a list"
        )
    return column


def _check_cost(cost: Cost | None, contract: Contract) -> None:
    """Reject costs of anything but two labels, and amounts that are not numbers."""
    if cost is None:
        return
    if contract.task != "classification" or len(contract.labels) != 2:
        raise ProjectError("problem.COST is for a classification with two labels")
    for name in cost.columns:
        _find_amounts("COST", name, contract)
    amounts = [amount for amounts in cost.matrix for amount in amounts if not isinstance(amount, str)]
    if not all(map(math.isfinite, amounts)) or not any((*amounts, *cost.columns)):
        raise ProjectError(f"problem.COST: the costs must be finite, and not all 0: {cost}")


def _check_sample_weight(name: str | None, contract: Contract) -> None:
    """Reject sample weights that are not numbers of at least 0."""
    if name is not None and (column := _find_amounts("SAMPLE_WEIGHT", name, contract)).bounds[0] < 0:
        raise ProjectError(f"problem.SAMPLE_WEIGHT: declare {name!r} with min=0; it may be {column.rule}")


def _find_primary(kpis: tuple[Kpi, ...]) -> Kpi:
    """Return the KPI that is marked as primary; up to 0.2 it was the first."""
    if not kpis:
        raise ProjectError("problem.KPIS: declare at least one KPI; models are compared by the primary one")
    primary = [kpi for kpi in kpis if kpi.primary]
    if len(primary) > 1:
        raise ProjectError(f"problem.KPIS: {len(primary)} KPIs have primary=True; keep one")
    if not primary:
        warn_once("problem.KPIS: no KPI has primary=True, so the first one is primary; mark it")
    return [*primary, *kpis][0]


def _check_behavioural_tests(tests: tuple[BehaviouralTest, ...], contract: Contract) -> None:
    """Reject tests of a column, label or change that the contract does not have."""
    columns = {column.name: column for column in contract.features if column.kind != "time"}
    labels = (None,) if contract.task == "regression" else contract.labels
    for test in tests:
        column, at = columns.get(test.column), f"problem.BEHAVIOURAL_TESTS: {test.column!r}"
        if column is None:
            raise ProjectError(f"{at} must be a feature of kind number, integer, boolean or category")
        if test.label not in labels:
            raise ProjectError(f"{at}: the label must be one of {labels}; it is {test.label!r}")
        is_category = column.kind == "category"
        if not (test.change in column.categories if is_category else not isinstance(test.change, str)):
            raise ProjectError(f"{at} cannot change to {test.change!r}; it must be {column.rule}")


def stage_inputs(declarations: Declarations) -> dict[str, Any]:
    """Return the declarations that decide a model and its evaluation.

    Args:
        declarations: Those of `problem.py`.

    Returns:
        JSON-ready content by name: `contract`, `prepare`, `baseline`, `primary_metric`, `sample_weight`;
        `estimator`, the code of `problem.py` that `estimator` runs, comments and docstrings left out; and
        `metrics`: costs, names of the metrics that are reported, and the code of those in `METRICS`.
    """
    kpi, source = declarations.primary_kpi, (PACKAGE / "problem.py").read_text(encoding="utf-8")
    return {
        "contract": declarations.contract,
        "prepare": declarations.prepare,
        "baseline": declarations.baseline,
        "primary_metric": {"metric": kpi.metric, "direction": kpi.direction},
        "sample_weight": declarations.sample_weight,
        "estimator": _used_code(source, "estimator").splitlines(),
        "metrics": {
            "cost": declarations.cost,
            "names": list(declarations.make_metrics(declarations.contract)),
            "code": _used_code(source, "METRICS").splitlines() if declarations.custom_metrics else [],
        },
    }


def _is_ignored(statement: ast.stmt) -> bool:
    """Whether a statement has no effect at run time: a docstring, or an import for type checkers."""
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test)


def _bound_names(statement: ast.stmt) -> set[str]:
    """Return the names that a top-level statement defines."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {(name.asname or name.name).split(".")[0] for name in statement.names}
    nodes = ast.walk(statement)
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _used_code(source: str, name: str) -> str:
    """Return what defines a name, the top-level statements that this uses, and those that define no name."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
            node.body = [child for child in node.body if not _is_ignored(child)]
    bound = {statement: _bound_names(statement) for statement in tree.body}
    pending = [statement for statement, names in bound.items() if not names or name in names]
    used: set[ast.stmt] = set()
    while pending:
        used.add(statement := pending.pop())
        read = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
        pending += [other for other, names in bound.items() if names & read and other not in used]
    return "\n".join(ast.unparse(statement) for statement in tree.body if statement in used)


def _imported_modules(source: str) -> Iterator[str]:
    """Yield the top-level names of all modules that a source imports absolutely."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.split(".")[0]


def custom_code() -> str:
    """Read the modules in `custom/`.

    Returns:
        Their code, one after the other.
    """
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(PACKAGE.glob("custom/**/*.py")))


def library_versions(own_code: str) -> dict[str, dict[str, str]]:
    """Return the installed versions of the libraries that decide results.

    Args:
        own_code: The code of `problem.py` that `estimator` and `METRICS` run.

    Returns:
        Versions by distribution, for each group: `data`, `training`, `onnx`, and `estimator`: the libraries
        that this code or a module in `custom/` imports.
    """
    code = f"{own_code}\n{custom_code()}"
    modules = {*_imported_modules(code)} - sys.stdlib_module_names - {"sklearn"}  # in the group "training"
    by_module = packages_distributions() if modules else {}
    own = {name for module in modules for name in by_module.get(module, [])}
    groups = LIBRARIES | {"estimator": sorted(own)}
    return {group: {name: _version(name) for name in names} for group, names in groups.items()}


def _version(distribution: str) -> str:
    """Return the version of a distribution; `missing` if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "missing"


def stage_files(inputs: dict[str, Any]) -> dict[str, bytes]:
    """Return the files that stages depend on, of parameters and declarations.

    Args:
        inputs: As returned by `stage_inputs`.

    Returns:
        Content by path.
    """
    sections = msgspec.to_builtins(params.load())
    files = sections | {f"declarations/{name}": content for name, content in inputs.items()}
    return {f"{PARAMS}/{name}.json": readable_json(content) for name, content in files.items()}


def main() -> None:
    """Write parameters, declarations and versions of libraries to `.params/`."""
    declarations = load()
    check_expectations(declarations)
    inputs = stage_inputs(declarations)
    versions = library_versions("\n".join([*inputs["estimator"], *inputs["metrics"]["code"]]))
    libraries = {f"{PARAMS}/libraries/{name}.json": readable_json(part) for name, part in versions.items()}
    for path, content in (stage_files(inputs) | libraries).items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write(Path(path), content)


if __name__ == "__main__":
    cli(main)
