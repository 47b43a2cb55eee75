"""The bundle as an MLflow model, which `mlflow models serve`, Databricks, SageMaker and Azure ML can load.

The model is a folder with the bundle, this package's code and an `MLmodel` file. MLflow calls `_load_pyfunc`
of the code in that folder. Nothing is pickled, and the contract checks rows as in the server.
"""

import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import msgspec
import numpy as np
import pandas as pd
from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException
from mlflow.models import Model as MlflowModel
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import AnyType, Array, Map, Object, Property

from ..contract import Column, Contract
from ..contract.rows import MAX_ROWS, RowCodec, RowError
from .bundle import Model

LIBRARIES = ("msgspec", "numpy", "onnxruntime", "pandas")
"""What loading and prediction need, besides MLflow."""
_ITEM = Object([Property("item", DataType.string), Property("score", DataType.double)])
OUTPUTS: dict[str, list[ColSpec | TensorSpec]] = {
    "classification": [ColSpec(DataType.string, "label"), ColSpec(Map(DataType.double), "probabilities")],
    "regression": [ColSpec(DataType.double, "value")],
    "ranking": [ColSpec(Array(_ITEM), "items")],
}
"""Columns of the predictions, by task."""


class BundleModel:
    """A bundle that predicts tables instead of JSON."""

    def __init__(self, folder: Path) -> None:
        """Load a bundle.

        Args:
            folder: The bundle.
        """
        self._model = Model(folder)
        self._codec = RowCodec(self._model.contract)

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Predict rows.

        Args:
            model_input: Rows of the contract's features, and of its key and group if wanted.
            params: Unused; MLflow passes it.

        Returns:
            One row of predictions for each row, with the columns `OUTPUTS`.

        Raises:
            MlflowException: Rows break the contract. MLflow's server answers with status 400.
        """
        rows = [*map(_plain, model_input.to_dict("records"))]
        predictions: list[Any] = []
        for start in range(0, len(rows), MAX_ROWS):
            predictions += self._predict(rows[start : start + MAX_ROWS], start)
        names = [column.name for column in OUTPUTS[self._model.contract.task]]
        return pd.DataFrame(predictions, model_input.index, names)

    def _predict(self, rows: list[Any], start: int) -> list[Any]:
        """Predict at most `MAX_ROWS` rows, of which the first is row `start` of the table."""
        try:
            features = self._codec.decode(msgspec.json.encode(rows))
        except RowError as error:
            for problem in error.problems:
                problem.row += start
            detail = msgspec.json.encode({"detail": error.problems, "note": error.note}).decode()
            raise MlflowException(detail, INVALID_PARAMETER_VALUE) from None
        return msgspec.to_builtins(self._model.predictions(self._model.run(features)))


def _plain(value: Any) -> Any:
    """A value as JSON has it: missing is None; infinity, which JSON lacks, is a text that no rule accepts."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [*map(_plain, value)]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if pd.isna(value):
        return None
    if isinstance(value, float) and math.isinf(value):
        return str(value)
    return value.to_pydatetime() if isinstance(value, pd.Timestamp) else value


def _load_pyfunc(path: str) -> BundleModel:
    """Load the bundle of an MLflow model; MLflow calls this."""
    return BundleModel(Path(path))


def make_signature(contract: Contract) -> ModelSignature:
    """Describe the model's inputs and outputs to MLflow.

    Args:
        contract: The contract.

    Returns:
        The signature.
    """
    columns = (*contract.features, *contract.ids)
    inputs: list[ColSpec | TensorSpec] = [
        ColSpec(_type(column), column.name, required=not column.nullable and column in contract.features)
        for column in columns
    ]
    return ModelSignature(Schema(inputs), Schema(OUTPUTS[contract.task]))


def _type(column: Column) -> DataType | Array | AnyType:
    """The type of a column.

    MLflow converts values to the type of a column before the contract sees them: 4.5 becomes the integer 4,
    any text the boolean true, "40" a number. Type `any` leaves numbers and times to the contract.
    """
    if column.kind not in ("category", "text"):
        return AnyType()
    return Array(DataType.string) if column.length is not None else DataType.string


def save_model(bundle: Path, package: Path, folder: Path, entity: MlflowModel) -> None:
    """Write a bundle as an MLflow model.

    Args:
        bundle: The bundle.
        package: The code that loads it: this package, of the same commit.
        folder: Where the model is written. It must not exist.
        entity: What MLflow knows of the model, such as its run.
    """
    model = Model(bundle)
    columns = {column.name: column.rule for column in (*model.contract.features, *model.contract.ids)}
    mlflow.pyfunc.save_model(
        folder,
        mlflow_model=entity,
        loader_module=f"{package.name}.model.mlflow_model",
        data_path=str(bundle),
        code_paths=[str(package)],
        signature=make_signature(model.contract),
        input_example=pd.DataFrame([model.example]),
        pip_requirements=[f"{name}=={version(name)}" for name in LIBRARIES],
        metadata={"model_version": model.metadata.version, "columns": columns},
    )
