"""Updates of unedited projects, from every release and with all pairs of answers."""

from pathlib import Path

import pytest
from helpers import Renderer
from test_render import pairwise
from test_updates import check_unedited_update


@pytest.mark.proof("An unedited project equals a fresh render after the update, for all answers")
def test_unedited_project_equals_a_fresh_render_for_all_answers(
    older: Renderer, newest: Renderer, tmp_path: Path
) -> None:
    """Each pair of answers occurs at least once."""
    for index, answer_set in enumerate(pairwise(older.asked)):
        check_unedited_update(older, newest, tmp_path / str(index), **answer_set)
