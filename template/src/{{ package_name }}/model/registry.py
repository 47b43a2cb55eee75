"""The model in production: the bundle at the newest production tag, fetched by DVC.

`make tag-production` sets that tag, `production/YYYY-MM-DD-N` (UTC) on the default branch: it says that this
commit's model is in production now. What it says comes from the commit, never from the working folder.

    python -m <package>.model.registry --newest
"""

import argparse
import re
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from ..contract import Contract
from ..core.errors import ProjectError, cli
from ..core.git import changes, contains, exists, has_origin
from ..core.paths import BUNDLE, BUNDLE_REPORT, GATE_REPORT, RESULTS
from ..core.shell import call
from . import tracking
from .bundle import Model

FETCHED = Path(".production")
NAME = re.compile(r"production/([0-9]{4}-[0-9]{2}-[0-9]{2})-([1-9][0-9]*)")
CLOCK_TOLERANCE = timedelta(minutes=10)  # at midnight, a clock ahead of this one may have set a tag
REFSPECS = ("+refs/heads/*:refs/remotes/origin/*", "refs/tags/production/*:refs/tags/production/*")
AT_ORIGIN = ("refs/remotes/origin/HEAD", "refs/remotes/origin/main", "refs/remotes/origin/master")
HERE = ("refs/heads/main", "refs/heads/master", "HEAD")
"""What the default branch may be called, the first that there is counts."""
SOURCES = ("dvc.yaml", "params.yaml", "src")
"""What a model is made of, besides its data."""


def tag_key(tag: str) -> tuple[date, int] | None:
    """What production tags are sorted by, day and number; none, if it is not the name of one."""
    match = NAME.fullmatch(tag)
    try:
        return (date.fromisoformat(match[1]), int(match[2])) if match else None
    except ValueError:  # no such day
        return None


def order(tag: str) -> tuple[date, int]:
    """As `tag_key`; what is no production tag comes before all that are."""
    return tag_key(tag) or (date.min, 0)


def recording_branch() -> str:
    """Where production is recorded: the default branch of `origin`, as last fetched; without `origin`, main.

    Raises:
        ProjectError: this clone does not know that branch.
    """
    known = next(filter(exists, AT_ORIGIN if has_origin() else HERE), None)
    if known is None:
        raise ProjectError(
            "production: this clone does not know the default branch of origin, so it cannot tell which "
            "production tags count: git fetch origin && git remote set-head origin --auto"
        )
    return known


def list_tags(*options: str) -> list[str]:
    """Tags below `production/`, whatever they are."""
    form = "--format=%(refname:strip=2)"
    return call("git", "for-each-ref", form, *options, "refs/tags/production").split()


def why_ignored(tag: str, merged: set[str], branch: str) -> str:
    """Why a tag does not count as production; nothing, if it does."""
    key = tag_key(tag)
    if key is None:
        return "not production/YYYY-MM-DD-N"
    if key[0] > (datetime.now(UTC) + CLOCK_TOLERANCE).date():
        return "in the future"
    return "" if tag in merged else f"not on {branch}, as last fetched"


def production_tags() -> list[str]:
    """The tags that count, oldest first; others are named in one warning.

    Raises:
        ProjectError: the clone is shallow, so that tags or commits may be missing, or it does not know the
            default branch: no free pass.
    """
    if call("git", "rev-parse", "--is-shallow-repository") == "true":
        raise ProjectError(
            "gate: this clone is shallow, production tags may be missing: git fetch --unshallow --tags"
        )
    tags = list_tags()
    branch = recording_branch() if any(map(tag_key, tags)) else ""
    merged = set(list_tags(f"--merged={branch}")) if branch else set()
    faults = {tag: why_ignored(tag, merged, branch.removeprefix("refs/remotes/")) for tag in tags}
    if any(faults.values()):
        named = ", ".join(f"{tag} ({fault})" for tag, fault in faults.items() if fault)
        print(f"warning: not counted as production: {named}", file=sys.stderr)
    return sorted((tag for tag in tags if not faults[tag]), key=order)


def newest_tag() -> str | None:
    """The tag of the model in production; none, if nothing was deployed yet.

    Raises:
        ProjectError: as `production_tags`.
    """
    return next(reversed(production_tags()), None)


def commit_of(revision: str) -> str:
    """The commit behind a tag."""
    return call("git", "rev-list", "--max-count=1", revision)


def fetch(tag: str) -> Model:
    """The bundle as it was committed at `tag`, from the cache or the remote.

    Raises:
        ProjectError: it cannot be had, or is broken.
    """
    folder = FETCHED / commit_of(tag)
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        failure = (
            f"gate: the model in production ({tag}) cannot be fetched, so nothing can be compared with it. "
            "Was it pushed (dvc push), and is the remote within reach?"
        )
        get = (sys.executable, "-m", "dvc", "get", "--quiet", ".", BUNDLE, "--rev", tag, "--out", folder)
        call(*get, failure=failure)
    try:
        model = Model(folder)
    except ProjectError as error:
        raise ProjectError(
            f"gate: the model in production ({tag}) is broken: {error} If only this copy is, delete it."
        ) from None
    version = recorded(BUNDLE_REPORT, tag)["version"]
    if model.metadata.version != version:
        raise ProjectError(
            f"gate: the model in production ({tag}) is {version}, but {model.metadata.version} was fetched: "
            f"somebody changed it in the cache or the remote. If only this copy is wrong, delete {folder}."
        )
    return model


def differences(champion: Contract, contract: Contract) -> list[str]:
    """Why a model of one contract cannot answer the test rows of the other."""
    found = []
    if (champion.task, champion.target, champion.labels) != (contract.task, contract.target, contract.labels):
        found.append(f"it answers {champion.target} ({', '.join(champion.labels)})")
    now = {column.name: (column.kind, column.length) for column in contract.kept}
    for column in champion.features:
        if now.get(column.name) != (column.kind, column.length):
            found.append(f"it needs {column.name}, {column.rule}")
    return found


def recorded(path: Path, revision: str = "HEAD") -> dict[str, Any]:
    """A report as a commit holds it, whatever the working folder holds.

    Raises:
        ProjectError: it is not there, or is no JSON.
    """
    lacking = f"production: {revision} holds no {path}: commit what `make pipeline` makes"
    try:
        return msgspec.json.decode(call("git", "show", f"{revision}:./{path}", failure=lacking))
    except msgspec.DecodeError as error:
        raise ProjectError(f"production: {path} of {revision} cannot be read: {error}") from None


def deployable_version() -> str:
    """The version of the model that HEAD holds and the gate promotes.

    Raises:
        ProjectError: the folder holds other results or code than HEAD, or HEAD's model is not promoted.
    """
    if edited := changes((*RESULTS, *SOURCES)):
        raise ProjectError(f"production: commit this first, the tag would be of another model:\n{edited}")
    version, gate = recorded(BUNDLE_REPORT)["version"], recorded(GATE_REPORT)
    if gate["model_version"] != version:
        raise ProjectError(
            f"production: {GATE_REPORT} of HEAD judges model {gate['model_version']}, not {version}: "
            "make gate, and commit"
        )
    if gate["verdict"] != "promote":
        raise ProjectError(
            f"production: the gate's verdict on model {version} is {gate['verdict']}, and only `promote` may "
            f"be in production: {GATE_REPORT.with_suffix('.md')} says why"
        )
    return version


def is_stored() -> bool:
    """Whether the remote has the bundle: its list of files, which DVC pushes last.

    Raises:
        ProjectError: the remote cannot be asked, such as in a job without its credentials.
    """
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            (bundle,) = repo.find_outs_by_path(str(BUNDLE.absolute()))
            remote, name = repo.cloud.get_remote(), bundle.hash_info.value
            if remote.odb.exists(name):
                return True
            away = remote.fs.protocol == "local" and not remote.fs.exists(remote.path)
            if away and not repo.cache.local.exists(name):
                raise ProjectError(f"there is no folder {remote.path}")
    except Exception as error:  # the network and each kind of remote have errors of their own
        raise ProjectError(str(error)) from None
    return False


def check_stored() -> None:
    """Stop if the remote lacks the bundle: nobody else could compare a model with it."""
    try:
        stored = is_stored()
    except ProjectError as error:
        print(f"warning: the remote cannot be asked whether it has the model: {error}", file=sys.stderr)
        return
    if not stored:
        raise ProjectError(f"production: the remote lacks {BUNDLE}: uv run dvc push")


def next_tag(tags: list[str]) -> str:
    """The name that sorts after all tags that count, and that no other tag has."""
    day = max([datetime.now(UTC).date(), *(order(tag)[0] for tag in tags)])
    numbers = (re.match(rf"production/{day}-([0-9]+)", tag) for tag in list_tags())
    return f"production/{day}-{max((int(it[1]) for it in numbers if it), default=0) + 1}"


def tag_commit() -> str:
    """Give HEAD the next production tag, here and at `origin`; the one it has, if that is the newest.

    What an earlier attempt did not push is pushed now.

    Raises:
        ProjectError: HEAD is not on the default branch, or `origin` does not take the tag.
    """
    if has_origin():
        call("git", "fetch", "--quiet", "--no-tags", "origin", *REFSPECS)
    branch, tags = recording_branch(), production_tags()
    if not contains(branch, "HEAD"):
        raise ProjectError(f"production: HEAD is not on {branch}, where deployments are recorded: push it")
    if tags and commit_of(tags[-1]) == commit_of("HEAD"):
        tag = tags[-1]
    else:
        tag = next_tag(tags)
        call("git", "tag", tag)
    if has_origin():
        refused = f"production: origin rejected the tag {tag}, which is set here; repeat make tag-production:"
        call("git", "push", "--quiet", "origin", f"refs/tags/{tag}", failure=refused)
    return tag


def main() -> None:
    parser = argparse.ArgumentParser(description="Record that the model of HEAD is in production.")
    parser.add_argument("--newest", action="store_true", help="only name the newest production tag")
    if parser.parse_args().newest:
        print(newest_tag() or "")
        return
    version = deployable_version()
    check_stored()
    tag = tag_commit()
    print(f"production: model {version} of commit {commit_of('HEAD')[:12]} as {tag}")
    tracking.log_champion(version)


if __name__ == "__main__":
    cli(main)
