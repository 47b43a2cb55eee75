"""Problem file: write a proposal as `problem.py`, with tests that hold for any problem."""

import subprocess
import sys
import textwrap
from string import Template
from typing import NamedTuple

import msgspec

from .declare import Proposal

SMALL = 500  # rows, below which a linear model generalises better than boosted trees
LARGE = 5_000  # rows, if the labels were equally frequent, from which the trees may be more and larger
WIDTH = 106  # of comments

HEADER = '''\
"""The problem: predict {target}. This file is yours; updates never change it.

`make contract` proposed it from {rows:,} rows. Check each line: values do not tell what a column means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .contract import Column, Contract
from .contract.expectations import Kpi, ModelCardInfo

# Every stage imports this file: import heavy libraries inside the functions that use them.
if TYPE_CHECKING:
    import optuna
    from sklearn.base import BaseEstimator
'''

FUNCTIONS = Template('''\
def estimator(seed: int, **settings: float) -> BaseEstimator:
    """Make the model to train.

    Args:
        seed: `train.seed` of params.yaml.
        **settings: `train.estimator` of params.yaml.

    Returns:
        An unfitted estimator. Its input is float32, of shape `(n_rows, n_features)`.
    """
$estimator


def search(trial: optuna.Trial) -> dict[str, float | int]:
    """Define the search space of `make tune`.

    Args:
        trial: Suggests a value from each range.

    Returns:
        Settings of `estimator`.
    """
    return {
$search
    }
''')

BOOSTING = Template("""\
    from sklearn.ensemble import HistGradientBoosting$kind

    return HistGradientBoosting$kind(random_state=seed, early_stopping=False, **settings)""")

BOOSTING_SEARCH = """\
        "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.3, log=True),
        "max_iter": trial.suggest_int("max_iter", 20, 400, log=True),
        "max_leaf_nodes": trial.suggest_int("max_leaf_nodes", 4, 128, log=True),"""

LINEAR = Template("""\
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import $kind
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    numbers = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler())
    return make_pipeline(numbers, $kind(${options}random_state=seed, **settings))""")

LINEAR_WITH_CATEGORIES = Template("""\
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import $kind
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    names = {column.name for column in CONTRACT.features if column.kind == "category" and not column.length}
    positions = [position for position, name in enumerate(CONTRACT.feature_names) if name in names]
    categories = make_pipeline(
        SimpleImputer(strategy="most_frequent", keep_empty_features=True),
        OneHotEncoder(handle_unknown="ignore"),
    )
    numbers = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler())
    columns = ColumnTransformer([("categories", categories, positions)], remainder=numbers)
    return make_pipeline(columns, $kind(${options}random_state=seed, **settings))""")

NO_BEHAVIOURAL_TESTS = "Declare BEHAVIOURAL_TESTS, too: how must the prediction react if a feature changes?"

TESTS = '''\
"""Tests of this problem. This file is yours: test what must hold for your data and your model."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from {package} import declarations
from {package}.problem import CONTRACT, estimator


def test_declarations_fit_each_other() -> None:
    declarations.check_expectations(declarations.load())


def test_estimator_predicts_a_value_for_each_row() -> None:
    names, n_rows = CONTRACT.feature_names, 20 * len(CONTRACT.labels)
    numbers = np.random.default_rng(0).integers(0, 2, (n_rows, len(names)))
    features = pd.DataFrame(numbers.astype(np.float32), columns=list(names))
    model: Any = estimator(seed=0)
    model.fit(features, np.arange(n_rows) % len(CONTRACT.labels))
    assert model.predict(features).shape == (n_rows,)


def test_estimator_rejects_unknown_setting() -> None:
    with pytest.raises(TypeError, match="no_such_setting"):
        estimator(seed=0, no_such_setting=1)
'''


class Model(NamedTuple):
    """An estimator: the body of its function, the search space, and settings for params.yaml."""

    estimator: str
    search: str
    settings: dict[str, float]


def choose_model(proposal: Proposal) -> Model:
    """Choose an estimator by task and number of rows.

    Args:
        proposal: The declarations.

    Returns:
        Boosted trees; for few rows a linear model, which imputes missing values.
    """
    is_classification = proposal.target.task == "classification"
    if proposal.n_clean >= SMALL:
        code = BOOSTING.substitute(kind="Classifier" if is_classification else "Regressor")
        counts = proposal.target.counts.values()
        size = min(counts) * len(counts) if counts else proposal.n_clean
        rate, trees, leaves = (0.1, 200, 31) if size >= LARGE else (0.06, 100, 15)
        settings = {"learning_rate": rate, "max_iter": trees, "max_leaf_nodes": leaves}
        return Model(code, BOOSTING_SEARCH, settings)
    features = proposal.contract.features
    has_categories = any(column.kind == "category" and not column.length for column in features)
    kind, options, name = ("Ridge", "", "alpha")
    if is_classification:
        kind, options, name = ("LogisticRegression", "max_iter=1000, ", "C")
    code = (LINEAR_WITH_CATEGORIES if has_categories else LINEAR).substitute(kind=kind, options=options)
    search = f'        "{name}": trial.suggest_float("{name}", 0.01, 100, log=True),'
    return Model(code, search, {name: 1.0})


def write_problem(proposal: Proposal, source: str) -> str:
    """Write `problem.py`.

    Args:
        proposal: The declarations.
        source: Where the rows come from, without secrets.

    Returns:
        Python source, formatted if ruff is installed.
    """
    model = choose_model(proposal)
    target, rows = proposal.contract.target, proposal.n_clean + proposal.n_rejected
    parts = [
        HEADER.format(target=_in_docstring(repr(target)), rows=rows),
        _write_contract(proposal),
        _comment(proposal.row_id_why) + f"PREPARE = {_literal(proposal.prepare)}",
        '"""SQL from the source\'s table `raw` to the contract\'s columns: rename, compute, join."""\n',
        "BASELINE: str | None = None",
        f'"""A column that serves as the baseline prediction; None: {_baseline(proposal)}."""\n',
        _write_kpis(proposal),
        '"""Limits that the model must keep; models are compared by the primary metric."""\n',
        _comment(NO_BEHAVIOURAL_TESTS),
        _write_card(target, rows, source),
        "\n" + FUNCTIONS.substitute(estimator=model.estimator, search=model.search),
    ]
    return _format("\n".join(parts))


def write_tests(package: str) -> str:
    """Write `tests/test_problem.py`.

    Args:
        package: Name of the project's package.

    Returns:
        Python source of tests that hold for any problem.
    """
    return TESTS.format(package=package)


def _write_contract(proposal: Proposal) -> str:
    """The declaration CONTRACT, each column with its comments."""
    contract = proposal.contract
    roles = {name: getattr(contract, name) for name in ("task", "key", "target", "time", "group")}
    lines = [f"    {name}={value!r}," for name, value in roles.items() if value]
    for candidate in proposal.candidates:
        lines.append(_comment(f"Perhaps {candidate}", 4))
    columns = [f"        {_call(proposal.row_id[0])},"] if proposal.row_id else []
    for draft in proposal.drafts.values():
        columns += [_comment("; ".join(draft.why), 8) + f"        {_call(draft.column)},"]
    for name, sql_type in proposal.left_out.items():
        columns.append(_comment(f"{name!r} is left out: there is no kind for {sql_type}", 8))
    body = "\n".join([*lines, "    columns=(", *columns, "    ),"])
    return f"CONTRACT = Contract(\n{body}\n)\n"


def _write_kpis(proposal: Proposal) -> str:
    """The declaration KPIS."""
    items = ""
    for kpi, origin in proposal.kpis:
        items += _comment(f"The threshold is {origin}. Replace it by what makes the model worth using.", 4)
        items += f"    {_call(kpi, 0)},\n"
    return f"KPIS: tuple[Kpi, ...] = (\n{items})"


def _write_card(target: str, rows: int, source: str) -> str:
    """The declaration MODEL_CARD, to be completed."""
    fields = {
        "purpose": f"Predicts {target}.",
        "limits": "Not yet described: say where the model must not be used.",
        "data": f"{rows:,} rows of {source}.",
        "data_licence": "Not yet stated.",
    }
    items = "".join(f"    {name}={text!r},\n" for name, text in fields.items())
    return f"MODEL_CARD = ModelCardInfo(\n{items})\n"


def _baseline(proposal: Proposal) -> str:
    """What the baseline is without a column."""
    return "the median" if proposal.target.task == "regression" else "the shares of the classes"


def _call(value: msgspec.Struct, n_positional: int = 4) -> str:
    """Python that makes a structure, fields with their default left out."""
    arguments, positional = [], True
    for index, field in enumerate(msgspec.structs.fields(value)):
        content = getattr(value, field.name)
        default = {} if field.default_factory is dict else field.default
        if content == default:
            positional = False
            continue
        positional = positional and index < n_positional
        shown = f"{content:_}" if type(content) is int else repr(content)
        arguments.append(shown if positional else f"{field.name}={shown}")
    return f"{type(value).__name__}({', '.join(arguments)})"


def _comment(text: str, indent: int = 0) -> str:
    """A comment, wrapped; empty without a text."""
    start = f"{' ' * indent}# "
    return "".join(f"{start}{line}\n" for line in textwrap.wrap(text, WIDTH - indent))


def _literal(text: str) -> str:
    """A text as Python: over several lines if it has several."""
    if "\n" not in text:
        return repr(text)
    escaped = text.replace("\\", "\\\\").replace('"""', r"\"\"\"")
    shown = (char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in escaped)
    return f'"""{"".join(shown)}"""'


def _in_docstring(text: str) -> str:
    """A text that may stand in a docstring."""
    return text.replace("\\", "\\\\").replace('"""', r"\"\"\"")


def _format(source: str) -> str:
    """Format Python with ruff, which only the development environment has."""
    command = (sys.executable, "-m", "ruff", "format", "--quiet", "--stdin-filename", "problem.py", "-")
    result = subprocess.run(command, input=source.encode(), capture_output=True, check=False)
    return source if result.returncode else result.stdout.decode()
