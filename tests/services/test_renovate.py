"""Renovate, really run: it proposes the template's next release."""

import json
import os
import subprocess
from pathlib import Path

import copier
from helpers import commit, git, require, snapshot

RENOVATE = ("npm", "exec", "--yes", "--ignore-scripts", "--package=renovate@39", "--", "renovate")
LOOK = ("--platform=local", "--dry-run=lookup", "--enabled-managers=copier")


def test_renovate_proposes_the_next_release(tmp_path: Path) -> None:
    """On the branch that the workflow standards would use, so that there is one pull request."""
    require("npm")
    template, project = snapshot(tmp_path / "template.git"), tmp_path / "project"
    for version in ("v1.0.0", "v1.1.0"):
        commit(template, version)
        git("tag", version, cwd=template)
        (template / "next").touch()
    address = f"file://{template}"  # Renovate asks git itself, which needs a whole address
    copier.run_copy(address, project, vcs_ref="v1.0.0", defaults=True, quiet=True)
    commit(project, "start")
    own = {"LOG_LEVEL": "debug", "LOG_FORMAT": "json", "RENOVATE_BASE_DIR": str(tmp_path / "renovate")}
    result = subprocess.run(
        (*RENOVATE, *LOOK), cwd=project, env=os.environ | own, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    entries = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    (proposal,) = [entry["config"] for entry in entries if entry["msg"] == "packageFiles with updates"]
    ((dependency,),) = [file["deps"] for file in proposal["copier"]]
    assert (dependency["packageName"], dependency["currentValue"]) == (address, "v1.0.0")
    (update,) = dependency["updates"]
    assert (update["newValue"], update["branchName"]) == ("v1.1.0", "template/1.1.0")
