"""Tests of this problem. This file is yours: test what must hold for your data and your model."""

import duckdb
import pandas as pd
import pytest

from {{ package_name }}.problem import CONTRACT, PREPARE, sample

TIMES = ["2026-01-01 12:00", "2026-01-02 12:00", "2026-01-03 11:59", "2026-01-03 11:59", "2026-01-03 12:01"]


def prepare(payments: pd.DataFrame) -> pd.DataFrame:
    with duckdb.connect() as con:
        con.register("raw", payments)
        return con.execute(PREPARE).df().set_index("payment").sort_index()


def small_table() -> pd.DataFrame:
    payments = pd.DataFrame({"payment": range(5), "card": 7, "time": pd.to_datetime(TIMES)})
    return payments.assign(amount=[1.0, 2.0, 4.0, 8.0, 16.0])


def test_fraud_is_rare_and_as_frequent_as_the_true_probabilities_say() -> None:
    payments = sample()
    assert 0.001 < payments["fraud"].mean() < 0.01
    assert payments["fraud"].mean() == pytest.approx(payments["true_probability"].mean(), rel=0.1)


def test_true_probability_is_not_declared() -> None:
    assert "true_probability" not in {column.name for column in CONTRACT.columns}


def test_past_day_has_neither_the_payment_itself_nor_one_of_the_same_moment() -> None:
    prepared = prepare(small_table())
    assert prepared["payments_24h"].to_dict() == {1: 1, 2: 1, 3: 1, 4: 2}
    assert prepared["amount_24h"].to_dict() == {1: 1.0, 2: 2.0, 3: 2.0, 4: 12.0}


def test_past_day_is_that_of_one_card() -> None:
    prepared = prepare(small_table().assign(card=[7, 8, 7, 8, 7]))
    assert prepared["payments_24h"].to_dict() == {1: 0, 2: 0, 3: 1, 4: 1}


def test_prepare_reads_text_and_leaves_broken_rows_to_validation() -> None:
    payments = small_table().astype(str).replace({"2026-01-03 12:01:00": "noon", "8.0": "eight"})
    prepared = prepare(payments)
    assert prepared["amount_24h"].to_list()[:3] == [1.0, 2.0, 2.0]
    assert prepared["time"].to_list()[3] == "noon"
