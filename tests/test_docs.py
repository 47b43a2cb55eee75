"""The documents claim only what tests prove."""

import os
import re

import pytest
from helpers import ROOT
from proof import DOC, claims, table


@pytest.mark.skipif("UPDATE_DOCS" in os.environ, reason="the table is written after the tests")
def test_proof_table_lists_the_claims_of_all_tests() -> None:
    """Each claim has a row, and each row a test."""
    assert list(table()) == claims()


def test_attacks_and_faults_name_tests_that_exist() -> None:
    """Each row has a test, in the file that it links to."""
    rows = DOC.read_text().partition("| --- | --- | --- |\n")[2].partition("\n\n")[0].splitlines()
    tests = [re.search(r"\| \[(test_\w+)\]\(\.\./(.+?)\) \|$", row) for row in rows]
    assert len(rows) > 10
    missing = [test for test in tests if not test or f"def {test[1]}(" not in (ROOT / test[2]).read_text()]
    assert missing == []
