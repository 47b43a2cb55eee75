"""Pipeline: bring every stage up to date, and train nothing again that is only not at hand.

    python -m <package>.automation.pipeline

The estimator is a pickle, which runs code when it is loaded, so DVC neither pushes nor pulls it. Where it
is missing, as in a clone, `dvc repro` would train it again; here that happens only if the bundle needs it.
"""

import subprocess
import sys

import msgspec

from ..core.errors import cli
from ..core.files import dvc_hash, locked_hashes
from ..core.paths import CLEAN, ESTIMATOR, RAW
from ..core.shell import call

DVC = (sys.executable, "-m", "dvc")


def has_estimator() -> bool:
    """Whether the estimator of `dvc.lock` is here; before there is one, none is missing."""
    locked = locked_hashes("train", "outs")
    if str(ESTIMATOR) not in locked:
        return True
    if not ESTIMATOR.exists():
        return False
    return dvc_hash(ESTIMATOR.read_bytes()) == locked[str(ESTIMATOR)]


def is_all_else_current() -> bool:
    """Whether training and bundle differ from `dvc.lock` by the estimator alone, and all data is here."""
    call(*DVC, "repro", "--quiet", "params")
    status = msgspec.json.decode(call(*DVC, "status", "--json", "train", "bundle"))
    changes = [change for stage in status.values() for change in stage]
    # A change is a text (of the command) or a dictionary: kind of change, then files.
    differing = [
        it if isinstance(it, str) else {name for files in it.values() for name in files} for it in changes
    ]
    return RAW.exists() and CLEAN.exists() and all(it == {str(ESTIMATOR)} for it in differing)


def main() -> None:
    options = []
    if not has_estimator() and is_all_else_current():
        ESTIMATOR.unlink(missing_ok=True)  # one of another branch would count as a change
        options = ["--allow-missing"]
    sys.exit(subprocess.run((*DVC, "repro", *options), check=False).returncode)


if __name__ == "__main__":
    cli(main)
