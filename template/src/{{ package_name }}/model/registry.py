"""The model in production: the bundle at the newest production tag, downloaded by DVC.

`make tag-production` sets that tag, `production/YYYY-MM-DD-N` (UTC), on a commit of the default branch: the
model of this commit is in production now. Everything about that model is read from the commit, never from the
working folder.

    python -m <package>.model.registry --newest
"""

import argparse
import re
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from ..contract import Contract
from ..core.errors import ProjectError, cli
from ..core.git import changes, contains, exists, has_origin, is_shallow
from ..core.paths import BUNDLE, BUNDLE_REPORT, GATE_REPORT, RESULTS, SOURCES
from ..core.shell import call
from . import tracking
from .bundle import Model

CHAMPIONS = Path(".production")
TAG = re.compile(r"production/([0-9]{4}-[0-9]{2}-[0-9]{2})-([1-9][0-9]*)")
NO_KEY = (date.min, 0)  # of a tag that is not a production tag
CLOCK_TOLERANCE = timedelta(minutes=10)  # around midnight, a faster clock may have set a tag of tomorrow
REFSPECS = ("+refs/heads/*:refs/remotes/origin/*", "refs/tags/production/*:refs/tags/production/*")
DEFAULT_BRANCHES = {
    True: ("refs/remotes/origin/HEAD", "refs/remotes/origin/main", "refs/remotes/origin/master"),
    False: ("refs/heads/main", "refs/heads/master", "HEAD"),
}
"""Names of the default branch, with and without `origin`; the first that exists counts."""


def _parse_tag(tag: str) -> tuple[date, int]:
    """Day and number of a production tag, by which they are sorted; `NO_KEY` for another tag."""
    match = TAG.fullmatch(tag)
    try:
        return (date.fromisoformat(match[1]), int(match[2])) if match else NO_KEY
    except ValueError:  # no such day
        return NO_KEY


def _default_branch() -> str:
    """The branch whose production tags count: that of `origin` as last fetched, else main."""
    branch = next(filter(exists, DEFAULT_BRANCHES[has_origin()]), None)
    if branch is None:
        raise ProjectError(
            "production: this clone does not know the default branch of origin, so it cannot tell which "
            "production tags count: git fetch origin && git remote set-head origin --auto"
        )
    return branch


def _list_tags(*options: str) -> list[str]:
    """All tags below `production/`, valid or not."""
    form = "--format=%(refname:strip=2)"
    return call("git", "for-each-ref", form, *options, "refs/tags/production").split()


def _tag_fault(tag: str, merged: set[str], branch: str) -> str:
    """Why a tag does not count as production; empty if it does."""
    key = _parse_tag(tag)
    if key == NO_KEY:
        return "not production/YYYY-MM-DD-N"
    if key[0] > (datetime.now(UTC) + CLOCK_TOLERANCE).date():
        return "in the future"
    return "" if tag in merged else f"not on {branch}, as last fetched"


def _production_tags() -> list[str]:
    """The tags that count, oldest first; one warning names all others."""
    if is_shallow():
        raise ProjectError(
            "production: this clone is shallow, production tags may be missing: git fetch --unshallow --tags"
        )
    tags = _list_tags()
    branch = _default_branch() if any(_parse_tag(tag) != NO_KEY for tag in tags) else ""
    merged = set(_list_tags(f"--merged={branch}")) if branch else set()
    faults = {tag: _tag_fault(tag, merged, branch.removeprefix("refs/remotes/")) for tag in tags}
    if any(faults.values()):
        ignored = ", ".join(f"{tag} ({fault})" for tag, fault in faults.items() if fault)
        print(f"warning: not counted as production: {ignored}", file=sys.stderr)
    return sorted((tag for tag in tags if not faults[tag]), key=_parse_tag)


def find_production_tag() -> str | None:
    """Find the tag of the model in production.

    Tags that are no valid production tags, are in the future or are not on the default branch do not count;
    one warning names them.

    Returns:
        The newest tag by day and number; None if no model was deployed yet.

    Raises:
        ProjectError: The clone is shallow or does not know the default branch, so that a tag may be missing.
    """
    return next(reversed(_production_tags()), None)


def _commit_of(revision: str) -> str:
    """The commit of a tag."""
    return call("git", "rev-list", "--max-count=1", revision)


def load_champion(tag: str) -> Model:
    """Load the bundle of a production tag, from DVC's cache or the remote.

    Args:
        tag: A production tag.

    Returns:
        The bundle as it was committed. A copy stays in `.production/`.

    Raises:
        ProjectError: It cannot be downloaded, is broken, or is not the version that the commit names.
    """
    folder = CHAMPIONS / _commit_of(tag)
    subject = f"production: the model in production ({tag})"
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        failure = (
            f"{subject} cannot be downloaded, so no model can be compared with it. Was it pushed "
            "(dvc push), and can this machine reach the remote?"
        )
        get = (sys.executable, "-m", "dvc", "get", "--quiet", ".", BUNDLE, "--rev", tag, "--out", folder)
        call(*get, failure=failure)
    try:
        model = Model(folder)
    except ProjectError as error:
        raise ProjectError(f"{subject} is broken: {error} If only this copy is, delete it.") from None
    expected = recorded_hash(tag)
    if not model.sha256.startswith(expected):
        raise ProjectError(
            f"{subject} is {expected}, but {model.sha256} was downloaded: the cache or the remote was "
            f"changed. If only this copy is wrong, delete {folder}."
        )
    return model


def contract_differences(champion: Contract, contract: Contract) -> list[str]:
    """List why the champion cannot predict the test rows of a new contract.

    Args:
        champion: The champion's contract.
        contract: The current contract.

    Returns:
        One clause for each reason; empty if the two models can be compared.
    """
    differences = []
    if (champion.task, champion.target, champion.labels) != (contract.task, contract.target, contract.labels):
        rule = champion.column(champion.target).rule
        differences.append(f"it predicts {champion.target}, {rule}")
    types = {column.name: (column.kind, column.length) for column in contract.kept}
    changed = [c for c in champion.features if types.get(c.name) != (c.kind, c.length)]
    return differences + [f"it needs {column.name}, {column.rule}" for column in changed]


def read_report(path: Path, revision: str = "HEAD") -> dict[str, Any]:
    """Read a report as a commit holds it, whatever the working folder holds.

    Args:
        path: The report.
        revision: The commit.

    Returns:
        Its content.

    Raises:
        ProjectError: The commit lacks it, or it is broken.
    """
    failure = f"production: {revision} holds no {path}: commit the results of `make pipeline`"
    try:
        return msgspec.json.decode(call("git", "show", f"{revision}:./{path}", failure=failure))
    except msgspec.DecodeError as error:
        raise ProjectError(f"production: {path} of {revision} cannot be read: {error}") from None


def recorded_hash(revision: str = "HEAD") -> str:
    """Read which bundle a commit names.

    Args:
        revision: The commit.

    Returns:
        Its SHA-256; the first twelve digits in commits of releases before 0.5.
    """
    report = read_report(BUNDLE_REPORT, revision)
    return report.get("sha256") or report["version"]


def check_deployable() -> str:
    """Check that HEAD may be tagged: everything is committed and the gate promotes its model.

    Returns:
        The version of the model.

    Raises:
        ProjectError: The working folder has other results or code than HEAD, or the model of HEAD is not
            promoted.
    """
    if edited := changes((*RESULTS, *SOURCES)):
        raise ProjectError(f"production: commit this first, else the tag names another model:\n{edited}")
    version, gate = read_report(BUNDLE_REPORT)["version"], read_report(GATE_REPORT)
    if gate["model_version"] != version:
        raise ProjectError(
            f"production: {GATE_REPORT} of HEAD is about model {gate['model_version']}, the bundle is "
            f"{version}: make gate, and commit"
        )
    if gate["verdict"] != "promote":
        raise ProjectError(
            f"production: the gate's verdict on model {version} is {gate['verdict']}; only `promote` may be "
            f"deployed. {GATE_REPORT.with_suffix('.md')} has the reasons"
        )
    return version


def check_stored() -> None:
    """Check that the remote has the bundle of HEAD: without it, no clone could compare a model with it.

    A remote that cannot be reached, as in a job without its credentials, is a warning.

    Raises:
        ProjectError: The remote lacks the bundle.
    """
    import dvc.api
    from dvc.exceptions import PathMissingError

    try:
        with TemporaryDirectory() as cache:  # an empty cache: the file has to come from the remote
            dvc.api.read(str(BUNDLE / "metadata.json"), rev="HEAD", config={"cache": {"dir": cache}})
    except Exception as error:  # the network and each kind of remote have errors of their own
        reason = str(error)
        if isinstance(error, PathMissingError) or isinstance(error.__cause__, FileNotFoundError):
            address = dvc.api.get_url(str(BUNDLE), rev="HEAD")
            folder = Path(address).parents[3]  # FOLDER/files/md5/ab/cdef…dir
            if BUNDLE.exists() or "://" in address or folder.exists():
                raise ProjectError(f"production: the remote lacks {BUNDLE}: uv run dvc push") from None
            reason = f"there is no folder {folder}"
        print(f"warning: cannot check that the remote has the model: {reason}", file=sys.stderr)


def _next_tag(tags: list[str]) -> str:
    """A name that sorts after all tags that count, and that no other tag has."""
    day = max([datetime.now(UTC).date(), *(_parse_tag(tag)[0] for tag in tags)])
    matches = (re.match(rf"production/{day}-([0-9]+)", tag) for tag in _list_tags())
    return f"production/{day}-{max((int(match[1]) for match in matches if match), default=0) + 1}"


def tag_production() -> str:
    """Set the next production tag on HEAD, here and at `origin`.

    If HEAD has the newest tag already, that tag stays; if an earlier push failed, it is pushed now.

    Returns:
        The tag.

    Raises:
        ProjectError: HEAD is not on the default branch, or `origin` rejects the tag.
    """
    if has_origin():
        call("git", "fetch", "--quiet", "--no-tags", "origin", *REFSPECS)
    branch, tags = _default_branch(), _production_tags()
    if not contains(branch, "HEAD"):
        raise ProjectError(f"production: HEAD is not on {branch}, where deployments are recorded: push it")
    if tags and _commit_of(tags[-1]) == _commit_of("HEAD"):
        tag = tags[-1]
    else:
        tag = _next_tag(tags)
        call("git", "tag", tag)
    if has_origin():
        failure = f"production: {tag} is set here, but origin rejected it. `make tag-production` retries:"
        call("git", "push", "--quiet", "origin", f"refs/tags/{tag}", failure=failure)
    return tag


def main() -> None:
    """Tag HEAD as in production, or print the newest production tag."""
    parser = argparse.ArgumentParser(description="Record that the model of HEAD is in production.")
    parser.add_argument("--newest", action="store_true", help="only print the newest production tag")
    if parser.parse_args().newest:
        print(find_production_tag() or "")
        return
    version = check_deployable()
    check_stored()
    tag = tag_production()
    print(f"production: model {version} of commit {_commit_of('HEAD')[:12]} as {tag}")
    tracking.set_champion_alias(version)


if __name__ == "__main__":
    cli(main)
