"""Tests of this problem. This file is yours: test what must hold for your data and your model."""

import pytest

from {{ package_name }}.problem import CONTRACT, estimator, sample


def test_sample_has_each_customer_once() -> None:
    customers = sample()
    assert len(customers) == customers[CONTRACT.key].nunique() == 7043


def test_sample_has_the_columns_of_the_contract() -> None:
    assert {column.name for column in CONTRACT.columns} <= set(sample().columns)


def test_estimator_rejects_unknown_setting() -> None:
    with pytest.raises(TypeError, match="learning_rat"):
        estimator(seed=0, learning_rat=0.1)
