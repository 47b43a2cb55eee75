"""Boosting libraries as ONNX: LightGBM and XGBoost by onnxmltools, CatBoost by itself."""

import re
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from onnx import helper
from skl2onnx import update_registered_converter
from skl2onnx._supported_operators import sklearn_operator_name_map as registered
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType
from skl2onnx.common.shape_calculator import (
    calculate_linear_classifier_output_shapes,
    calculate_linear_regressor_output_shapes,
)

from .trees import floor_float32

Converter = Callable[[Any, Any, Any], None]  # skl2onnx's scope, operator and container

BOOSTERS = {
    "lightgbm": ("LGBMClassifier", "LGBMRegressor"),
    "xgboost": ("XGBClassifier", "XGBRegressor", "XGBRFClassifier", "XGBRFRegressor"),
    "catboost": ("CatBoostClassifier", "CatBoostRegressor"),
}
"""Estimators that become ONNX, by the module that has them."""

ONNXMLTOOLS = "onnxmltools.convert"


def lacks_converter(estimator: Any) -> bool:
    """Check whether the library that converts an estimator is missing.

    Args:
        estimator: Fitted or not.

    Returns:
        True for one of LightGBM or XGBoost without onnxmltools.
    """
    library = type(estimator).__module__.partition(".")[0]
    return library in ("lightgbm", "xgboost") and find_spec("onnxmltools") is None


def register_boosters() -> None:
    """Tell skl2onnx how to convert the boosting libraries that are imported.

    A converter that `problem.py` has registered stays.
    """
    for module, names in BOOSTERS.items():
        for name in names:
            kind = getattr(sys.modules.get(module), name, None)
            if kind is not None and kind not in registered:
                _register(kind, _CONVERTERS[module])


def _register(kind: type, convert: Converter) -> None:
    """Register a converter of a class of estimators."""
    if "Classifier" in kind.__name__:
        options = {"zipmap": [True, False, "columns"], "nocl": [True, False]}
        if hasattr(kind, "decision_function"):
            options["raw_scores"] = [True, False]
        shapes, parser = calculate_linear_classifier_output_shapes, _parse_classifier
    else:
        options, shapes, parser = None, calculate_linear_regressor_output_shapes, None
    update_registered_converter(kind, kind.__name__, shapes, convert, parser=parser, options=options)


def _parse_classifier(scope: Any, model: Any, inputs: Any, custom_parsers: Any = None) -> Any:
    """Declare labels and probabilities: skl2onnx does so for scikit-learn's classifiers only."""
    operator = scope.declare_local_operator(registered[type(model)], model)
    operator.inputs = inputs
    operator.outputs.append(scope.declare_local_variable("label", Int64TensorType()))
    operator.outputs.append(scope.declare_local_variable("probabilities", FloatTensorType()))
    return operator.outputs


def _convert_lightgbm(scope: Any, operator: Any, container: Any) -> None:
    """LightGBM, whose thresholds are rounded down: see `trees.floor_thresholds`."""

    def floor(line: re.Match[str]) -> str:
        thresholds = floor_float32(np.array(line[1].split(), np.float64))
        return "threshold=" + " ".join(f"{threshold:.17g}" for threshold in thresholds.tolist())

    model = operator.raw_operator
    text = re.sub(r"^threshold=(.*)$", floor, model.booster_.model_to_string(), flags=re.MULTILINE)
    text = re.sub(r"^tree_sizes=.*\n", "", text, flags=re.MULTILINE)  # in bytes, not right any more
    model._Booster = import_module("lightgbm").Booster(model_str=text)
    count = len(container.nodes)
    import_module(f"{ONNXMLTOOLS}.lightgbm.operator_converters.LightGbm").convert_lightgbm(
        scope, operator, container
    )
    has_scores = hasattr(model, "decision_function")  # calibration asks for them
    if has_scores and container.get_options(model, {"raw_scores": False})["raw_scores"]:
        for node in container.nodes[count:]:
            for attribute in node.attribute:
                if attribute.name == "post_transform":
                    attribute.s = b"NONE"


def _convert_xgboost(scope: Any, operator: Any, container: Any) -> None:
    """XGBoost, whose features must not have names."""
    operator.raw_operator.get_booster().feature_names = None
    import_module(f"{ONNXMLTOOLS}.xgboost.operator_converters.XGBoost").convert_xgboost(
        scope, operator, container
    )


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


_CONVERTERS = {"lightgbm": _convert_lightgbm, "xgboost": _convert_xgboost, "catboost": _convert_catboost}
