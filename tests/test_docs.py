"""The documents claim what tests prove, and nothing else."""

import os

import pytest
from proof import DOC, claims


@pytest.mark.skipif("UPDATE_DOCS" in os.environ, reason="it is written when all tests are done")
def test_the_table_of_proofs_is_current() -> None:
    """Each claim stands in it, and each row is a test's."""
    rows = DOC.read_text().partition("| ---")[2].splitlines()[1:]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == claims()
