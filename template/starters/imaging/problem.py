"""The problem: which scans show a lesion? This file is yours; updates never change it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from .contract import Column, Contract
from .contract.expectations import BehaviouralTest, Kpi, ModelCardInfo

# Every stage imports this file: import heavy libraries inside the functions that use them.
if TYPE_CHECKING:
    import optuna
    import pandas as pd
    from sklearn.base import BaseEstimator

SIZE = 32  # pixels; width and height of a scan

CONTRACT = Contract(
    task="classification",
    key="scan",
    target="finding",
    group="patient",
    columns=(
        Column("scan", "text", description="Number of the scan."),
        Column("patient", "text", personal=False, description="Pseudonym of the patient."),
        Column("finding", "category", categories=("normal", "lesion"), description="What two readers saw."),
        Column("device", "category", categories=("A", "B"), segment=True, feature=False),
        Column("sex", "category", categories=("f", "m"), protected=True, feature=False),
        Column(
            "image",
            "number",
            0,
            1,
            length=SIZE * SIZE,
            description="Grey levels from 0 (black) to 1 (white), row by row.",
        ),
    ),
)

PREPARE = "SELECT * FROM raw"
"""SQL from the source's table `raw` to the contract's columns: rename, compute, join."""

BASELINE: str | None = None
"""A column that serves as the baseline prediction; None: the shares of the classes."""

KPIS: tuple[Kpi, ...] = (
    Kpi(
        metric="recall_at_90%_specificity",
        direction="at least",
        threshold=0.7,
        owner="radiology",
        meaning="When one in ten normal scans is read early, at least seven in ten with a lesion are too.",
        primary=True,
    ),
    Kpi(
        metric="roc_auc",
        direction="at least",
        threshold=0.85,
        owner="radiology",
        meaning="Of a scan with a lesion and a normal one, the model ranks the first higher 17 times in 20.",
    ),
)
"""Limits that the model must keep; models are compared by the primary metric."""

BEHAVIOURAL_TESTS: tuple[BehaviouralTest, ...] = (
    BehaviouralTest("image", 0.1, "invariant", "A brighter scan shows the same.", "lesion"),
)

MODEL_CARD = ModelCardInfo(
    purpose="Puts scans with a lesion first in the reading list. A radiologist reads every scan.",
    limits="Not a medical device. Trained on made-up scans of two devices; others may look different.",
    data="3,200 made-up scans of 800 made-up patients (custom/scans.py): no public package has real ones.",
    data_licence="none is needed, because the data are generated",
)


def sample() -> pd.DataFrame:
    """Load the starter's data: made-up scans, four of each patient, as PNG files and a manifest.

    Returns:
        A row per scan.
    """
    from .custom.scans import write_scans

    with TemporaryDirectory() as folder:
        return read(write_scans(Path(folder)))


def read(path: Path) -> pd.DataFrame:
    """Read a file of the source: a manifest, with a line for each scan and the name of its PNG file.

    Args:
        path: A CSV file with the contract's columns, but `file` in place of `image`. The scans lie beside it.

    Returns:
        A row per scan.
    """
    import pandas as pd

    scans = pd.read_csv(path, dtype={"scan": str, "patient": str})
    scans["image"] = [read_png(path.parent / file) for file in scans.pop("file")]
    return scans


def read_png(path: Path) -> Any:
    """Read a scan.

    Args:
        path: A grey PNG file.

    Returns:
        Grey levels from 0 to 1, row by row, `(SIZE * SIZE,)`.

    Raises:
        ValueError: The image has another size, or colours, or more than 256 grey levels.
    """
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        if (image.mode, image.size) != ("L", (SIZE, SIZE)):
            size = f"{image.width} x {image.height}"
            raise ValueError(f"{path}: expected {SIZE} x {SIZE} pixels of mode L, got {size} of {image.mode}")
        return np.asarray(image, np.float32).ravel() / 255


def estimator(seed: int, **settings: Any) -> BaseEstimator:
    """Make the model to train.

    Args:
        seed: `train.seed` of params.yaml.
        **settings: `train.estimator` of params.yaml.

    Returns:
        An unfitted estimator. Its input is float32, of shape `(n_rows, n_features)`.
    """
    from .custom.network import Network

    return Network(seed, **settings)


def search(trial: optuna.Trial) -> dict[str, float | int]:
    """Define the search space of `make tune`.

    Args:
        trial: Suggests a value from each range.

    Returns:
        Settings of `estimator`.
    """
    return {
        "epochs": trial.suggest_int("epochs", 4, 16),
        "learning_rate": trial.suggest_float("learning_rate", 0.002, 0.05, log=True),
        "width": trial.suggest_int("width", 4, 12),
    }
