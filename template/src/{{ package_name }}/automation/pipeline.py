"""Pipeline: run the stages whose inputs changed, as `dvc repro` does.

    python -m <package>.automation.pipeline

DVC neither pushes nor pulls the estimator, because a pickle runs code when it is loaded. In a clone it is
missing, and `dvc repro` would train it again; here that happens only if the bundle has to be built again.
"""

import subprocess
import sys

import msgspec

from ..core.errors import cli
from ..core.files import dvc_hash, locked_hashes
from ..core.paths import CLEAN, ESTIMATOR, RAW
from ..core.shell import call

DVC = (sys.executable, "-m", "dvc")


def _has_estimator() -> bool:
    """Whether the estimator of `dvc.lock` is here; True before `dvc.lock` names one."""
    locked = locked_hashes("train", "outs")
    if str(ESTIMATOR) not in locked:
        return True
    return ESTIMATOR.exists() and dvc_hash(ESTIMATOR.read_bytes()) == locked[str(ESTIMATOR)]


def _only_estimator_differs() -> bool:
    """Whether train and bundle differ from `dvc.lock` by the estimator alone, and all data is here."""
    call(*DVC, "repro", "--quiet", "params")
    status = msgspec.json.decode(call(*DVC, "status", "--json", "train", "bundle"))
    changes = [change for stage in status.values() for change in stage]
    # A change is a text (the command changed) or a dictionary: kind of change → file → state.
    files = [change if isinstance(change, str) else set().union(*change.values()) for change in changes]
    return RAW.exists() and CLEAN.exists() and all(names == {str(ESTIMATOR)} for names in files)


def main() -> None:
    """Run `dvc repro`, without training again only because the estimator is missing."""
    options = []
    if not _has_estimator() and _only_estimator_differs():
        ESTIMATOR.unlink(missing_ok=True)  # an estimator of another branch would count as a change
        options = ["--allow-missing"]
    sys.exit(subprocess.run((*DVC, "repro", *options), check=False).returncode)


if __name__ == "__main__":
    cli(main)
