"""The model in production: the bundle at the newest `production/*` tag, fetched by DVC.

`make deployed` sets that tag: it says that this commit's model is in production now.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from ..contract import Contract
from ..serving.model import Model
from ..stage import BUNDLE, BUNDLE_REPORT, ProjectError, call
from ..training import tracking

FETCHED = Path(".production")


def newest_tag(pattern: str = "production") -> str | None:
    """The newest tag by its name, `production/<date>-<n>`; none, if nothing was deployed yet.

    Raises:
        ProjectError: the clone is shallow, so that tags may be missing: no free pass.
    """
    newest = ("--sort=-version:refname", "--count=1", "--format=%(refname:strip=2)")
    tag = call("git", "for-each-ref", *newest, f"refs/tags/{pattern}")
    if not tag and call("git", "rev-parse", "--is-shallow-repository") == "true":
        raise ProjectError(
            "gate: this clone is shallow, production tags may be missing: git fetch --unshallow --tags"
        )
    return tag or None


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
        return Model(folder)
    except ProjectError as error:
        raise ProjectError(
            f"gate: the model in production ({tag}) is broken: {error} If only this copy is, delete it."
        ) from None


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


def tag_commit() -> str:
    """Give the checked-out commit the next tag of today, here and at `origin`; the one it has, if newest."""
    newest = newest_tag()
    if newest and commit_of(newest) == commit_of("HEAD"):
        return newest
    today = f"production/{datetime.now(UTC):%Y-%m-%d}"
    last = newest_tag(f"{today}-*")
    tag = f"{today}-{int(last.rpartition('-')[2]) + 1 if last else 1}"
    call("git", "tag", tag)
    if "origin" in call("git", "remote").split():
        call("git", "push", "--quiet", "origin", tag)
    return tag


def main() -> None:
    version = msgspec.json.decode(BUNDLE_REPORT.read_bytes())["version"]
    print(f"production: model {version} as {tag_commit()}")
    tracking.log_champion(version)


if __name__ == "__main__":
    main()
