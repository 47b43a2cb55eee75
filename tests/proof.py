"""The table in docs/proof.md: each row is a test that passed, and its finding.

`UPDATE_DOCS=1 make test-all` updates the rows of the tests that passed.
"""

import os
import re
from pathlib import Path

import pytest
from helpers import ROOT

DOC = ROOT / "docs/proof.md"
MARK = re.compile(r'@pytest\.mark\.proof\(\s*"(.+)"\s*\)')
findings: dict[str, list[str]] = {}


def claims() -> list[str]:
    """List the claims of all tests, in the order of their files."""
    texts = [
        path.read_text()
        for path in sorted(Path(__file__).parent.rglob("test_*.py"), key=lambda path: path.name)
    ]
    return [claim for text in texts for claim in MARK.findall(text)]


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", "proof(claim): the row of docs/proof.md that this test proves")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Send the claim along with the result: workers are processes of their own."""
    if marker := item.get_closest_marker("proof"):
        item.user_properties.append(("proof", marker.args[0]))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collect the findings of passed tests, which they record as the property `found`."""
    properties = dict(report.user_properties)
    if report.when == "call" and report.passed and "proof" in properties:
        findings.setdefault(str(properties["proof"]), []).append(str(properties.get("found", "")))


def table() -> dict[str, str]:
    """Read the table: each claim and its finding."""
    rows = DOC.read_text().partition("| --- | --- |\n")[2].splitlines()
    return dict(row.removeprefix("| ").removesuffix(" |").removesuffix("|").split(" | ", 1) for row in rows)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Update the rows of the claims that were proven in this session; the others stay as they were."""
    if os.environ.get("UPDATE_DOCS") and findings and not hasattr(session.config, "workerinput"):
        current = {claim: "; ".join(filter(None, texts)) for claim, texts in findings.items()}
        rows = table() | current
        lines = [f"| {claim} | {rows.get(claim, '')} |" for claim in claims()]
        head = DOC.read_text().partition("| ")[0]
        DOC.write_text("\n".join([f"{head}| claim | result |", "| --- | --- |", *lines]) + "\n")
