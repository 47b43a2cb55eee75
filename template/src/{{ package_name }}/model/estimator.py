"""Check the estimator of problem.py: the stage before rows are read and anything is trained."""

import argparse
from collections.abc import Iterator
from typing import Any

from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import get_tags

from .. import declarations, params
from ..contract import Contract
from ..core.errors import ProjectError, cli
from ..core.files import write_json
from ..core.paths import ESTIMATOR_REPORT
from ..stats.metrics import Estimator
from .boosters import lacks_converter
from .converters import FUNCTIONS, INEXACT, SCALERS, can_convert, keeps_raw_scores, register_converters

NAMED_FUNCTIONS = ", ".join(f"np.{function.__name__}" for function in FUNCTIONS if function)
ALTERNATIVES = (
    "use a step that is in docs/estimators.md of the template, or compute the column in problem.PREPARE, or "
    "register a converter in problem.py with skl2onnx.update_registered_converter"
)
NO_PROBABILITIES = "it has no predict_proba: wrap it in CalibratedClassifierCV, or use another estimator"
THRESHOLD = (
    "use the classifier inside, and set `decision_threshold` in the contract: `make threshold` shows what "
    "each threshold gives"
)
REFUSED = {
    "FixedThresholdClassifier": THRESHOLD,
    "GaussianProcessClassifier": "ONNX Runtime cannot compute it: use CalibratedClassifierCV(SVC())",
    "KNNImputer": "ONNX finds other neighbours: use SimpleImputer",
    "RadiusNeighborsClassifier": "ONNX Runtime cannot compute it: use KNeighborsClassifier",
    "RadiusNeighborsRegressor": "ONNX Runtime cannot compute it: use KNeighborsRegressor",
    "RandomizedSearchCV": "tune with `make tune` (problem.search), or use GridSearchCV",
    "SplineTransformer": "ONNX has no form of it: use KBinsDiscretizer or PolynomialFeatures",
    "TunedThresholdClassifierCV": THRESHOLD,
}
"""Estimators that cannot be served, and what to do instead."""

TREES = ("Boost", "Forest", "LGBM", "Tree", "XGB")
"""What names of estimators made of trees contain."""

NAME_SIGNS = {"LGBM": '",:[]{}', "XGB": "[]<"}
"""Signs that a library does not accept in names of features, by the start of its estimators' names."""


def check_estimator(estimator: Estimator, contract: Contract) -> None:
    """Check that an estimator can become a bundle, as far as that is known before training.

    Args:
        estimator: Not fitted.
        contract: Names features and task.

    Raises:
        ProjectError: Steps or settings cannot be served. The message names each with what to do.
    """
    register_converters()
    problems = [
        f"{name or 'estimator'} ({type(part).__name__}): {problem}"
        for name, part in list_parts(estimator).items()
        for problem in _part_problems(part)
    ]
    problems += [f"{type(estimator).__name__}: {problem}" for problem in _whole_problems(estimator, contract)]
    if problems:
        raise ProjectError("problem.estimator cannot be served:\n- " + "\n- ".join(problems))


def list_parts(estimator: Estimator) -> dict[str, Any]:
    """List an estimator and all estimators inside.

    Args:
        estimator: Fitted or not.

    Returns:
        Estimators by name, as in `set_params`, with dots; the whole one has an empty name.
    """
    inner = {} if hasattr(estimator, "to_onnx") else estimator.get_params()
    parts = {"": estimator, **{name: part for name, part in inner.items() if hasattr(part, "fit")}}
    return {name.replace("__", "."): part for name, part in parts.items()}


def _part_problems(part: Any) -> Iterator[str]:
    """Yield what is wrong with a step, and what to do."""
    if hasattr(part, "to_onnx"):  # it converts itself
        return
    kind, settings = type(part).__name__, part.get_params(deep=False)
    if kind in REFUSED:
        yield REFUSED[kind]
    elif lacks_converter(part):
        yield "onnxmltools converts it: run `uv add --group custom onnxmltools`"
    elif not can_convert(part):
        yield f"ONNX has no form of it: {ALTERNATIVES}"
    if kind == "CalibratedClassifierCV" and settings["method"] != "sigmoid":
        yield f"ONNX has no form of method='{settings['method']}': use method='sigmoid'"
    if kind == "CalibratedClassifierCV" and not keeps_raw_scores(settings["estimator"]):
        inner = type(settings["estimator"]).__name__
        yield f"ONNX has no scores of {inner} to calibrate: use another classifier inside"
    if kind == "FunctionTransformer" and (settings["func"] not in FUNCTIONS or settings["kw_args"]):
        yield f"ONNX has a form of {NAMED_FUNCTIONS} only: use these, or problem.PREPARE"
    if kind.startswith("KNeighbors") and settings.get("weights", "uniform") != "uniform":
        yield "ONNX weighs neighbours differently: use weights='uniform'"
    if kind == "TransformedTargetRegressor":
        yield from _target_problems(settings)


def _target_problems(settings: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a transformation of the target."""
    transformer = settings["transformer"]
    if transformer is not None and type(transformer) not in SCALERS:
        names = ", ".join(scaler.__name__ for scaler in SCALERS)
        yield f"ONNX has no inverse of {type(transformer).__name__}: use {names}, or func and inverse_func"
    elif transformer is None and settings["inverse_func"] not in FUNCTIONS:
        yield f"ONNX has no form of inverse_func: use one of {NAMED_FUNCTIONS}"


def _whole_problems(estimator: Estimator, contract: Contract) -> Iterator[str]:
    """Yield what is wrong with the predictions of an estimator, and what to do."""
    steps, last = _steps(estimator), _steps(estimator)[-1]
    kind = type(last).__name__
    # StackingClassifier's default final estimator is a LogisticRegression.
    has_probabilities = hasattr(last, "predict_proba") or getattr(last, "final_estimator", last) is None
    if kind not in REFUSED and contract.task != "regression" and not has_probabilities:
        yield "it has no predict_proba: use voting='soft'" if kind == "VotingClassifier" else NO_PROBABILITIES
    elif kind in ("SVC", "NuSVC") and contract.decision_threshold is None:
        yield f"its labels are not the most probable ones: use CalibratedClassifierCV({kind}())"
    if any(part in kind for part in TREES):
        for name in INEXACT & {type(step).__name__ for step in steps[:-1]}:
            yield f"{name} is not exact before trees, which need no scaling: leave it out"
    first = type(steps[0]).__name__
    signs = next((signs for start, signs in NAME_SIGNS.items() if first.startswith(start)), "")
    if names := [name for name in contract.feature_names if set(name) & set(signs)]:
        yield f"it rejects names with any of {signs}, such as {names[0]!r}: rename them in problem.PREPARE"
    nullable = [column.name for column in contract.features if column.nullable]
    if nullable and (step := _step_without_missing(steps)):
        subject = "it" if step == type(estimator).__name__ else step
        yield (
            f"{subject} does not accept missing values, which the contract allows in "
            f"{', '.join(nullable[:5])}: put a SimpleImputer before it, or declare them with nullable=False"
        )


def _steps(estimator: Estimator) -> list[Any]:
    """The steps of a pipeline, also of one that is searched; else the estimator alone."""
    if type(estimator).__name__ == "GridSearchCV":
        return _steps(estimator.estimator)
    return [step for _, step in getattr(estimator, "steps", [("", estimator)])]


def _step_without_missing(steps: list[Any]) -> str:
    """The first step that rejects missing values; empty if there is none, or if it is not known."""
    for step in steps:
        settings = step.get_params(deep=False).values()
        is_simple = not any(hasattr(value, "fit") or isinstance(value, list) for value in settings)
        is_known = is_simple and type(step).__module__.startswith("sklearn.")
        if is_known and not get_tags(step).input_tags.allow_nan:
            return type(step).__name__
        if type(step) not in (*SCALERS, FunctionTransformer):  # these pass them on
            break
    return ""


def main() -> None:
    """Check the estimator of problem.py, and write the types of its steps."""
    parser = argparse.ArgumentParser(description="Check that the estimator of problem.py can be served.")
    parser.add_argument("--check", action="store_true", help="write no report")
    is_check = parser.parse_args().check
    problem = declarations.load()
    estimator = declarations.make_estimator(problem.estimator, params.load().train)
    check_estimator(estimator, problem.contract)
    if is_check:
        return
    steps = {name or "estimator": type(part).__name__ for name, part in list_parts(estimator).items()}
    ESTIMATOR_REPORT.parent.mkdir(exist_ok=True)
    write_json(ESTIMATOR_REPORT, steps)


if __name__ == "__main__":
    cli(main)
