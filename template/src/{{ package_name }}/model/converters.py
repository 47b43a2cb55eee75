"""Converters of scikit-learn's estimators with settings that skl2onnx does not convert, or not exactly."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
from skl2onnx import update_registered_converter
from skl2onnx._parse import _parse_sklearn, sklearn_parsers_map, update_registered_parser
from skl2onnx._supported_operators import sklearn_operator_name_map as registered
from skl2onnx.common._registration import get_converter, get_shape_calculator
from skl2onnx.common.shape_calculator import calculate_linear_regressor_output_shapes
from sklearn.base import is_classifier
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_selection import SelectorMixin
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)
from sklearn.tree import (
    DecisionTreeClassifier,
    DecisionTreeRegressor,
    ExtraTreeClassifier,
    ExtraTreeRegressor,
)

from .boosters import register_boosters

Converter = Callable[[Any, Any, Any], None]  # skl2onnx's scope, operator and container
Operators = tuple[tuple[str, float | None], ...]

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
INEXACT = frozenset({"Normalizer", "PowerTransformer", "QuantileTransformer"})
"""Steps whose results differ in the last digits of float32, so that trees may decide otherwise."""

SCALERS: dict[type, tuple[tuple[str, str], ...]] = {
    StandardScaler: (("Sub", "mean_"), ("Div", "scale_")),
    RobustScaler: (("Sub", "center_"), ("Div", "scale_")),
    MinMaxScaler: (("Mul", "scale_"), ("Add", "min_")),
    MaxAbsScaler: (("Div", "scale_"),),
}
"""Scalers as ONNX operators, one after the other, each with the attribute that is its second operand."""

FUNCTIONS: dict[Any, Operators] = {
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
    """Tell skl2onnx of classes that it does not know, and of columns behind other steps.

    A converter that `problem.py` has registered stays.
    """
    register_boosters()
    if TransformedTargetRegressor not in registered:
        update_registered_converter(
            TransformedTargetRegressor,
            "TransformedTargetRegressor",
            calculate_linear_regressor_output_shapes,
            _convert_transformed_target,
        )
    if sklearn_parsers_map[ColumnTransformer] is not _parse_columns:
        _parsers[ColumnTransformer] = sklearn_parsers_map[ColumnTransformer]
        update_registered_parser(ColumnTransformer, _parse_columns)


def can_convert(estimator: Any) -> bool:
    """Check whether a class has a converter.

    Args:
        estimator: Fitted or not.

    Returns:
        Whether skl2onnx, this module, `problem.py` or the class itself has one.
    """
    return type(estimator) in registered or hasattr(estimator, "onnx_converter")


def keeps_raw_scores(estimator: Any) -> bool:
    """Check whether ONNX has the scores that calibration starts from.

    Args:
        estimator: The classifier inside of `CalibratedClassifierCV`, not fitted; None for its default.

    Returns:
        False if scikit-learn takes scores of `decision_function`, and ONNX only has probabilities.
    """
    if isinstance(estimator, Pipeline):
        return keeps_raw_scores(estimator.steps[-1][1])
    if not hasattr(estimator, "decision_function") or type(estimator) not in registered:
        return True
    return "raw_scores" in (get_converter(registered[type(estimator)]).get_allowed_options() or {})


def conversion_functions(exact_scaling: bool) -> dict[type, Converter]:
    """List converters that take the place of skl2onnx's.

    Args:
        exact_scaling: Scale as scikit-learn does, to the last digit: trees follow.

    Returns:
        Converters by class of the estimator, for `convert_sklearn(custom_conversion_functions=…)`.
    """
    encoders = (OneHotEncoder, OrdinalEncoder, TargetEncoder)
    replaced: dict[type, Converter] = dict.fromkeys(TREES, _convert_trees)
    replaced |= dict.fromkeys(encoders, _convert_encoder)
    replaced |= {kind: _convert_selection for kind in registered if issubclass(kind, SelectorMixin)}
    replaced |= dict.fromkeys(SCALERS, _convert_scaler) if exact_scaling else {}
    return replaced | {
        FunctionTransformer: _convert_function,
        HistGradientBoostingRegressor: _convert_boosting,
        LinearDiscriminantAnalysis: _convert_discriminant,
        Pipeline: _convert_pipeline,
        SimpleImputer: _convert_imputer,
    }


def shape_calculators() -> dict[type, Callable[[Any], None]]:
    """List functions that take the place of skl2onnx's.

    Returns:
        Functions that set an output's type, for `convert_sklearn(custom_shape_calculators=…)`.
    """
    return {FunctionTransformer: _keep_type, SimpleImputer: _count_indicators}


def _keep_type(operator: Any) -> None:
    """Give the output the type of the input, with any number of columns."""
    operator.outputs[0].type = type(operator.inputs[0].type)([None, None])


def _count_indicators(operator: Any) -> None:
    """Count the columns that say what was missing."""
    get_shape_calculator(operator.type)(operator)
    if operator.raw_operator.indicator_ is not None:
        operator.outputs[0].type.shape = [None, len(operator.raw_operator.get_feature_names_out())]


_parsers: dict[type, Callable[..., Any]] = {}  # skl2onnx's own


def _parse_columns(scope: Any, model: Any, inputs: Any, custom_parsers: Any = None) -> Any:
    """Tell skl2onnx how many columns the steps before make: it takes columns by position only then."""
    if len(inputs) == 1:
        inputs[0].type.shape = [None, model.n_features_in_]
    return _parsers[ColumnTransformer](scope, model, inputs, custom_parsers)


class _Graph:
    """Adds nodes to skl2onnx's container."""

    def __init__(self, scope: Any, container: Any) -> None:
        self._scope, self._container = scope, container

    def constant(self, values: Any, kind: int = TensorProto.FLOAT) -> str:
        """Add a constant; return its name."""
        name, array = self._scope.get_unique_variable_name("constant"), np.asarray(values)
        self._container.add_initializer(name, kind, list(array.shape), array.ravel().tolist())
        return name

    def add(self, op_type: str, *inputs: str, target: str | None = None, **attributes: Any) -> str:
        """Add a node; return the name of its output."""
        target = target or self._scope.get_unique_variable_name(op_type)
        name = self._scope.get_unique_operator_name(op_type)
        self._container.add_node(op_type, list(inputs), [target], name=name, **attributes)
        return target

    def joined(self, operator: Any) -> str:
        """Put an operator's inputs side by side; return their name."""
        return self.add("Concat", *(variable.full_name for variable in operator.inputs), axis=1)

    def apply(self, operators: Operators, source: str, target: str) -> None:
        """Add the operators of one of `FUNCTIONS` between two variables."""
        for op_type, operand in operators:
            operands = [] if operand is None else [self.constant(operand)]
            source = self.add(op_type, source, *operands)
        self.add("Identity", source, target=target)


def _run_registered(scope: Any, operator: Any, container: Any) -> list[Any]:
    """Run skl2onnx's own converter; return the nodes that it added."""
    count = len(container.nodes)
    get_converter(operator.type)(scope, operator, container)
    return container.nodes[count:]


def _run_before(scope: Any, operator: Any, container: Any) -> str:
    """Run skl2onnx's own converter; return the name of its output, which is not yet the operator's."""
    output = SimpleNamespace(full_name=scope.get_unique_variable_name("inner"), type=operator.outputs[0].type)
    inner = SimpleNamespace(
        type=operator.type,
        raw_operator=operator.raw_operator,
        inputs=operator.inputs,
        input_full_names=operator.input_full_names,
        outputs=[output],
        output_full_names=[output.full_name],
    )
    _run_registered(scope, inner, container)
    return output.full_name


def _convert_trees(scope: Any, operator: Any, container: Any) -> None:
    """Trees, with the way that a missing value takes: skl2onnx sends all to the right."""
    model = operator.raw_operator
    trees = [tree.tree_ for tree in np.ravel(getattr(model, "estimators_", [model]))]
    missing_go_left = np.concatenate([tree.missing_go_to_left for tree in trees])
    for node in _run_registered(scope, operator, container):
        for attribute in node.attribute:
            if attribute.name == "nodes_missing_value_tracks_true":
                attribute.ints[:] = missing_go_left.tolist()


def _convert_boosting(scope: Any, operator: Any, container: Any) -> None:
    """HistGradientBoostingRegressor, with the exponential of a loss that has one."""
    if operator.raw_operator.loss not in ("poisson", "gamma"):
        _run_registered(scope, operator, container)
        return
    raw = _run_before(scope, operator, container)
    _Graph(scope, container).add("Exp", raw, target=operator.outputs[0].full_name)


def _convert_discriminant(scope: Any, operator: Any, container: Any) -> None:
    """LinearDiscriminantAnalysis of two labels: skl2onnx takes twice the score."""
    model, graph = operator.raw_operator, _Graph(scope, container)
    wants_scores = container.get_options(model, {"raw_scores": False})["raw_scores"]
    if len(model.classes_) > 2 or wants_scores:
        _run_registered(scope, operator, container)
        return
    weights, bias = graph.constant(model.coef_.T), graph.constant(model.intercept_)
    second = graph.add("Sigmoid", graph.add("Gemm", graph.joined(operator), weights, bias))
    first = graph.add("Sub", graph.constant([1.0]), second)
    labels, probabilities = (variable.full_name for variable in operator.outputs)
    graph.add("Concat", first, second, target=probabilities, axis=1)
    best = graph.add("ArgMax", probabilities, axis=1, keepdims=0)
    graph.add("Gather", graph.constant(model.classes_, TensorProto.INT64), best, target=labels)


def _convert_pipeline(scope: Any, operator: Any, container: Any) -> None:
    """A pipeline inside of another estimator: calibration asks its last step for raw scores."""
    steps, inputs = operator.raw_operator.steps, operator.inputs
    wants_scores = container.get_options(operator.raw_operator, {"raw_scores": False})["raw_scores"]
    for name, step in steps:
        options = {"zipmap": False} if is_classifier(step) and container.has_options(step, "zipmap") else {}
        if name == steps[-1][0] and container.has_options(step, "raw_scores"):
            options["raw_scores"] = wants_scores
        if options:
            scope.add_options(id(step), options)
            container.add_options(id(step), options)
        inputs = _parse_sklearn(scope, step, inputs)
    graph = _Graph(scope, container)
    for source, target in zip(inputs, operator.outputs, strict=True):
        graph.add("Identity", source.full_name, target=target.full_name)


def _convert_scaler(scope: Any, operator: Any, container: Any) -> None:
    """A scaler as scikit-learn computes it, rounded to float32 after each step."""
    model, graph = operator.raw_operator, _Graph(scope, container)
    if getattr(model, "clip", False):
        _run_registered(scope, operator, container)
        return
    kind = TensorProto.FLOAT if scales_in_float32(model) else TensorProto.DOUBLE
    source = graph.joined(operator)
    for op_type, operand in _scaling(model):
        result = graph.add(op_type, graph.add("Cast", source, to=kind), graph.constant(operand, kind))
        source = graph.add("Cast", result, to=TensorProto.FLOAT)
    graph.add("Identity", source, target=operator.outputs[0].full_name)


def _scaling(model: Any) -> list[tuple[str, NDArray[np.floating]]]:
    """The operators of a scaler and their second operands."""
    steps = [(op_type, getattr(model, attribute)) for op_type, attribute in SCALERS[type(model)]]
    if not getattr(model, "with_mean", True):
        steps = steps[1:]  # the mean is known even so
    return [(op_type, operand) for op_type, operand in steps if operand is not None]


def scales_in_float32(model: Any) -> bool:
    """Try in which precision a scaler computes: it depends on the version of scikit-learn.

    Args:
        model: Fitted, one of `SCALERS`.

    Returns:
        True for float32, False for float64 that is rounded to float32 after each step.
    """
    operations = {"Sub": np.subtract, "Div": np.divide, "Mul": np.multiply, "Add": np.add}
    numbers = np.linspace(-30, 70, 1000, dtype=np.float32)[:, None].repeat(model.n_features_in_, axis=1)
    scaled = numbers
    for op_type, operand in _scaling(model):
        scaled = operations[op_type](scaled, np.asarray(operand, np.float32))
    return np.array_equal(scaled, np.asarray(model.transform(numbers)))


def _convert_selection(scope: Any, operator: Any, container: Any) -> None:
    """A choice of features, also of the first one alone, which skl2onnx takes for none."""
    chosen = operator.raw_operator.get_support(indices=True)
    if chosen.any():
        _run_registered(scope, operator, container)
        return
    graph = _Graph(scope, container)
    positions = graph.constant(chosen, TensorProto.INT64)
    graph.add("Gather", graph.joined(operator), positions, target=operator.outputs[0].full_name, axis=1)


def _convert_imputer(scope: Any, operator: Any, container: Any) -> None:
    """An imputer, with the columns that say what was missing."""
    if operator.raw_operator.indicator_ is None:
        _run_registered(scope, operator, container)
        return
    graph, filled = _Graph(scope, container), _run_before(scope, operator, container)
    positions = graph.constant(operator.raw_operator.indicator_.features_, TensorProto.INT64)
    chosen = graph.add("Gather", graph.joined(operator), positions, axis=1)
    missing = graph.add("Cast", graph.add("IsNaN", chosen), to=TensorProto.FLOAT)
    graph.add("Concat", filled, missing, target=operator.outputs[0].full_name, axis=1)


def _convert_encoder(scope: Any, operator: Any, container: Any) -> None:
    """An encoder of categories; by a table of what it makes of each, where skl2onnx has no form of it."""
    encoder, graph = operator.raw_operator, _Graph(scope, container)
    if not _needs_table(encoder):
        _run_registered(scope, operator, container)
        return
    joined, encoded = graph.joined(operator), []
    for position, (categories, table) in enumerate(encoding_tables(encoder)):
        column = graph.add("Gather", joined, graph.constant([position], TensorProto.INT64), axis=1)
        matches = graph.add("Equal", column, graph.constant([categories]))
        is_nan = graph.constant([np.isnan(categories)], TensorProto.BOOL)
        matches = graph.add("Or", matches, graph.add("And", graph.add("IsNaN", column), is_nan))
        rows = graph.constant([np.arange(1, len(categories) + 1)])  # row 0 is for unknown categories
        numbered = graph.add("Mul", graph.add("Cast", matches, to=TensorProto.FLOAT), rows)
        axis = graph.constant([1], TensorProto.INT64)
        row = graph.add("Cast", graph.add("ReduceMax", numbered, axis, keepdims=0), to=TensorProto.INT64)
        encoded.append(graph.add("Gather", graph.constant(table), row, axis=0))
    graph.add("Concat", *encoded, target=operator.outputs[0].full_name, axis=1)


def _needs_table(encoder: Any) -> bool:
    """Whether skl2onnx has no form of an encoder: missing values, rare categories, several classes."""
    has_missing = any(np.isnan(categories.astype(float)).any() for categories in encoder.categories_)
    many_classes = getattr(encoder, "target_type_", "") == "multiclass"
    return has_missing or many_classes or getattr(encoder, "_infrequent_enabled", False)


def encoding_tables(encoder: Any) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Tabulate what an encoder makes of each category.

    Args:
        encoder: Fitted on numbers; each column is encoded by itself.

    Returns:
        For each column its categories, and a table of shape `(1 + n_categories, n_encoded)`: first the row of
        an unknown category.
    """
    all_categories = [categories.astype(np.float32) for categories in encoder.categories_]
    first, tables, start = np.array([categories[0] for categories in all_categories]), [], 0
    widths = getattr(encoder, "_n_features_outs", None)
    for position, categories in enumerate(all_categories):
        rows = np.tile(first, (len(categories) + 1, 1))
        rows[1:, position] = categories
        if getattr(encoder, "handle_unknown", "ignore") != "error":
            rows[0, position] = np.nanmax([*categories, 0]) + 1
        table = encoder.transform(rows)
        table = table.toarray() if hasattr(table, "toarray") else np.asarray(table)
        width = widths[position] if widths else table.shape[1] // len(all_categories)
        tables.append((categories, table[:, start : start + width].astype(np.float32)))
        start += width
    return tables


def _convert_function(scope: Any, operator: Any, container: Any) -> None:
    """A function of numpy that works on each number alone."""
    graph, function = _Graph(scope, container), operator.raw_operator.func
    if function not in FUNCTIONS:
        raise NotImplementedError(f"FunctionTransformer with {function}")
    graph.apply(FUNCTIONS[function], graph.joined(operator), operator.outputs[0].full_name)


def _convert_transformed_target(scope: Any, operator: Any, container: Any) -> None:
    """A regressor, then the inverse of the target's transformation."""
    model = operator.raw_operator
    inner = scope.declare_local_operator(registered[type(model.regressor_)], model.regressor_)
    inner.inputs = operator.inputs
    output = scope.declare_local_variable("transformed", type(operator.outputs[0].type)())
    inner.outputs.append(output)
    _Graph(scope, container).apply(inverse_operators(model), output.full_name, operator.outputs[0].full_name)


def inverse_operators(model: TransformedTargetRegressor) -> Operators:
    """Write the inverse of a target's transformation as ONNX operators.

    Args:
        model: Fitted.

    Returns:
        Operators, each with its second operand, as in `FUNCTIONS`.

    Raises:
        NotImplementedError: The transformer is no scaling.
    """
    if model.transformer is None:
        return FUNCTIONS[model.inverse_func]
    at_0, at_1, at_2 = model.transformer_.inverse_transform([[0.0], [1.0], [2.0]]).ravel().tolist()
    if not np.isclose(at_2 - at_1, at_1 - at_0):
        raise NotImplementedError("the transformer of TransformedTargetRegressor is no scaling")
    return ("Mul", at_1 - at_0), ("Add", at_0)
