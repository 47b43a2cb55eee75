"""A release is found in the history, and a commit that may not be one is told why."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, commit, git, run, snapshot
from packaging.version import Version
from releases import rebuild, tags

from hooks.release import HistoryError, faults, releases, retag, sections, version_in

NOTES = "- **Questions**: one more.\n"


def change(folder: Path, version: str, heading: str = "", notes: str = NOTES) -> None:
    """Commit a version, and its section of the changelog before those that are there."""
    (folder / "pyproject.toml").write_text(f'[project]\nversion = "{version}"\n')
    log = folder / "CHANGELOG.md"
    older = log.read_text() if log.exists() else ""
    log.write_text(f"## {heading or f'{version} (2026-01-31)'}\n\n{notes}\n{older}")
    commit(folder, version)


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """Make a history of one release, in a repository with an identity, which tags need."""
    git("init", "--quiet", "--initial-branch=main", cwd=tmp_path)
    git("config", "user.name", "Tester", cwd=tmp_path)
    git("config", "user.email", "tester@example.com", cwd=tmp_path)
    change(tmp_path, "0.1.0.dev0", "0.1.0 (unreleased)")
    change(tmp_path, "0.1.0")
    return tmp_path


def test_releases_are_the_commits_that_change_the_version(template: Path) -> None:
    """Neither a version under way nor a commit that leaves the version alone is one; a merge may be."""
    first = git("rev-parse", "HEAD", cwd=template).strip()
    (template / "pyproject.toml").write_text('[project]\nversion = "0.1.0"\nname = "other"\n')
    commit(template, "name")
    git("switch", "--quiet", "--create", "branch", cwd=template)
    change(template, "0.2.0.dev0", "0.2.0 (unreleased)")
    change(template, "0.2.0")
    git("switch", "--quiet", "main", cwd=template)
    git("merge", "--quiet", "--no-ff", "--no-edit", "branch", cwd=template)
    merged = git("rev-parse", "HEAD", cwd=template).strip()
    assert releases(template) == {Version("0.1.0"): first, Version("0.2.0"): merged}


@pytest.mark.parametrize("version", ["0.1.1", "0.2.0", "1.0.0"])
def test_valid_release_is_allowed(template: Path, version: str) -> None:
    """The ordinary case."""
    change(template, version)
    assert not list(faults(template))


@pytest.mark.parametrize(
    ("version", "heading", "notes", "word"),
    [
        ("0.2.0.dev0", "", NOTES, "none of a release: write X.Y.Z"),
        ("0.2", "", NOTES, "none of a release"),
        ("0.0.9", "", NOTES, "older than 0.1.0"),
        ("0.1.0", "", NOTES, "not set by this commit"),
        ("0.2.0", "0.3.0 (2026-01-31)", NOTES, "write ## 0.2.0 (YYYY-MM-DD)"),
        ("0.2.0", "0.2.0 (unreleased)", NOTES, "no date but (unreleased)"),
        ("0.2.0", "", "", "says nothing"),
        ("0.1.1", "", "### You must\n", "takes a new major version"),
        ("1.1.0", "", "### You must\n", "takes a new major version"),
    ],
)
def test_invalid_release_is_rejected_with_reason(
    template: Path, version: str, heading: str, notes: str, word: str
) -> None:
    """Each rule, broken."""
    change(template, version, heading, notes)
    assert [fault for fault in faults(template) if word in fault]


def test_uncommitted_changes_are_no_release(template: Path) -> None:
    """A tag would be of something else than what was tested."""
    (template / "more").touch()
    assert list(faults(template)) == ["something is not committed"]


def test_retag_sets_tags_from_the_history(template: Path) -> None:
    """Annotated, as by a release; those that are there stay as they are."""
    first = git("rev-parse", "HEAD", cwd=template).strip()
    change(template, "0.2.0")
    change(template, "0.3.0.dev0", "0.3.0 (unreleased)")
    git("tag", "v0.2.0", "HEAD~1", cwd=template)
    assert not retag(template)
    assert tags(template) == ["v0.1.0", "v0.2.0"]
    assert git("rev-parse", "v0.1.0^{commit}", cwd=template).strip() == first
    kinds = git("for-each-ref", "--format=%(objecttype)", "refs/tags", cwd=template)
    assert kinds == "tag\ncommit\n"
    before = git("show-ref", cwd=template)
    assert not retag(template)
    assert git("show-ref", cwd=template) == before


def test_retag_moves_no_existing_tag(template: Path) -> None:
    """Projects may have seen it; the others are set all the same."""
    change(template, "0.2.0")
    git("tag", "--annotate", "--message=x", "v0.1.0", "HEAD", cwd=template)
    before = git("rev-parse", "v0.1.0", cwd=template)
    (fault,) = retag(template)
    assert fault.startswith("v0.1.0 is at ")
    assert fault.endswith(": not moved")
    assert git("rev-parse", "v0.1.0", cwd=template) == before
    assert tags(template) == ["v0.1.0", "v0.2.0"]


def test_retag_works_in_an_untagged_clone(tmp_path: Path) -> None:
    """By the command, whose exit code says when a tag stands elsewhere."""
    folder = tmp_path / "template"
    git("clone", "--quiet", "--no-tags", ROOT, folder, cwd=tmp_path)
    snapshot(folder)
    git("config", "user.name", "Tester", cwd=folder)
    git("config", "user.email", "tester@example.com", cwd=folder)
    command = (sys.executable, "-m", "hooks.release", "retag")
    run(*command, cwd=folder)
    assert tags(folder) == [f"v{version}" for version in releases(folder)]
    git("tag", "--force", "v0.1.0", "HEAD", cwd=folder)
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "error: v0.1.0 is at " in result.stderr


def test_shallow_history_is_rejected(template: Path, tmp_path: Path) -> None:
    """Releases could be missing."""
    git("clone", "--quiet", "--depth=1", f"file://{template}", tmp_path / "shallow", cwd=template)
    with pytest.raises(HistoryError, match="--unshallow"):
        releases(tmp_path / "shallow")


def test_changelog_and_version_agree() -> None:
    """Every release has its section, dated; what is under way has one without a date."""
    dates = {Version(section["version"]): section["date"] for section in sections(ROOT)}
    version = version_in((ROOT / "pyproject.toml").read_text())
    dated = {release for release, date in dates.items() if re.fullmatch(r"\d{4}-\d\d-\d\d", date)}
    assert releases(ROOT).keys() <= dated
    assert max(dates) == Version(version.base_version)
    assert (max(dates) in dated) == (not version.is_prerelease)


def test_working_tree_is_the_newest_release(tmp_path: Path) -> None:
    """Update tests go from tags to tags, and the last holds what is not committed yet."""
    template = rebuild(tmp_path / "template")
    newest = tags(template)[-1]
    for name in ("copier.yml", "template/README.md.jinja"):
        assert git("show", f"{newest}:{name}", cwd=template) == (ROOT / name).read_text()
