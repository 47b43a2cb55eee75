"""Reproduce: make a revision's model again from its data, in a folder apart, and compare.

`make reproduce REV=v1.2` ends with exit code 0 when bundle and metrics are what the revision recorded.
"""

import json
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ..core.errors import ProjectError, cli
from ..core.files import table
from ..core.paths import BUNDLE, EVALUATION_REPORT, METRICS
from ..core.shell import call

Results = dict[str, float | str]
OURS = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "MLFLOW_TRACKING_URI")  # of no concern to the revision


@contextmanager
def checked_out(revision: str) -> Generator[Path]:
    """The project as it was, in a temporary folder."""
    unknown = f"git knows no revision {revision}; perhaps after `git fetch --tags`."
    commit = call("git", "rev-parse", "--quiet", "--verify", f"{revision}^0", failure=unknown)
    inner = call("git", "rev-parse", "--show-prefix")
    with TemporaryDirectory() as temporary:
        tree = Path(temporary).resolve() / "tree"
        call("git", "worktree", "add", "--detach", tree, commit)
        try:
            yield tree / inner
        finally:
            call("git", "worktree", "remove", "--force", tree)


def share_storage(folder: Path) -> None:
    """Give another checkout this one's cache and remotes: relative addresses would not hold there."""
    from dvc.repo import Repo

    with Repo() as here, Repo(str(folder)) as there, there.config.edit("local") as local:
        local["cache"] = {"dir": here.cache.local_cache_dir}
        local["remote"] = here.config["remote"]


def environment(folder: Path) -> dict[str, str]:
    """What commands there run in: the libraries of its `uv.lock`, else those that are here."""
    binaries = Path(sys.executable).parent
    if (folder / "uv.lock").exists():
        uv = os.environ.get("UV", "uv")
        call(uv, "sync", "--frozen", "--no-install-project", folder=folder, **dict.fromkeys(OURS, ""))
        binaries = folder / ".venv/bin"
    (folder / "uv.lock").touch()  # the first stage depends on it
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    own = {"PATH": path, "PYTHONPATH": str(folder / "src"), "TQDM_DISABLE": "1"}
    return dict.fromkeys(OURS, "") | own


def results(folder: Path, version: Path, key: str) -> Results:
    """The bundle's version, from the file that says it, and the metrics."""
    model_version = json.loads((folder / version).read_text())[key]
    return {"model_version": model_version} | json.loads((folder / METRICS).read_text())


def recorded(folder: Path, revision: str) -> Results:
    """What the revision says of itself; raise `ProjectError` if it holds no model."""
    for name in (Path("dvc.lock"), METRICS, EVALUATION_REPORT):
        if not (folder / name).exists():
            raise ProjectError(f"{revision} holds no {name}: commit what `make pipeline` makes.")
    return results(folder, EVALUATION_REPORT, "model_version")


def remade(folder: Path, revision: str) -> Results:
    """Run everything but ingestion, whose rows are pulled: the source may hold others by now."""
    share_storage(folder)
    env = environment(folder)
    lost = f"The data of {revision} is neither in the cache nor in the remote: `dvc push` was forgotten."
    call("dvc", "pull", "ingest", failure=lost, folder=folder, **env)
    call("dvc", "freeze", "ingest", folder=folder, **env)
    options = ("--force", "--no-run-cache", "--no-commit")  # run indeed, and leave the cache as it is
    failure = f"The pipeline of {revision} fails."
    call("dvc", "repro", *options, "evaluate", failure=failure, folder=folder, **env)
    return results(folder, BUNDLE / "metadata.json", "version")


def main() -> None:
    revision = " ".join(sys.argv[1:]) or "HEAD"
    with checked_out(revision) as folder:
        before = recorded(folder, revision)
        print(f"reproduce: making the model of {revision} again")
        after = remade(folder, revision)
    both = {name: (str(before.get(name)), str(after.get(name))) for name in before | after}
    print(table([{"": name, "recorded": old, "remade": new} for name, (old, new) in both.items()]))
    differing = [name for name, (old, new) in both.items() if old != new]
    if differing:
        raise ProjectError(f"{revision} is not reproduced: {', '.join(differing)} differ.")
    print(f"reproduce: {revision} gives the same model and metrics")


if __name__ == "__main__":
    cli(main)
