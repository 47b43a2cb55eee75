"""A project goes on storing what it stored, after the update to 0.5.0."""

from collections import Counter
from pathlib import Path

import pytest
import yaml
from helpers import Renderer, commit
from packaging.version import Version
from releases import RELEASES, start, update

from hooks.ingest_defaults import SETTINGS, migrate

FILES = {
    "block": "# mine\ningest:\n    # ours\n    source: 'a.csv' # daily\n\nsplit:\n    test_size: 0.3\n",
    "windows": "ingest:\r\n  source: sample\r\nsplit: {test_size: 0.3}\r\n",
    "flow": "ingest: {source: a.csv, query: null} # daily\nsplit: {test_size: 0.3}\n",
    "flow over lines": "ingest: {\n  source: a.csv,\n}\n",
    "empty flow": "ingest: {}\n",
    "no section": "split:\n  test_size: 0.3",
    "empty section": "ingest:\nsplit: {test_size: 0.3}\n",
    "empty section at the end": "split: {test_size: 0.3}\ningest:",
    "one setting": "ingest:\n  keep_undeclared: false\n",
    "no content": "# only comments\n",
}
UNREADABLE = {
    "no YAML": "ingest: [\n",
    "no section": "ingest: sample\n",
    "null": "ingest: null\n",
    "quoted name": '"ingest": {source: a.csv}\n',
}


@pytest.mark.parametrize("case", FILES)
def test_settings_are_added_and_no_line_is_lost(case: str, tmp_path: Path) -> None:
    """A second run adds nothing; what the project has set stays."""
    path = tmp_path / "params.yaml"
    path.write_bytes(FILES[case].encode())
    before = yaml.safe_load(FILES[case]) or {}
    assert "keep what this project stores. Delete" in migrate(path)
    text = path.read_bytes().decode()
    assert yaml.safe_load(text) == before | {"ingest": SETTINGS | (before.get("ingest") or {})}
    lost = Counter(FILES[case].splitlines()) - Counter(text.splitlines())
    assert not lost or case in ("flow", "flow over lines", "empty flow")
    assert "\n" not in text.replace("\r\n", "") or case != "windows"
    assert (migrate(path), path.read_bytes().decode()) == ("", text)


@pytest.mark.parametrize("case", UNREADABLE)
def test_file_that_cannot_be_read_is_left_with_advice(case: str, tmp_path: Path) -> None:
    """The script does not guess."""
    path = tmp_path / "params.yaml"
    path.write_text(UNREADABLE[case])
    assert "set keep_undeclared: true and personal: keep in `ingest`" in migrate(path)
    assert path.read_text() == UNREADABLE[case]


def test_changed_line_is_recorded_for_make_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not lost; the updater of 0.2.1 would think so, and the line stays."""
    monkeypatch.chdir(tmp_path)
    path, record = Path("params.yaml"), Path("record")
    path.write_text(FILES["empty flow"])
    with monkeypatch.context() as patch:
        for index, name in enumerate(("apply.ignoreWhitespace", "diff.orderFile", "init.templateDir")):
            patch.setenv(f"GIT_CONFIG_KEY_{index}", name)
        assert "could not be changed" in migrate(path)
    assert path.read_text() == FILES["empty flow"]
    monkeypatch.setenv("UPDATE_REWRITTEN", str(record))
    assert "keep what this project stores" in migrate(path)
    assert record.read_text() == '["params.yaml", "ingest: {}"]\n'


FORMER = [release for release in RELEASES if Version(release) < Version("0.5.0")]


@pytest.mark.parametrize("older", FORMER, indirect=True)
def test_update_keeps_what_a_project_stores(
    older: Renderer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """From every release that stored all columns."""
    project = start(older, tmp_path / "project")
    path = project / "params.yaml"
    path.write_text(f"{path.read_text()}# the last line\n")
    commit(project, "a comment")
    before = Counter(path.read_text().splitlines())
    update(project)
    assert Counter(path.read_text().splitlines()) - before == Counter(
        ["  keep_undeclared: true", "  personal: keep"]
    )
    assert not before - Counter(path.read_text().splitlines())
    assert "ingest_defaults: params.yaml: keep_undeclared: true" in capfd.readouterr().err
