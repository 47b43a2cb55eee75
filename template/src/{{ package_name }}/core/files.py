"""Read and write files: JSON, tables, and what DVC knows of them."""

import hashlib
from pathlib import Path
from typing import Any, Literal

import msgspec

from .paths import LOCK


def dvc_hash(content: bytes) -> str:
    """The hash by which DVC names a file of that content."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def locked_hashes(stage: str, files: Literal["deps", "outs"]) -> dict[str, str]:
    """Hashes of a stage's files by their paths, as `dvc.lock` has them; empty before the stage ever ran."""
    import yaml

    stages = yaml.safe_load(LOCK.read_text(encoding="utf-8"))["stages"] if LOCK.exists() else {}
    return {file["path"]: file["md5"] for file in stages.get(stage, {}).get(files, [])}


def table(rows: list[dict[str, Any]]) -> str:
    """Write rows as a Markdown table; nothing, if there are none."""
    from tabulate import tabulate

    return tabulate(rows, headers="keys", tablefmt="github", floatfmt=".4g", intfmt=",")


def write(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    draft = path.with_name(f"{path.name}.new")
    draft.write_bytes(content)
    draft.replace(path)


def readable_json(content: object) -> bytes:
    """Any msgspec structure, list or dictionary as readable JSON."""
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"


def write_json(path: Path, content: object) -> None:
    """Write any msgspec structure, list or dictionary as readable JSON."""
    write(path, readable_json(content))
