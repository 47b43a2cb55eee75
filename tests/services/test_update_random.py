"""Whatever is changed anywhere, an update loses no line of it in silence."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers import Renderer, commit, files
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from releases import RELEASES, added, conflicts, lines, lost, start, update

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), max_size=40)


class Edit(NamedTuple):
    """What is done at a place of a file; file and place count from the start, over and over."""

    kind: str
    file: int
    place: int
    text: str


WHATS = ("insert", "replace", "delete line", "add file", "rename", "delete file")
EDITS = st.lists(
    st.builds(Edit, st.sampled_from(WHATS), st.integers(0, 999), st.integers(0, 999), TEXT), max_size=12
)


def apply(project: Path, edit: Edit) -> None:
    """Edit a file that may be edited."""
    own_lines = [
        path for path in files(project) if ".git" not in path.parts and path.name != ".copier-answers.yml"
    ]
    path = own_lines[edit.file % len(own_lines)]
    if edit.kind == "add file":
        (path.parent / f"own-{edit.place}").write_text(f"{edit.text}\n")
    elif edit.kind == "rename":
        path.rename(path.with_name(f"own-{path.name}"))
    elif edit.kind == "delete file":
        path.unlink()
    else:
        text = path.read_bytes().split(b"\n")
        place = edit.place % len(text)
        text[place : place + (edit.kind != "insert")] = (
            [] if edit.kind == "delete line" else [edit.text.encode()]
        )
        path.write_bytes(b"\n".join(text))


@pytest.fixture(scope="module")
def started(template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Start a project of each release."""
    folder = tmp_path_factory.mktemp("started")
    renders = {release: Renderer(template, folder / f"{release}-", release) for release in RELEASES}
    return {release: start(render, folder / release) for release, render in renders.items()}


@pytest.mark.proof("An update loses no line of random edits silently")
@settings(
    max_examples=int(os.environ.get("EXAMPLES", "8")),
    deadline=None,
    derandomize="EXAMPLES" not in os.environ,
    phases=(Phase.explicit, Phase.generate),  # to shrink what was found takes hundreds of updates
    suppress_health_check=list(HealthCheck),
)
@example("v0.1.0", [])
@given(st.sampled_from(RELEASES), EDITS)
def test_random_edits_lose_no_line_silently(
    started: dict[str, Path], release: str, edits: list[Edit]
) -> None:
    """It is in its file, in a conflict, or in the file under its new name."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(shutil.copytree(started[release], Path(folder, "project")))
        for edit in edits:
            apply(project, edit)
        own = added(lines(started[release]), lines(project))
        commit(project, "ours", "--allow-empty")
        update(project)
        assert not lost(own, project)
        marked = {line[3:] for line in conflicts(project)}
        assert marked == {
            name for name, there in lines(project).items() if b"<<<<<<< before updating" in there
        }
