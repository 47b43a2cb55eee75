"""An estimator as ONNX: one float32 matrix in, one matrix of outputs out, all learned steps inside."""

import io
import logging
import pickle
from copy import deepcopy
from types import FunctionType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper
from skl2onnx import convert_sklearn, get_latest_tested_opset_version
from skl2onnx.common.data_types import FloatTensorType
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, VotingClassifier
from sklearn.preprocessing import KBinsDiscretizer

from ..contract import Contract
from ..core.errors import ProjectError
from ..stats.metrics import IS_SEEN, Estimator
from .boosters import BOOSTERS
from .converters import conversion_functions, register_converters, shape_calculators
from .trees import floor_thresholds, unfold_categories

INPUT = "features"
OUTPUTS = {"classification": 1, "ranking": 1, "regression": 0}  # position of the output: labels come first


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
    *_, last = getattr(estimator, "steps", [("", estimator)])
    model = (_export if hasattr(last[1], "to_onnx") else _convert)(estimator, contract)
    if contract.seen_slices:
        _mask_seen(model.graph, contract.seen_slices)
    onnx.checker.check_model(model)
    return model


def _export(estimator: Estimator, contract: Contract) -> onnx.ModelProto:
    """Let an estimator, or the last step of a pipeline, convert itself."""
    n_features = len(contract.feature_names)
    if not hasattr(estimator, "steps"):
        return _export_step(estimator, contract.feature_names)
    steps = estimator[:-1]
    model = _export_step(estimator[-1], tuple(map(str, steps.get_feature_names_out())))
    (opset,) = [imported.version for imported in model.opset_import if imported.domain in ("", "ai.onnx")]
    before = convert_steps(steps, n_features, opset=opset)
    before.ir_version = model.ir_version
    return compose.merge_models(
        compose.add_prefix(before, "before.", rename_inputs=False),
        compose.add_prefix(model, "last."),
        io_map=[(f"before.{before.graph.output[0].name}", f"last.{INPUT}")],
    )


def _export_step(estimator: Estimator, names: tuple[str, ...]) -> onnx.ModelProto:
    """Let an estimator convert itself, and give its input the name that a bundle's has."""
    exported = estimator.to_onnx(names)
    model = onnx.load_from_string(exported) if isinstance(exported, bytes) else exported
    graph = model.graph
    weights = {weight.name for weight in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    values = [*inputs, *graph.output]
    is_float = all(value.type.tensor_type.elem_type == TensorProto.FLOAT for value in values)
    if len(values) != 2 or len(inputs) != 1 or not is_float:
        raise ProjectError(
            f"bundle: {type(estimator).__name__}.to_onnx must return a model with one input, float32 of "
            f"shape (n_rows, {len(names)}), and one output, float32 of shape (n_rows, n_labels); "
            f"it has {', '.join(value.name for value in values)}"
        )
    if inputs[0].name != INPUT:
        graph.node.insert(0, helper.make_node("Identity", [INPUT], [inputs[0].name]))
        inputs[0].name = INPUT
    return model


def _convert(estimator: Estimator, contract: Contract) -> onnx.ModelProto:
    """Convert an estimator with skl2onnx."""
    options = {"zipmap": False} if contract.task != "regression" else None
    try:
        model = convert_steps(estimator, len(contract.feature_names), contract.target, options)
    except Exception as error:  # the converter raises errors of many kinds
        raise ProjectError(_explain(estimator, error)) from None
    _keep_output(model, OUTPUTS[contract.task])
    return model


def convert_steps(
    steps: Estimator,
    n_features: int,
    name: str = "steps",
    options: dict[str, bool] | None = None,
    opset: int | None = None,
) -> onnx.ModelProto:
    """Convert an estimator, or the first steps of a pipeline, with skl2onnx.

    Args:
        steps: Fitted.
        n_features: Number of features.
        name: Name of the graph.
        options: Options of the converters.
        opset: Version of ONNX's operators; None: the latest that the converters know.

    Returns:
        A model with the input `features`, float32 of shape `(n_rows, n_features)`, and all outputs.
    """
    logging.getLogger("skl2onnx").setLevel(logging.ERROR)
    register_converters()
    copied = _prepare(steps)
    return convert_sklearn(
        copied,
        name,
        [(INPUT, FloatTensorType([None, n_features]))],
        target_opset={"": opset or get_latest_tested_opset_version(), "ai.onnx.ml": 3},
        options=options,
        custom_conversion_functions=conversion_functions(exact_scaling=has_trees(copied)),
        custom_shape_calculators=shape_calculators(),
    )


def has_trees(estimator: Estimator) -> bool:
    """Check for decision trees, whose outputs jump where a feature differs in its last digit.

    Args:
        estimator: Fitted.

    Returns:
        Whether it has any.
    """
    boosters = {name for names in BOOSTERS.values() for name in names}
    parts = nested_parts(estimator)
    return any(
        hasattr(part, "tree_") or type(part).__name__ in {"TreePredictor", *boosters} for part in parts
    )


def _prepare(estimator: Estimator) -> Estimator:
    """A copy with the settings that skl2onnx converts.

    Columns have positions instead of names, because ONNX does not take every name.
    """
    copied = deepcopy(estimator)
    for part in nested_parts(copied):
        if isinstance(part, HistGradientBoostingClassifier | HistGradientBoostingRegressor):
            unfold_categories(part)
        if isinstance(part, ColumnTransformer):
            positions = part._transformer_to_input_indices
            part.transformers_ = [(name, step, positions[name]) for name, step, _ in part.transformers_]
        if isinstance(part, KBinsDiscretizer) and part.encode == "onehot":
            part.encode = "onehot-dense"
        if isinstance(part, VotingClassifier):
            part.flatten_transform = False
        if "feature_names_in_" in getattr(part, "__dict__", {}):
            del part.feature_names_in_
    for part in nested_parts(copied):  # last, because unfolding makes thresholds
        if type(part).__name__ == "TreePredictor":
            floor_thresholds(part)
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


def _keep_output(model: onnx.ModelProto, position: int) -> None:
    """Keep one output: the matrix of probabilities or values."""
    output = model.graph.output[position]
    del model.graph.output[:]
    model.graph.output.append(output)


def _mask_seen(graph: onnx.GraphProto, seen: tuple[slice, ...]) -> None:
    """Set the outputs of the items that the user has seen to 0, as `stats.metrics.mask_seen` does."""
    (output,) = graph.output
    constants = {
        "axis": np.array([1]),
        "limit": np.array(IS_SEEN, np.float32),
        "zero": np.zeros(1, np.float32),
    }
    scores = output.name
    for index, part in enumerate(seen):
        bounds = {f"start{index}": np.array([part.start]), f"stop{index}": np.array([part.stop])}
        constants |= bounds
        names = [f"seen.{name}" for name in (*bounds, "axis")]
        mask, items, masked = (f"seen.{name}{index}" for name in ("mask", "items", "outputs"))
        graph.node.extend(
            [
                helper.make_node("Slice", [INPUT, *names], [items]),
                helper.make_node("Greater", [items, "seen.limit"], [mask]),
                helper.make_node("Where", [mask, "seen.zero", scores], [masked]),
            ]
        )
        scores = masked
    graph.initializer.extend(numpy_helper.from_array(array, f"seen.{n}") for n, array in constants.items())
    output.name = scores


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
