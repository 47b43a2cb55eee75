"""Pull: download data and models of `dvc.lock`, and replace broken files.

    python -m <package>.automation.pull

DVC trusts the names of files in its cache: if one was cut off by a full disk or a lost machine, neither
`dvc pull` nor `dvc repro` looks at its content. Here the content is hashed first; broken files are removed.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from ..core.errors import cli
from ..core.files import file_hash, locked_outputs
from ..core.shell import call
from .pipeline import DVC

FAILURE = "pull: not all files are in the remote. `make pipeline` makes what is missing:"


def _list_files(cache: Path) -> Iterator[tuple[Path, str]]:
    """Yield files with the hash that they should have: those of DVC's cache, and those of the project."""
    for path, md5 in locked_outputs().items():
        listing = cache / md5[:2] / md5[2:]
        yield listing, md5.removesuffix(".dir")
        if not md5.endswith(".dir"):
            yield Path(path), md5
            continue
        if listing.exists() and file_hash(listing) == md5.removesuffix(".dir"):
            for entry in msgspec.json.decode(listing.read_bytes()):
                yield cache / entry["md5"][:2] / entry["md5"][2:], entry["md5"]
                yield Path(path) / entry["relpath"], entry["md5"]


def remove_broken() -> list[Path]:
    """Remove files of `dvc.lock` whose content is not what its hash says.

    Returns:
        The files that were removed, of the project and of DVC's cache.
    """
    cache = Path(call(*DVC, "cache", "dir")) / "files/md5"
    files = dict(_list_files(cache))
    broken = [path for path, md5 in files.items() if path.is_file() and file_hash(path) != md5]
    for path in broken:
        path.unlink()
    return broken


def main() -> None:
    """Remove broken files and download what is missing."""
    for path in remove_broken():
        print(f"pull: {path} was broken and is replaced")
    print(call(*DVC, "pull", failure=FAILURE))


if __name__ == "__main__":
    cli(main)
