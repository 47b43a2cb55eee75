"""Tests of this problem. The file is yours: say what must hold for your data and your model."""

import pytest

from {{ package_name }}.problem import CONTRACT, estimator, sample


def test_every_customer_of_the_sample_is_there_once() -> None:
    customers = sample()
    assert len(customers) == customers[CONTRACT.key].nunique() == 7043


def test_the_sample_has_the_columns_of_the_contract() -> None:
    assert {column.name for column in CONTRACT.columns} <= set(sample().columns)


def test_a_setting_that_the_model_does_not_know_is_refused() -> None:
    with pytest.raises(TypeError, match="learning_rat"):
        estimator(seed=0, learning_rat=0.1)
