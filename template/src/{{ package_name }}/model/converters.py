"""Converters that skl2onnx lacks: boosting libraries, and settings of scikit-learn's own estimators."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from skl2onnx import update_registered_converter
from skl2onnx.common._registration import get_converter
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType
from skl2onnx.common.shape_calculator import (
    calculate_linear_classifier_output_shapes,
    calculate_linear_regressor_output_shapes,
)
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.preprocessing import FunctionTransformer
from sklearn.tree import (
    DecisionTreeClassifier,
    DecisionTreeRegressor,
    ExtraTreeClassifier,
    ExtraTreeRegressor,
)

Converter = Callable[[Any, Any, Any], None]  # skl2onnx's scope, operator and container

TREES = (
    DecisionTreeClassifier,
    DecisionTreeRegressor,
    ExtraTreeClassifier,
    ExtraTreeRegressor,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
BOOSTERS = {
    "lightgbm": ("LGBMClassifier", "LGBMRegressor"),
    "xgboost": ("XGBClassifier", "XGBRegressor", "XGBRFClassifier", "XGBRFRegressor"),
    "catboost": ("CatBoostClassifier", "CatBoostRegressor"),
}
"""Estimators that become ONNX, by the module that has them."""

FUNCTIONS: dict[Any, tuple[tuple[str, float | None], ...]] = {
    None: (),
    np.abs: (("Abs", None),),
    np.ceil: (("Ceil", None),),
    np.cos: (("Cos", None),),
    np.exp: (("Exp", None),),
    np.expm1: (("Exp", None), ("Sub", 1.0)),
    np.floor: (("Floor", None),),
    np.log: (("Log", None),),
    np.log10: (("Log", None), ("Div", np.log(10))),
    np.log1p: (("Add", 1.0), ("Log", None)),
    np.log2: (("Log", None), ("Div", np.log(2))),
    np.negative: (("Neg", None),),
    np.reciprocal: (("Reciprocal", None),),
    np.sin: (("Sin", None),),
    np.sqrt: (("Sqrt", None),),
    np.square: (("Pow", 2.0),),
    np.tanh: (("Tanh", None),),
}
"""Functions of numpy as ONNX operators, one after the other, each with its second operand."""


def register_converters() -> None:
    """Tell skl2onnx how to convert the boosting libraries that are imported, and `TransformedTargetRegressor`.

    A converter that `problem.py` has registered stays.
    """
    from skl2onnx._supported_operators import sklearn_operator_name_map as registered

    for module, names in BOOSTERS.items():
        for name in names:
            kind = getattr(sys.modules.get(module), name, None)
            if kind is not None and kind not in registered:
                _register(kind, _BOOSTER_CONVERTERS[module])
    if TransformedTargetRegressor not in registered:
        _register(TransformedTargetRegressor, _convert_transformed_target)


def _register(kind: type, convert: Converter) -> None:
    """Register a converter of a class of estimators."""
    if "Classifier" in kind.__name__:
        options = {"zipmap": [True, False, "columns"], "nocl": [True, False], "raw_scores": [True, False]}
        shapes, parser = calculate_linear_classifier_output_shapes, _parse_classifier
    else:
        options, shapes, parser = None, calculate_linear_regressor_output_shapes, None
    update_registered_converter(kind, kind.__name__, shapes, convert, parser=parser, options=options)


def _parse_classifier(scope: Any, model: Any, inputs: Any, custom_parsers: Any = None) -> Any:
    """Declare labels and probabilities: skl2onnx does so for scikit-learn's classifiers only."""
    operator = scope.declare_local_operator(type(model).__name__, model)
    operator.inputs = inputs
    operator.outputs.append(scope.declare_local_variable("label", Int64TensorType()))
    operator.outputs.append(scope.declare_local_variable("probabilities", FloatTensorType()))
    return operator.outputs


def conversion_functions() -> dict[type, Converter]:
    """List converters that take the place of skl2onnx's.

    Returns:
        Converters by class of the estimator, for `convert_sklearn(custom_conversion_functions=…)`.
    """
    replaced: dict[type, Converter] = dict.fromkeys(TREES, _convert_trees)
    for kind in (HistGradientBoostingClassifier, HistGradientBoostingRegressor):
        replaced[kind] = _convert_boosting
    return replaced | {FunctionTransformer: _convert_function}


def _run_registered(scope: Any, operator: Any, container: Any) -> list[onnx.NodeProto]:
    """Run skl2onnx's own converter; return the nodes that it added."""
    count = len(container.nodes)
    get_converter(operator.type)(scope, operator, container)
    return container.nodes[count:]


def _attribute(node: onnx.NodeProto, name: str) -> onnx.AttributeProto:
    """An attribute of a node by its name."""
    return next(attribute for attribute in node.attribute if attribute.name == name)


def _convert_trees(scope: Any, operator: Any, container: Any) -> None:
    """Trees, with the way that a missing value takes: skl2onnx sends all to the right."""
    model = operator.raw_operator
    trees = [tree.tree_ for tree in np.ravel(getattr(model, "estimators_", [model]))]
    missing_go_left = np.concatenate([tree.missing_go_to_left for tree in trees])
    for node in _run_registered(scope, operator, container):
        if node.op_type.startswith("TreeEnsemble"):
            _attribute(node, "nodes_missing_value_tracks_true").ints[:] = missing_go_left.tolist()


def _convert_boosting(scope: Any, operator: Any, container: Any) -> None:
    """HistGradientBoosting, with the exponential of a loss that has one."""
    nodes = _run_registered(scope, operator, container)
    if operator.raw_operator.loss in ("poisson", "gamma"):
        (output,) = operator.output_full_names
        raw = scope.get_unique_variable_name("raw")
        (node,) = [node for node in nodes if output in node.output]
        node.output[:] = [raw]
        container.add_node("Exp", [raw], [output], name=scope.get_unique_operator_name("Exp"))


def _apply(scope: Any, container: Any, steps: Any, source: str, target: str) -> None:
    """Add the operators of one of `FUNCTIONS` between two variables."""
    for op_type, operand in (*steps, ("Identity", None)):
        inputs = [source]
        if operand is not None:
            inputs.append(scope.get_unique_variable_name("operand"))
            container.add_initializer(inputs[1], TensorProto.FLOAT, [], [operand])
        source = target if op_type == "Identity" else scope.get_unique_variable_name("applied")
        container.add_node(op_type, inputs, [source], name=scope.get_unique_operator_name(op_type))


def _convert_function(scope: Any, operator: Any, container: Any) -> None:
    """A function of numpy that works on each number alone."""
    joined = scope.get_unique_variable_name("joined")
    container.add_node(
        "Concat",
        operator.input_full_names,
        [joined],
        axis=1,
        name=scope.get_unique_operator_name("Concat"),
    )
    steps = FUNCTIONS[operator.raw_operator.func]
    _apply(scope, container, steps, joined, operator.outputs[0].full_name)


def _convert_transformed_target(scope: Any, operator: Any, container: Any) -> None:
    """A regressor, then the inverse of the target's transformation."""
    from skl2onnx._supported_operators import sklearn_operator_name_map as registered

    model = operator.raw_operator
    inner = scope.declare_local_operator(registered[type(model.regressor_)], model.regressor_)
    inner.inputs = operator.inputs
    output = scope.declare_local_variable("transformed", operator.outputs[0].type.__class__())
    inner.outputs.append(output)
    _apply(scope, container, inverse_steps(model), output.full_name, operator.outputs[0].full_name)


def inverse_steps(model: TransformedTargetRegressor) -> tuple[tuple[str, float | None], ...]:
    """Write the inverse of a target's transformation as ONNX operators.

    Args:
        model: Fitted.

    Returns:
        Operators, each with its second operand, as in `FUNCTIONS`.

    Raises:
        NotImplementedError: The inverse is neither a scaling nor one of `FUNCTIONS`.
    """
    if model.transformer is None:
        return FUNCTIONS[model.inverse_func]
    zero, one, two = model.transformer_.inverse_transform([[0.0], [1.0], [2.0]]).ravel().tolist()
    if not np.isclose(two - one, one - zero):
        raise NotImplementedError("the transformer of TransformedTargetRegressor is no scaling")
    return ("Mul", one - zero), ("Add", zero)


def floor_float32(numbers: NDArray[np.float64]) -> NDArray[np.float32]:
    """Round down to float32.

    Args:
        numbers: Any shape.

    Returns:
        The largest float32 that is not above each number, in the same shape.
    """
    with np.errstate(over="ignore"):  # beyond float32, the nearest is infinite
        nearest = numbers.astype(np.float32)
    return np.where(nearest > numbers, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def _convert_lightgbm(scope: Any, operator: Any, container: Any) -> None:
    """LightGBM, whose thresholds are rounded down: see `model.onnx`."""
    from lightgbm import Booster
    from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm

    def floor(line: re.Match[str]) -> str:
        thresholds = floor_float32(np.array(line[1].split(), np.float64))
        return "threshold=" + " ".join(f"{threshold:.17g}" for threshold in thresholds.tolist())

    model = operator.raw_operator
    text = re.sub(r"^threshold=(.*)$", floor, model.booster_.model_to_string(), flags=re.MULTILINE)
    model._Booster = Booster(model_str=re.sub(r"^tree_sizes=.*\n", "", text, flags=re.MULTILINE))
    convert_lightgbm(scope, operator, container)


def _convert_xgboost(scope: Any, operator: Any, container: Any) -> None:
    """XGBoost, whose features must not have names."""
    from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost

    operator.raw_operator.get_booster().feature_names = None
    convert_xgboost(scope, operator, container)


def _convert_catboost(scope: Any, operator: Any, container: Any) -> None:
    """CatBoost, which writes ONNX itself."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        operator.raw_operator.save_model(str(path), format="onnx")
        tree = onnx.load(path).graph.node[0]
    outputs = operator.output_full_names
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in tree.attribute}
    container.add_node(
        tree.op_type, operator.input_full_names, outputs, op_domain="ai.onnx.ml", op_version=1, **attributes
    )


_BOOSTER_CONVERTERS = {
    "lightgbm": _convert_lightgbm,
    "xgboost": _convert_xgboost,
    "catboost": _convert_catboost,
}
