"""Tests of this problem. This file is yours: test what must hold for your data and your model."""

import duckdb
import pandas as pd

from {{ package_name }}.problem import PREPARE, sample


def test_sample_is_one_year_of_half_hours() -> None:
    times = sample()["time"]
    assert times.is_unique
    assert times.min() == pd.Timestamp("2014-01-01 00:00")
    assert times.max() == pd.Timestamp("2014-12-31 23:30")


def test_prepare_joins_demand_of_one_day_and_one_week_ago() -> None:
    raw = sample()
    prepared = duckdb.execute(PREPARE).df().set_index("time")
    demand = raw.set_index("time")["demand"]
    noon = pd.Timestamp("2014-06-18 12:00")
    assert prepared.loc[noon, "demand_day_before"] == demand[noon - pd.Timedelta(days=1)]
    assert prepared.loc[noon, "demand_week_before"] == demand[noon - pd.Timedelta(days=7)]
    assert len(prepared) == len(raw) - 7 * 48
