"""The documents claim only what tests prove."""

import os

import pytest
from proof import claims, table


@pytest.mark.skipif("UPDATE_DOCS" in os.environ, reason="the table is written after the tests")
def test_proof_table_lists_the_claims_of_all_tests() -> None:
    """Each claim has a row, and each row a test."""
    assert list(table()) == claims()
