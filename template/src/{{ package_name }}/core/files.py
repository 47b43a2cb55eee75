"""Read and write files: JSON, Markdown tables, and the hashes in `dvc.lock`."""

import hashlib
from pathlib import Path
from typing import Any, Literal

import msgspec

from .errors import ProjectError
from .paths import ESTIMATOR, LOCK, STORED


def dvc_hash(content: bytes) -> str:
    """Compute the hash by which DVC names a file.

    Args:
        content: The file's content.

    Returns:
        The MD5 in hexadecimal digits.
    """
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _locked_stages() -> dict[str, Any]:
    """The stages of `dvc.lock`; none before the first run."""
    import yaml

    return yaml.safe_load(LOCK.read_text(encoding="utf-8"))["stages"] if LOCK.exists() else {}


def locked_hashes(stage: str, files: Literal["deps", "outs"]) -> dict[str, str]:
    """Read the hashes of a stage's files from `dvc.lock`.

    Args:
        stage: Name of the stage.
        files: Dependencies or outputs.

    Returns:
        Hashes by path; empty before the stage has run.
    """
    return {file["path"]: file["md5"] for file in _locked_stages().get(stage, {}).get(files, [])}


def file_hash(path: Path) -> str:
    """Compute the hash by which DVC names a file of any size.

    Args:
        path: The file.

    Returns:
        The MD5 in hexadecimal digits.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def locked_outputs() -> dict[str, str]:
    """Read from `dvc.lock` which data and models the stages have made.

    Returns:
        Hashes by path, of what git does not track and DVC stores; empty before the first run.
    """
    outputs = [output for stage in _locked_stages().values() for output in stage.get("outs", [])]
    hashes = {output["path"]: output["md5"] for output in outputs}
    return {path: md5 for path, md5 in hashes.items() if path.startswith(STORED) and path != str(ESTIMATOR)}


def table(rows: list[dict[str, Any]]) -> str:
    """Format rows as a Markdown table.

    Args:
        rows: Values by column; all rows have the same columns.

    Returns:
        The table; empty without rows.
    """
    from tabulate import tabulate

    escaped = [
        {name: cell.replace("|", r"\|") if isinstance(cell, str) else cell for name, cell in row.items()}
        for row in rows
    ]
    return tabulate(escaped, headers="keys", tablefmt="github", floatfmt=".4g", intfmt=",")


def write(path: Path, content: bytes) -> None:
    """Write a file atomically: an interruption leaves the previous content.

    Args:
        path: The file; its folder exists.
        content: The new content.
    """
    draft = path.with_name(f"{path.name}.new")
    draft.write_bytes(content)
    draft.replace(path)


def read_json(path: Path, kind: Any = Any) -> Any:
    """Read a JSON file that a stage has written.

    Args:
        path: The file.
        kind: Type of its content.

    Returns:
        The content.

    Raises:
        ProjectError: The file is missing or broken, as after a full disk.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        raise ProjectError(f"{path} is missing; `make pipeline` writes it") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProjectError(
            f"{path} is broken: {error}. Delete it: `make pipeline` writes it again, and "
            f"`git restore {path}` brings the committed one back"
        ) from None


def readable_json(content: object) -> bytes:
    """Encode as indented JSON.

    Args:
        content: Any msgspec structure, list or dictionary.

    Returns:
        JSON that ends with a newline.
    """
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"


def write_json(path: Path, content: object) -> None:
    """Write indented JSON atomically.

    Args:
        path: The file; its folder exists.
        content: Any msgspec structure, list or dictionary.
    """
    write(path, readable_json(content))
