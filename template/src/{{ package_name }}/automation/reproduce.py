"""Reproduce: rebuild the model of a revision from its data, in a temporary checkout, and compare.

`make reproduce REV=v1.2` succeeds if the bundle and the metrics equal those that the revision recorded.
"""

import json
import os
import sys
from pathlib import Path

from ..core.errors import ProjectError, cli
from ..core.files import table
from ..core.git import checkout
from ..core.paths import BUNDLE, EVALUATION_REPORT, LOCK, METRICS
from ..core.shell import call

Results = dict[str, float | str]
UNSET = dict.fromkeys(("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "MLFLOW_TRACKING_URI"), "")
"""Variables of this project's environment that the revision must not see."""


def _share_storage(folder: Path) -> None:
    """Give another checkout this project's cache and remotes, whose relative addresses do not hold there."""
    from dvc.repo import Repo

    with Repo() as here, Repo(str(folder)) as there, there.config.edit("local") as local:
        local["cache"] = {"dir": here.cache.local_cache_dir}
        local["remote"] = here.config["remote"]


def _make_environment(folder: Path) -> dict[str, str]:
    """Install the libraries of the revision's `uv.lock` (without one, use those of this project)."""
    binaries = Path(sys.executable).parent
    if (folder / "uv.lock").exists():
        call(os.environ.get("UV", "uv"), "sync", "--frozen", "--no-install-project", folder=folder, **UNSET)
        binaries = folder / ".venv/bin"
    (folder / "uv.lock").touch()  # DVC's first stage depends on it
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    return UNSET | {"PATH": path, "PYTHONPATH": str(folder / "src"), "TQDM_DISABLE": "1"}


def _read_results(folder: Path, report: Path, key: str) -> Results:
    """Read the model's version, from the file that has it, and the metrics."""
    version = json.loads((folder / report).read_text(encoding="utf-8"))[key]
    return {"model_version": version} | json.loads((folder / METRICS).read_text(encoding="utf-8"))


def _read_recorded(folder: Path, revision: str) -> Results:
    """Read the results that the revision recorded; raise `ProjectError` if it has none."""
    for path in (LOCK, METRICS, EVALUATION_REPORT):
        if not (folder / path).exists():
            raise ProjectError(f"{revision} has no {path}: commit the files that `make pipeline` writes.")
    return _read_results(folder, EVALUATION_REPORT, "model_version")


def _rebuild(folder: Path, revision: str) -> Results:
    """Run all stages but ingest, whose rows are pulled, because the source may have changed."""
    _share_storage(folder)
    environment = _make_environment(folder)
    failure = f"The data of {revision} is neither in the cache nor in the remote; run `dvc push` where it is:"
    call("dvc", "pull", "ingest", failure=failure, folder=folder, **environment)
    call("dvc", "freeze", "ingest", folder=folder, **environment)
    options = ("--force", "--no-run-cache", "--no-commit")  # run every stage, and leave the cache as it is
    failure = f"The pipeline of {revision} fails:"
    call("dvc", "repro", *options, "evaluate", failure=failure, folder=folder, **environment)
    return _read_results(folder, BUNDLE / "metadata.json", "version")


def main() -> None:
    """Rebuild a revision and compare; raise `ProjectError` if the results differ."""
    revision = " ".join(sys.argv[1:]) or "HEAD"
    with checkout(revision) as folder:
        recorded = _read_recorded(folder, revision)
        print(f"reproduce: rebuilding the model of {revision}")
        rebuilt = _rebuild(folder, revision)
    values = {name: (recorded.get(name), rebuilt.get(name)) for name in recorded | rebuilt}
    rows = [{"": name, "recorded": str(old), "rebuilt": str(new)} for name, (old, new) in values.items()]
    print(table(rows))
    if differing := [name for name, (old, new) in values.items() if old != new]:
        raise ProjectError(f"{revision} is not reproduced; these differ: {', '.join(differing)}")
    print(f"reproduce: {revision} gives the same model and metrics")


if __name__ == "__main__":
    cli(main)
