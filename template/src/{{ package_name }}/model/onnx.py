"""An estimator as ONNX: one float32 matrix in, one matrix of outputs out, all learned steps inside."""

import io
import logging
import pickle
from copy import deepcopy
from types import FunctionType
from typing import Any

import onnx
from onnx import TensorProto, helper
from skl2onnx import convert_sklearn, get_latest_tested_opset_version
from skl2onnx.common.data_types import FloatTensorType
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer

from ..contract import Contract
from ..core.errors import ProjectError
from ..stats.metrics import Estimator
from .converters import conversion_functions, floor_float32, register_converters

INPUT = "features"
OUTPUTS = {"classification": "probabilities", "ranking": "probabilities", "regression": "variable"}
OPSETS = {"": get_latest_tested_opset_version(), "ai.onnx.ml": 3}  # the latest that all converters know


def convert_estimator(estimator: Estimator, contract: Contract) -> onnx.ModelProto:
    """Convert a fitted estimator.

    Args:
        estimator: Fitted on the features of `contract`: scikit-learn's, a boosting library's, or one with a
            method `to_onnx(feature_names)` that returns an `onnx.ModelProto`, or its bytes.
        contract: Names features, target and task.

    Returns:
        A model with the input `features`, float32 of shape `(n_rows, n_features)`, and one output, float32 of
        shape `(n_rows, n_labels)`.

    Raises:
        ProjectError: A step cannot be converted; the message names it and the alternatives.
    """
    model = (_export if hasattr(estimator, "to_onnx") else _convert)(estimator, contract)
    onnx.checker.check_model(model)
    return model


def _export(estimator: Estimator, contract: Contract) -> onnx.ModelProto:
    """Let an estimator convert itself, and give its input the name that a bundle's has."""
    exported = estimator.to_onnx(contract.feature_names)
    model = onnx.load_from_string(exported) if isinstance(exported, bytes) else exported
    graph, kind = model.graph, type(estimator).__name__
    weights = {weight.name for weight in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    values = [*inputs, *graph.output]
    is_float = all(value.type.tensor_type.elem_type == TensorProto.FLOAT for value in values)
    if len(values) != 2 or len(inputs) != 1 or not is_float:
        raise ProjectError(
            f"bundle: {kind}.to_onnx must return a model with one input, float32 of shape (n_rows, "
            f"{len(contract.feature_names)}), and one output, float32 of shape (n_rows, n_labels); "
            f"it has {', '.join(value.name for value in values)}"
        )
    if inputs[0].name != INPUT:
        graph.node.insert(0, helper.make_node("Identity", [INPUT], [inputs[0].name]))
        inputs[0].name = INPUT
    return model


def _convert(estimator: Estimator, contract: Contract) -> onnx.ModelProto:
    """Convert an estimator with skl2onnx."""
    logging.getLogger("skl2onnx").setLevel(logging.ERROR)
    register_converters()
    inputs = [(INPUT, FloatTensorType([None, len(contract.feature_names)]))]
    options = {"zipmap": False} if contract.task != "regression" else None
    prepared = _prepare(estimator)
    try:
        model = convert_sklearn(
            prepared,
            contract.target,
            inputs,
            target_opset=OPSETS,
            options=options,
            custom_conversion_functions=conversion_functions(),
        )
    except Exception as error:  # the converter raises errors of many kinds
        raise ProjectError(_explain(estimator, error)) from None
    _keep_output(model, OUTPUTS[contract.task])
    return model


def _prepare(estimator: Estimator) -> Estimator:
    """A copy that skl2onnx converts exactly.

    - Columns have positions instead of names, because ONNX does not take every name.
    - HistGradientBoosting compares float32 features in float32 exactly as before. Its thresholds are float64
      and lie between the values of training. The converter rounds them, half of them up: a feature between
      threshold and rounded threshold would then go the other way.
    """
    copied = deepcopy(estimator)
    for part in nested_parts(copied):
        if type(part).__name__ == "TreePredictor":
            part.nodes["num_threshold"] = floor_float32(part.nodes["num_threshold"])
        if isinstance(part, ColumnTransformer):
            positions = part._transformer_to_input_indices
            part.transformers_ = [(name, step, positions[name]) for name, step, _ in part.transformers_]
        if "feature_names_in_" in getattr(part, "__dict__", {}):
            del part.feature_names_in_
    return copied


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


def nested_parts(estimator: Any) -> list:
    """List an estimator and all objects inside: steps, fitted copies, trees.

    Args:
        estimator: Anything that can be pickled.

    Returns:
        All objects with attributes that make up the estimator.
    """
    visitor = _Visitor()
    visitor.dump(estimator)
    return visitor.parts


def _keep_output(model: onnx.ModelProto, name: str) -> None:
    """Keep one output: the matrix of probabilities or values."""
    outputs = [output for output in model.graph.output if output.name == name]
    if not outputs:
        names = ", ".join(output.name for output in model.graph.output)
        raise ProjectError(f"bundle: the estimator's outputs are {names}; this task needs {name}")
    del model.graph.output[:]
    model.graph.output.extend(outputs)


def _explain(estimator: Estimator, error: Exception) -> str:
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
