"""Compare `dvc.lock` with git: results in git must be those of the code in git.

`dvc status` needs the data for that. The hashes of code and reports need none, so a commit hook can compare
them.
"""

import json
import sys
from typing import Any

from .files import dvc_hash
from .git import changes, is_shallow, list_files, read_blobs, write_tree
from .paths import LOCK, RESULTS, SOURCES
from .shell import call

FIRST_STAGE = "params"
Files = dict[str, bytes]  # content by path


def hash_path(files: Files, path: str) -> str | None:
    """Compute the hash by which DVC names a file or a folder.

    Args:
        files: Files by path.
        path: One of them, or a folder.

    Returns:
        The hash as in `dvc.lock`; None if there is no such file.
    """
    if path in files:
        return dvc_hash(files[path])
    inner = {name.removeprefix(f"{path}/"): files[name] for name in files if name.startswith(f"{path}/")}
    entries = [{"md5": dvc_hash(inner[name]), "relpath": name} for name in sorted(inner)]
    return f"{dvc_hash(json.dumps(entries).encode())}.dir" if entries else None


def _parse(content: bytes) -> dict[str, Any]:
    """The stages of dvc.yaml or dvc.lock."""
    import yaml

    return (yaml.safe_load(content) or {}).get("stages", {})


def _compare_reports(stages: dict[str, Any]) -> list[str]:
    """Name reports that are not as their stage has written them."""
    files = {str(path): path.read_bytes() for path in list_files(*RESULTS) if path.is_file()}
    outs = [out for stage in stages.values() for out in stage.get("outs", [])]
    hashes = {out["path"]: hash_path(files, out["path"]) for out in outs}
    return [
        f"{out['path']} is not what its stage has written"
        for out in outs
        if hashes[out["path"]] not in (None, out["md5"])
    ]


def compare_code(tree: str, derived: Files) -> list[str]:
    """Compare the stages in `dvc.lock` with the code and parameters of a commit.

    The first stage depends on files of which others need a part only: limits of the gate, for example, may
    change without it. So its outputs are compared, if the working folder has the same code.

    Args:
        tree: A commit, or a tree.
        derived: What parameters and declarations of the working folder give for stages to depend on.

    Returns:
        A clause for each stage that differs; empty if the results are those of this code.
    """
    files = read_blobs(tree, *SOURCES)
    if files == read_blobs(write_tree(*SOURCES), *SOURCES):
        files |= derived
    declared, faults = _parse(files.get("dvc.yaml", b"")), []
    for name, stage in _parse(LOCK.read_bytes()).items():
        deps = {dep["path"]: dep["md5"] for dep in stage.get("deps", [])}
        current = declared.get(name, {})
        if (current.get("cmd"), {*current.get("deps", [])}) != (stage["cmd"], {*deps}):
            faults.append(f"dvc.yaml: stage {name} has another command or other dependencies")
        for path, md5 in deps.items() if name != FIRST_STAGE else ():
            if hash_path(files, path) not in (None, md5):
                faults.append(f"{path} is not what stage {name} has run with")
    return faults


def compare_lock(derived: Files) -> list[str]:
    """Compare `dvc.lock` with the reports, and with the code that is committed with it.

    Code may change without results. So the code counts that is about to be committed with changed results,
    else that of the last commit that has changed `dvc.lock`. A shallow clone may lack that commit: a warning.

    Args:
        derived: As for `compare_code`.

    Returns:
        A clause for each difference.
    """
    if not LOCK.exists():
        return []
    faults = _compare_reports(_parse(LOCK.read_bytes()))
    if changes(RESULTS):
        return faults + compare_code(write_tree(*SOURCES), derived)
    if is_shallow():
        print(f"warning: {LOCK} is not compared with the code: this clone is shallow", file=sys.stderr)
        return faults
    commit = call("git", "rev-list", "--max-count=1", "HEAD", "--", LOCK)
    return faults + compare_code(commit, derived) if commit else faults
