"""More hostile names than a project's own tests try: in every stage, report, the API and batch."""

import pytest
from project import Project


def test_many_hostile_names_work_everywhere_or_are_refused(
    work: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty drawn problems and every known nasty text; a project's own tests try a few."""
    monkeypatch.setenv("HOSTILE_EXAMPLES", "30")
    output = work.good(work.python, "-m", "pytest", "-p", "no:cacheprovider", "tests/test_hostile_names.py")
    assert "100%" in output
    assert "skipped" not in output
