"""The model in production: the bundle at the newest `production/*` tag, fetched by DVC."""

import subprocess
import sys
from pathlib import Path

from ..contract import Contract
from ..serving.model import Model
from ..stage import BUNDLE, ProjectError

FETCHED = Path(".production")


def git(*words: str) -> str:
    """What git answers; raises `ProjectError` with what it said if it fails."""
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProjectError(f"gate: git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()


def newest_tag() -> str | None:
    """The newest tag by its name, `production/<date>-<n>`; none, if nothing was deployed yet.

    Raises:
        ProjectError: the clone is shallow, so that tags may be missing: no free pass.
    """
    newest = ("--sort=-version:refname", "--count=1", "--format=%(refname:strip=2)")
    tag = git("for-each-ref", *newest, "refs/tags/production")
    if not tag and git("rev-parse", "--is-shallow-repository") == "true":
        raise ProjectError(
            "gate: this clone is shallow, production tags may be missing: git fetch --unshallow --tags"
        )
    return tag or None


def fetch(tag: str) -> Model:
    """The bundle as it was committed at `tag`, from the cache or the remote.

    Raises:
        ProjectError: it cannot be had, or is broken.
    """
    folder = FETCHED / git("rev-list", "--max-count=1", tag)
    if not folder.exists():
        command = ("dvc", "get", "--quiet", ".", str(BUNDLE), "--rev", tag, "--out", str(folder))
        folder.parent.mkdir(exist_ok=True)
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
        if done.returncode:
            raise ProjectError(
                f"gate: the model in production ({tag}) cannot be fetched, so nothing can be compared with "
                f"it. Was it pushed (dvc push), and is the remote within reach?\n{done.stderr.strip()}"
            )
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
