"""Take over the template's newest release, or other answers, and keep all that is yours.

    python -m <package>.update [--trust] [--data question=answer …]

The arguments are those of `copier update`. Copier merges and marks conflicts; what it deletes although you
changed it comes back here.
"""

import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import copier
import yaml

from .stage import ProjectError, call

ANSWERS = Path(".copier-answers.yml")


def render(folder: Path) -> None:
    """Write into a folder what the template made of this project, at the release that it has."""
    answers = yaml.safe_load(ANSWERS.read_text(encoding="utf-8"))
    source, release = answers["_src_path"], answers["_commit"]
    given = {name: answer for name, answer in answers.items() if not name.startswith("_")}
    try:
        copier.run_copy(source, folder, data=given, vcs_ref=release, defaults=True, quiet=True)
    except Exception as error:  # Copier, git and the network each have errors of their own
        raise ProjectError(
            f"release {release} of the template at {source} cannot be read: {error}\n"
            f"_src_path in {ANSWERS} must be the template's address, or its full path, and hold that tag."
        ) from None


def listed(*options: str) -> list[Path]:
    """Files that git lists."""
    return [Path(name) for name in call("git", "ls-files", "-z", *options).split("\0") if name]


def lines(path: Path) -> Counter[bytes]:
    """The lines of a file; none if it is not there."""
    return Counter(path.read_bytes().splitlines() if path.is_file() else ())


def restore(mine: dict[Path, Counter[bytes]]) -> list[Path]:
    """Bring files back that are gone, unless your lines of them stand in a file that the update wrote."""
    written = [lines(path).keys() for path in listed("--modified", "--others", "--exclude-standard")]
    lost = [path for path, own in mine.items() if own and not path.exists()]
    gone = [path for path in lost if not any(mine[path].keys() <= there for there in written)]
    for path in gone:
        call("git", "checkout", "HEAD", "--", str(path))
    return gone


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        render(Path(folder))
        mine = {path: lines(path) - lines(folder / path) for path in listed()}
    command = (sys.executable, "-m", "copier", "update", "--defaults", *sys.argv[1:])
    done = subprocess.run(command, stderr=subprocess.STDOUT, check=False)  # reports are to be kept together
    if done.returncode:
        sys.exit(done.returncode)
    for path in restore(mine):
        print(f"update: {path} is no longer the template's; you had changed it, so it stays, as your own")
    if conflicts := call("git", "diff", "--name-only", "--diff-filter=U"):
        raise ProjectError(
            f"both you and the template changed the same lines. Mend them, then `git add`:\n{conflicts}"
        )


if __name__ == "__main__":
    main()
