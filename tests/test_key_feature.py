"""A project whose key was a feature keeps its model on the update to 0.4.0."""

from collections import Counter
from pathlib import Path
from textwrap import dedent

import pytest
from helpers import Renderer, commit
from packaging.version import Version
from releases import RELEASES, start, update

from hooks.key_feature import migrate

PROBLEM = """
    CONTRACT = Contract(
        task="regression",
        {roles}
        target="y",
        columns=({column}, Column("y", "number"), Column("x", "number")),
    )
"""
FEATURES = {
    "integer": ('key="id",', 'Column("id", "integer", 0)'),
    "category": ('key="id",', 'Column(name="id", kind="category", categories=("a", "b"))'),
    "time": ('key="id",\n        time="x",', 'Column("id", "time")'),
}
OTHERS = {
    "text": ('key="id",', 'Column("id", "text")'),
    "no feature": ('key="id",', 'Column("id", "integer", feature=False)'),
    "declared": ('key="id",\n        key_is_feature=False,', 'Column("id", "integer")'),
    "the time": ('key="id",\n        time="id",', 'Column("id", "integer")'),
}
UNREADABLE = {
    "computed key": ("key=KEY,", 'Column("id", "integer")'),
    "computed columns": ('key="id",', "*COLUMNS"),
    "key inside a line": ('target="y", key="id",', 'Column("id", "integer")'),
}


def write(folder: Path, roles: str, column: str) -> Path:
    """Write a problem.py."""
    path = folder / "problem.py"
    path.write_text(dedent(PROBLEM).format(roles=dedent(roles), column=column))
    return path


@pytest.mark.parametrize("case", FEATURES)
def test_key_stays_a_feature_and_no_line_is_lost(case: str, tmp_path: Path) -> None:
    """A line is added; a second run adds none."""
    path = write(tmp_path, *FEATURES[case])
    before = Counter(path.read_text().splitlines())
    message = migrate(path)
    added = Counter(path.read_text().splitlines()) - before
    assert [line.strip() for line in added] == ["key_is_feature=True,"]
    assert not before - Counter(path.read_text().splitlines())
    assert "keeps your model as it is" in message
    assert "If the key only identifies rows, delete that" in message
    compile(path.read_text(), path, "exec")
    assert migrate(path) == ""


@pytest.mark.parametrize("case", OTHERS)
def test_other_keys_change_nothing(case: str, tmp_path: Path) -> None:
    """A key that was no feature stays none."""
    path = write(tmp_path, *OTHERS[case])
    before = path.read_bytes()
    assert (migrate(path), path.read_bytes()) == ("", before)


@pytest.mark.parametrize("case", UNREADABLE)
def test_contract_that_cannot_be_read_is_left_with_advice(case: str, tmp_path: Path) -> None:
    """The script does not guess."""
    path = write(tmp_path, *UNREADABLE[case])
    before = path.read_bytes()
    assert "If it is one of your model, set key_is_feature=True" in migrate(path)
    assert path.read_bytes() == before


FORMER = [release for release in RELEASES if Version(release) < Version("0.4.0")]


@pytest.mark.parametrize("older", FORMER, indirect=True)
def test_update_keeps_the_key_as_a_feature(
    older: Renderer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """From every release in which it was one by default."""
    project = start(older, tmp_path / "project")
    (path,) = project.glob("src/*/problem.py")
    text = path.read_text().replace("    key_is_feature=False,\n", "")
    path.write_text(text.replace('Column("customer_id", "text",', 'Column("customer_id", "integer",'))
    commit(project, "an integer key")
    update(project)
    assert '    key_is_feature=True,\n    key="customer_id",\n' in path.read_text()
    assert "keeps your model as it is" in capfd.readouterr().err
