"""The table in docs/proof.md: each row is a test that passed, and its finding.

`UPDATE_DOCS=1 make test-all` updates the rows of the tests that passed. A test that takes long names the
files that it covers: its row holds their hash, and it is skipped until one of them changes.
"""

import hashlib
import os
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from helpers import ROOT, tracked

DOC = ROOT / "docs/proof.md"
HEAD = "| claim | result |\n| --- | --- |\n"
MARK = re.compile(r'@pytest\.mark\.proof\(\s*"(.+?)"\s*[,)]')
STAMP = re.compile(r"files ([0-9a-f]{12}) on (\d{4}-\d\d-\d\d)")
findings: dict[str, list[str]] = {}
hashes: dict[str, str] = {}


def claims() -> list[str]:
    """List the claims of all tests, in the order of their files."""
    texts = [
        path.read_text()
        for path in sorted(Path(__file__).parent.rglob("test_*.py"), key=lambda path: path.name)
    ]
    return [claim for text in texts for claim in MARK.findall(text)]


def covered_hash(*paths: str) -> str:
    """Hash names and contents of files, as they are in the working tree; a folder stands for its files."""
    files = tracked(*paths)
    assert files, f"no file of {paths}: this would never change"
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path}\0{hashlib.sha256((ROOT / path).read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:12]


def proven_on(claim: str, files: str) -> str | None:
    """Return the day on which a claim was proven with files of this hash; None if it was not."""
    stamp = STAMP.search(table().get(claim, ""))
    return stamp[2] if stamp and stamp[1] == files else None


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    text = "proof(claim, covers=()): the row of docs/proof.md that this test proves, and files that it covers"
    config.addinivalue_line("markers", text)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is proven; else send claim and hash along with the result: workers are processes."""
    if not (marker := item.get_closest_marker("proof")):
        return
    claim, covers = marker.args[0], marker.kwargs.get("covers", ())
    item.user_properties.append(("proof", claim))
    if covers:
        files = covered_hash(*covers)
        if day := proven_on(claim, files):
            pytest.skip(f"proven on {day}, and no file that it covers has changed since (docs/proof.md)")
        item.user_properties.append(("files", files))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collect the findings of passed tests, which they record as the property `found`."""
    properties = dict(report.user_properties)
    if report.when == "call" and report.passed and "proof" in properties:
        claim = str(properties["proof"])
        findings.setdefault(claim, []).append(str(properties.get("found", "")))
        if "files" in properties:
            hashes[claim] = str(properties["files"])


def table() -> dict[str, str]:
    """Read the table: each claim and its finding."""
    rows = DOC.read_text().partition(HEAD)[2].splitlines()
    return dict(row.removeprefix("| ").removesuffix(" |").removesuffix("|").split(" | ", 1) for row in rows)


def result(claim: str) -> str:
    """Return the second cell of a claim that was proven in this session."""
    stamp = f"files {hashes[claim]} on {datetime.now(UTC):%Y-%m-%d}" if claim in hashes else ""
    return "; ".join(filter(None, [*findings[claim], stamp]))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Update the rows of the claims that were proven in this session; the others stay as they were."""
    if os.environ.get("UPDATE_DOCS") and findings and not hasattr(session.config, "workerinput"):
        rows = table() | {claim: result(claim) for claim in findings}
        lines = [f"| {claim} | {rows.get(claim, '')} |" for claim in claims()]
        DOC.write_text("\n".join([DOC.read_text().partition(HEAD)[0] + HEAD.rstrip(), *lines]) + "\n")
