"""Tests of this problem. This file is yours: test what must hold for your data and your model."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from {{ package_name }}.model.bundle import Session
from {{ package_name }}.problem import CONTRACT, SIZE, estimator, read, sample

Pixels = NDArray[np.float32]


@pytest.fixture(scope="module")
def scans() -> pd.DataFrame:
    return sample()


@pytest.fixture(scope="module")
def pixels(scans: pd.DataFrame) -> Pixels:
    return np.stack(scans["image"])


def test_sample_has_four_scans_of_each_patient(scans: pd.DataFrame) -> None:
    assert scans["scan"].is_unique
    assert set(scans["patient"].value_counts()) == {4}


def test_sample_has_the_columns_of_the_contract(scans: pd.DataFrame) -> None:
    assert {column.name for column in CONTRACT.columns} <= set(scans.columns)


def test_true_probability_is_calibrated_and_not_a_column_of_the_contract(scans: pd.DataFrame) -> None:
    probability, has_lesion = scans["true_probability"], scans["finding"] == "lesion"
    observed = has_lesion.groupby(pd.cut(probability, 5)).mean()
    assert np.allclose(observed, probability.groupby(pd.cut(probability, 5)).mean(), atol=0.1)
    assert roc_auc_score(has_lesion, probability) > 0.95
    assert "true_probability" not in {column.name for column in CONTRACT.columns}


def test_model_of_positions_is_at_chance(scans: pd.DataFrame, pixels: Pixels) -> None:
    fitted, tested = slice(0, 2000), slice(2000, None)  # other patients
    model = LogisticRegression(C=0.01).fit(pixels[fitted], scans["finding"][fitted])
    score = roc_auc_score(scans["finding"][tested] == "lesion", -model.predict_proba(pixels[tested])[:, 1])
    assert score == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize(("mode", "size"), [("RGB", SIZE), ("I;16", SIZE), ("L", SIZE + 1)])
def test_read_rejects_a_scan_of_another_kind(mode: str, size: int, tmp_path: Path) -> None:
    Image.new(mode, (size, size)).save(tmp_path / "scan.png")
    (tmp_path / "manifest.csv").write_text("scan,file\n1,scan.png\n")
    with pytest.raises(ValueError, match=r"scan\.png: expected 32 x 32 pixels of mode L"):
        read(tmp_path / "manifest.csv")


def test_network_is_determined_by_its_seed_and_ignores_brightness(
    scans: pd.DataFrame, pixels: Pixels, tmp_path: Path
) -> None:
    network = estimator(seed=0, epochs=2)
    fitted = clone(network).fit(pixels[:400], scans["finding"][:400])
    expected, dark = fitted.predict_proba(pixels[400:]), 0.8 * pixels[400:]
    again = clone(network).fit(pixels[:400], scans["finding"][:400])
    np.testing.assert_array_equal(again.predict_proba(pixels[400:]), expected)
    np.testing.assert_allclose(fitted.predict_proba(dark + 0.1), fitted.predict_proba(dark), atol=1e-4)
    (tmp_path / "model.onnx").write_bytes(fitted.to_onnx(CONTRACT.feature_names))
    np.testing.assert_allclose(Session(tmp_path / "model.onnx").run(pixels[400:]), expected, atol=1e-5)


def test_problem_is_imported_without_pytorch() -> None:  # every stage imports it
    code = "import sys, {{ package_name }}.problem; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_estimator_rejects_unknown_setting() -> None:
    with pytest.raises(TypeError, match="epoch"):
        estimator(seed=0, epoch=3)
