"""Projects whose conflicts with an update are resolved."""

import re

import pytest
from helpers import commit
from project import Project
from releases import conflicts
from test_update_edits import Edited, clashed, package

__all__ = ["clashed"]  # a fixture

TEMPLATE_SIDE = re.compile(r"<<<<<<< before updating\n.*?=======\n(.*?)>>>>>>> after updating\n", re.S)


@pytest.mark.proof("After conflicts are resolved, the project's pipeline and tests pass")
def test_resolved_update_passes_pipeline_and_tests(project: Project, clashed: Edited) -> None:
    """The template's side is taken; parameters keep their former names."""
    resolved = Project(clashed.project, package(clashed.project).name, installed=False).using(project)
    for line in conflicts(resolved.folder):
        path = resolved.folder / line[3:]
        path.write_text(TEMPLATE_SIDE.sub(r"\1", path.read_text()))
    commit(resolved.folder, "update")
    assert "leakage_score is now max_leakage_score" in resolved.make("pipeline")
    resolved.make("test")
