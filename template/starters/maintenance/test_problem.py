"""Tests of this problem. This file is yours: test what must hold for your data and your model."""

import duckdb
import numpy as np
import pandas as pd
import pytest

from {{ package_name }}.problem import CONTRACT, PREPARE, estimator, sample


@pytest.fixture(scope="module")
def raw() -> pd.DataFrame:
    return sample()


@pytest.fixture(scope="module")
def prepared(raw: pd.DataFrame) -> pd.DataFrame:
    with duckdb.connect() as con:
        return con.register("raw", raw).sql(PREPARE).df()


def test_sample_reads_each_machine_once_an_hour_until_it_fails(raw: pd.DataFrame) -> None:
    machines = raw.groupby("machine")
    assert machines.ngroups == 800
    assert (machines["operating_hours"].max() + 1 == machines.size()).all()
    assert not raw.duplicated(list(CONTRACT.keys)).any()
    assert (raw["operating_hours"] < raw["fails_at"].fillna(raw["watched_until"])).all()


def test_prepared_lists_are_the_last_24_readings(raw: pd.DataFrame, prepared: pd.DataFrame) -> None:
    row = prepared.query("machine == 'M007' and operating_hours == 239").iloc[0]
    readings = raw.query("machine == 'M007' and 215 < operating_hours <= 239")
    for sensor in ("vibration", "temperature", "current"):
        assert list(row[sensor]) == list(readings[sensor])
        assert prepared[sensor].str.len().eq(24).all()


def test_prepared_label_is_a_failure_within_48_hours(raw: pd.DataFrame, prepared: pd.DataFrame) -> None:
    rows = prepared.merge(raw[[*CONTRACT.keys, "fails_at", "watched_until"]], on=CONTRACT.keys)
    hours_left = rows["fails_at"] - rows["operating_hours"]
    assert rows["fails"].eq("Yes").equals(hours_left.le(48).fillna(False).astype(bool))
    assert rows["fails"].eq("No").equals(rows["lead_time"].eq("no failure"))
    assert hours_left[rows["lead_time"] == "12-24 h"].between(13, 24).all()
    assert (rows["operating_hours"] + 48 < rows["watched_until"]).all()  # so each label is known


def test_true_probability_is_calibrated(raw: pd.DataFrame, prepared: pd.DataFrame) -> None:
    rows = prepared.merge(raw[[*CONTRACT.keys, "true_probability"]], on=CONTRACT.keys)
    gaps = (rows["fails"].eq("Yes") - rows["true_probability"]).groupby(rows["machine"]).sum()
    assert abs(gaps.mean()) < 3 * gaps.std() / np.sqrt(len(gaps))


def test_estimator_rejects_unknown_setting() -> None:
    with pytest.raises(TypeError, match="learning_rate"):
        estimator(seed=0, learning_rate=0.1)
