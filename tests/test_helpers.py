"""What the tests lean on must itself be able to fail."""

import pytest
from helpers import require


def test_require_skips_or_fails_on_missing_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that is there does neither."""
    require("git")
    monkeypatch.delenv("REQUIRE_TOOLS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-tool not found"):
        require("git", "no-such-tool")
    monkeypatch.setenv("REQUIRE_TOOLS", "1")
    with pytest.raises(pytest.fail.Exception, match="no-such-tool not found"):
        require("git", "no-such-tool")
