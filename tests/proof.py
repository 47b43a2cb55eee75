"""What the documents may claim: each row of docs/proof.md is a test that passed, and what it found.

`UPDATE_DOCS=1 make test` writes the table anew.
"""

import os
import re
from pathlib import Path

import pytest
from helpers import ROOT

DOC = ROOT / "docs/proof.md"
MARK = re.compile(r'@pytest\.mark\.proof\(\s*"(.+)"\s*\)')
found: dict[str, list[str]] = {}


def claims() -> list[str]:
    """Everything that tests stand for, in the order in which they do."""
    texts = [path.read_text() for path in sorted(Path(__file__).parent.glob("test_*.py"))]
    return [claim for text in texts for claim in MARK.findall(text)]


def pytest_configure(config: pytest.Config) -> None:
    """Let tests say what they prove."""
    config.addinivalue_line("markers", "proof(claim): what docs/proof.md says because this test passes")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Send the claim along with the result: workers are processes of their own."""
    if marker := item.get_closest_marker("proof"):
        item.user_properties.append(("proof", marker.args[0]))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what a test found: what it told by `record_property("found", …)`."""
    told = dict(report.user_properties)
    if report.when == "call" and report.passed and "proof" in told:
        found.setdefault(str(told["proof"]), []).append(str(told.get("found", "")))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the table, once all of it was proven."""
    proven = set(claims()) <= found.keys()
    if os.environ.get("UPDATE_DOCS") and proven and not hasattr(session.config, "workerinput"):
        head, _, _ = DOC.read_text().partition("| ")
        rows = [f"| {claim} | {'; '.join(filter(None, found[claim]))} |" for claim in claims()]
        DOC.write_text("\n".join([f"{head}| proven | found |", "| --- | --- |", *rows]) + "\n")
