"""An estimator as ONNX: one float32 matrix in, one of outputs out, all learned steps inside."""

import logging
from collections.abc import Iterator
from copy import deepcopy
from types import FunctionType, ModuleType

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor

from ..contract import Contract
from ..core.errors import ProjectError

INPUT = "features"
OUTPUTS = {"classification": "probabilities", "ranking": "probabilities", "regression": "variable"}


def convert(estimator: BaseEstimator, contract: Contract) -> onnx.ModelProto:
    """Convert a fitted scikit-learn estimator.

    Raises:
        ProjectError: a step has no conversion; the message names it and the ways out.
    """
    logging.getLogger("skl2onnx").setLevel(logging.ERROR)
    by_name = any(isinstance(part, ColumnTransformer) for part in estimator.get_params().values())
    names = contract.feature_names
    inputs = (
        [(name, FloatTensorType([None, 1])) for name in names]
        if by_name
        else [(INPUT, FloatTensorType([None, len(names)]))]
    )
    options = {"zipmap": False} if contract.task != "regression" else None
    try:
        model = convert_sklearn(floor_thresholds(estimator), contract.target, inputs, options=options)
    except Exception as error:  # the converter raises errors of many kinds
        raise ProjectError(explain(estimator, error)) from None
    if by_name:
        join_inputs(model, names)
    keep_output(model, OUTPUTS[contract.task])
    onnx.checker.check_model(model)
    return model


def floor_thresholds(estimator: BaseEstimator) -> BaseEstimator:
    """Give a copy whose HistGradientBoosting trees compare float32 features exactly as before, in float32.

    Their thresholds are float64 and lie between the values of training. The converter rounds them, half of
    them up: then a feature that lies just there goes the other way.
    """
    if not any(isinstance(part, TreePredictor) for part in parts(estimator)):
        return estimator
    copied = deepcopy(estimator)
    for part in parts(copied):
        if isinstance(part, TreePredictor):
            part.nodes["num_threshold"] = float32_below(part.nodes["num_threshold"])
    return copied


def float32_below(numbers: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float32 that is not above each number."""
    with np.errstate(over="ignore"):  # beyond float32, the nearest is infinite
        nearest = numbers.astype(np.float32)
    return np.where(nearest > numbers, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def parts(estimator: BaseEstimator) -> Iterator[object]:
    """An estimator and all objects that it holds, however deep: steps, fitted copies, trees."""
    waiting, seen = [estimator], {}
    while waiting:
        part = waiting.pop()
        if id(part) in seen or isinstance(part, (type, FunctionType, ModuleType)):
            continue
        seen[id(part)] = part
        if isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, (list, tuple)):
            waiting += part
        elif isinstance(part, np.ndarray) and part.dtype == object:
            waiting += part.ravel().tolist()
        elif hasattr(part, "__dict__"):
            yield part
            waiting += vars(part).values()


def join_inputs(model: onnx.ModelProto, names: tuple[str, ...]) -> None:
    """Feed the named columns from one matrix: it is far cheaper to pass than many inputs."""
    graph = model.graph
    for position, name in enumerate(names):
        index = f"{name}@position"
        graph.initializer.append(numpy_helper.from_array(np.array([position], np.int64), index))
        graph.node.insert(0, helper.make_node("Gather", [INPUT, index], [name], axis=1))
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [None, len(names)]))


def keep_output(model: onnx.ModelProto, name: str) -> None:
    """Leave one output: the matrix of probabilities or values."""
    kept = [output for output in model.graph.output if output.name == name]
    if not kept:
        found = ", ".join(output.name for output in model.graph.output)
        raise ProjectError(f"bundle: the estimator gives {found} where this task needs {name}")
    del model.graph.output[:]
    model.graph.output.extend(kept)


def explain(estimator: BaseEstimator, error: Exception) -> str:
    """Say which step has no conversion, and the ways out."""
    strange = [f"{path} ({kind})" for path, kind in steps(estimator) if kind in str(error)]
    return (
        f"bundle: ONNX has no form of {' and '.join(strange) or 'the estimator with its settings'}."
        "\n- Take a step that skl2onnx supports: skl2onnx.supported_converters() lists them."
        "\n- Or compute the column in problem.PREPARE, before the contract."
        "\n- Or register a converter in problem.py with skl2onnx.update_registered_converter."
        f"\nThe converter said: {error}"
    )


def steps(estimator: BaseEstimator, path: str = "") -> list[tuple[str, str]]:
    """Each step of a nested estimator with its path and class name."""
    if isinstance(estimator, str):  # "passthrough" or "drop"
        return []
    parts = [*getattr(estimator, "steps", []), *getattr(estimator, "transformers", [])]
    nested = [step for name, part, *_ in parts for step in steps(part, f"{path}.{name}".strip("."))]
    return nested or [(path or "estimator", type(estimator).__name__)]
