"""An estimator as ONNX: one float32 matrix in, one matrix of outputs out, all learned steps inside."""

import io
import logging
import pickle
from copy import deepcopy
from types import FunctionType

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer

from ..contract import Contract
from ..core.errors import ProjectError

INPUT = "features"
OUTPUTS = {"classification": "probabilities", "ranking": "probabilities", "regression": "variable"}


def convert_estimator(estimator: BaseEstimator, contract: Contract) -> onnx.ModelProto:
    """Convert a fitted scikit-learn estimator.

    Args:
        estimator: Fitted on the features of `contract`.
        contract: Names features, target and task.

    Returns:
        A model with the input `features`, float32 of shape `(n_rows, n_features)`, and one output, float32 of
        shape `(n_rows, n_labels)`.

    Raises:
        ProjectError: A step cannot be converted; the message names it and the alternatives.
    """
    logging.getLogger("skl2onnx").setLevel(logging.ERROR)
    by_name = any(isinstance(part, ColumnTransformer) for part in estimator.get_params().values())
    names = contract.feature_names
    widths = dict.fromkeys(names, 1) if by_name else {INPUT: len(names)}
    inputs = [(name, FloatTensorType([None, width])) for name, width in widths.items()]
    options = {"zipmap": False} if contract.task != "regression" else None
    try:
        model = convert_sklearn(_floor_thresholds(estimator), contract.target, inputs, options=options)
    except Exception as error:  # the converter raises errors of many kinds
        raise ProjectError(_explain(estimator, error)) from None
    if by_name:
        _join_inputs(model, names)
    _keep_output(model, OUTPUTS[contract.task])
    onnx.checker.check_model(model)
    return model


def _floor_thresholds(estimator: BaseEstimator) -> BaseEstimator:
    """A copy whose HistGradientBoosting trees compare float32 features in float32 exactly as before.

    Their thresholds are float64 and lie between the values of training. The converter rounds them, half of
    them up: a feature between threshold and rounded threshold would then go the other way.
    """
    copied = deepcopy(estimator)
    for part in nested_parts(copied):
        if type(part).__name__ == "TreePredictor":
            part.nodes["num_threshold"] = float32_below(part.nodes["num_threshold"])
    return copied


def float32_below(numbers: NDArray[np.float64]) -> NDArray[np.float32]:
    """Round down to float32.

    Args:
        numbers: Any shape.

    Returns:
        The largest float32 that is not above each number, in the same shape.
    """
    with np.errstate(over="ignore"):  # beyond float32, the nearest is infinite
        nearest = numbers.astype(np.float32)
    return np.where(nearest > numbers, np.nextafter(nearest, np.float32(-np.inf)), nearest)


class _Visitor(pickle.Pickler):
    """A pickler that collects the objects it comes across."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO())
        self.parts: list = []

    def persistent_id(self, part: object) -> None:
        """Record an object; `dump` calls this for each one.

        Args:
            part: An object inside of the estimator.
        """
        if hasattr(part, "__dict__") and not isinstance(part, (type, FunctionType)):
            self.parts.append(part)


def nested_parts(estimator: BaseEstimator) -> list:
    """List an estimator and all objects inside: steps, fitted copies, trees.

    Args:
        estimator: Anything that can be pickled.

    Returns:
        All objects with attributes that make up the estimator.
    """
    visitor = _Visitor()
    visitor.dump(estimator)
    return visitor.parts


def _join_inputs(model: onnx.ModelProto, names: tuple[str, ...]) -> None:
    """Feed the named columns from one matrix, which is far cheaper to pass than many inputs."""
    graph = model.graph
    for position, name in enumerate(names):
        index = f"{name}@position"
        graph.initializer.append(numpy_helper.from_array(np.array([position], np.int64), index))
        graph.node.insert(0, helper.make_node("Gather", [INPUT, index], [name], axis=1))
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [None, len(names)]))


def _keep_output(model: onnx.ModelProto, name: str) -> None:
    """Keep one output: the matrix of probabilities or values."""
    outputs = [output for output in model.graph.output if output.name == name]
    if not outputs:
        names = ", ".join(output.name for output in model.graph.output)
        raise ProjectError(f"bundle: the estimator's outputs are {names}; this task needs {name}")
    del model.graph.output[:]
    model.graph.output.extend(outputs)


def _explain(estimator: BaseEstimator, error: Exception) -> str:
    """Which step cannot be converted, and the alternatives."""
    parts = {"estimator": estimator, **estimator.get_params()}
    kinds = {name: type(part).__name__ for name, part in parts.items() if isinstance(part, BaseEstimator)}
    steps = [f"{name.replace('__', '.')} ({kind})" for name, kind in kinds.items() if kind in str(error)]
    return (
        f"bundle: ONNX has no form of {' and '.join(steps) or 'the estimator with its settings'}."
        "\n- Use a step that skl2onnx supports: skl2onnx.supported_converters() lists them."
        "\n- Or compute the column in problem.PREPARE, before the contract."
        "\n- Or register a converter in problem.py with skl2onnx.update_registered_converter."
        f"\nThe converter's error: {error}"
    )
