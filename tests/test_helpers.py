"""What the tests lean on must itself be able to fail."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import helpers
import proof
import pytest
from helpers import commit, require


def test_require_skips_or_fails_on_missing_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that is there does neither."""
    require("git")
    monkeypatch.delenv("REQUIRE_TOOLS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-tool not found"):
        require("git", "no-such-tool")
    monkeypatch.setenv("REQUIRE_TOOLS", "1")
    with pytest.raises(pytest.fail.Exception, match="no-such-tool not found"):
        require("git", "no-such-tool")


def run_setup(marker: pytest.Mark) -> dict[str, str]:
    """Set up a test with this marker; return what it sends along with its result."""
    item: Any = SimpleNamespace(get_closest_marker=lambda name: marker, user_properties=[])
    proof.pytest_runtest_setup(item)
    return dict(item.user_properties)


def test_heavy_proof_is_skipped_until_a_covered_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a file that is new or has another name; not one that it does not cover."""
    for name in ("covered/one.py", "other.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("first\n")
    commit(tmp_path, "first")
    doc = tmp_path / "proof.md"
    doc.write_text("| claim | result |\n| --- | --- |\n| it works |  |\n")
    monkeypatch.setattr(helpers, "ROOT", tmp_path)
    monkeypatch.setattr(proof, "ROOT", tmp_path)
    monkeypatch.setattr(proof, "DOC", doc)
    marker = pytest.mark.proof("it works", covers=("covered",)).mark

    def prove() -> None:
        monkeypatch.setattr(proof, "findings", {"it works": ["2 of 2"]})
        monkeypatch.setattr(proof, "hashes", {"it works": run_setup(marker)["files"]})
        doc.write_text(doc.read_text().rpartition("| it")[0] + f"| it works | {proof.result('it works')} |\n")

    prove()
    assert "| it works | 2 of 2; files " in doc.read_text()
    (tmp_path / "other.py").write_text("second\n")
    with pytest.raises(pytest.skip.Exception, match=r"proven on 2\d{3}-\d\d-\d\d, and no file"):
        run_setup(marker)
    assert run_setup(pytest.mark.proof("more works", covers=("covered",)).mark)["files"]
    assert run_setup(pytest.mark.proof("it works").mark) == {"proof": "it works"}
    (tmp_path / "covered/one.py").write_text("second\n")
    prove()
    (tmp_path / "covered/one.py").rename(tmp_path / "covered/two.py")
    prove()
    (tmp_path / "covered/new.py").write_text("new\n")
    prove()
    with pytest.raises(pytest.skip.Exception):
        run_setup(marker)
    with pytest.raises(AssertionError, match="no file"):
        run_setup(pytest.mark.proof("it works", covers=("gone",)).mark)
