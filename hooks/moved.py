"""Take a project's changes of files that the template moved or dropped along, and rewrite its imports.

    moved.py [--answers FILE] OLD=NEW … OLD …
    moved.py [--answers FILE] --package NAME --moves moves-X.Y.Z.yaml

Copier deletes such a file with all changes in it. This runs in the project, as a migration after an update.
It merges the changes into NEW; a changed file that the template dropped stays, as the project's own. With a
table of moves, it also rewrites the project's imports of the moved modules (imports.py).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import copier
import yaml

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH, which hooks/fleet.py sets, leaves it out
import imports

LABELS = ("before updating", "last update", "after updating")
"""How Copier labels the sides of a conflict."""
RECORD = "UPDATE_REWRITTEN"
"""Variable of `make update`: the file that takes the lines that a migration rewrote, which are not lost."""
DIRECT = "GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 uvx copier update --defaults --trust"


class UpdaterError(Exception):
    """The program that runs the update would take a rewritten import for a lost line."""


def git(*args: str | Path, content: bytes = b"") -> bytes:
    """Run git; raise `CalledProcessError` if it fails."""
    command = ("git", "-c", f"core.hooksPath={os.devnull}", *args)
    return subprocess.run(command, input=content, capture_output=True, check=True).stdout


def read_committed(path: str) -> bytes | None:
    """Read a file as it was before the update; None if there was none."""
    entry = git("ls-tree", "HEAD", "--", path)
    return git("cat-file", "blob", entry.split()[2].decode()) if entry else None


def render(answers_file: str, folder: Path) -> None:
    """Render the project as the template had made it before the update."""
    recorded = read_committed(answers_file)
    if recorded is None:
        raise FileNotFoundError(f"{answers_file}, which names the template, is not committed")
    project_answers = yaml.safe_load(recorded)
    source, version = project_answers["_src_path"], project_answers["_commit"]
    data = {name: answer for name, answer in project_answers.items() if not name.startswith("_")}
    copier.run_copy(source, folder, data=data, vcs_ref=version, defaults=True, quiet=True)


def move(old: str, new: str, base: Path) -> None:
    """Take the project's changes of one file along.

    Args:
        old: the file's path before the update.
        new: its path after the update; empty if the template dropped it.
        base: the file as the template had made it.
    """
    content = read_committed(old)
    if not base.exists() or (content is not None and content == base.read_bytes()):
        return
    if content is None:
        if new and read_committed(new) is None:
            Path(new).unlink(missing_ok=True)
            report(f"{old} is now {new}; you had deleted it, so it is not written")
    elif not new or read_committed(new) is not None or not Path(new).exists():
        git("checkout", "HEAD", "--", old)
        report(f"{old} is no longer the template's; you had changed it, so it stays, as your own")
    elif not git("ls-files", "--unmerged", "--", new):
        merge(old, new, base)


def merge(old: str, new: str, base: Path) -> None:
    """Merge the project's version of `old` and the template's `new`; mark a conflict in git's index too."""
    template_version = Path(new).read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        project_file = Path(folder, "project")
        project_file.write_bytes(read_committed(old) or b"")
        labels = [word for label in LABELS for word in ("-L", label)]
        command = ("git", "merge-file", "-p", *labels, project_file, base, new)
        result = subprocess.run(command, capture_output=True, check=False)
        if result.returncode < 0 or result.returncode > 127:
            raise RuntimeError(f"{old} and {new} cannot be merged: {result.stderr.decode().strip()}")
        versions = (base.read_bytes(), project_file.read_bytes(), template_version)
    Path(new).write_bytes(result.stdout)
    Path(old).unlink(missing_ok=True)
    if result.returncode:
        mark_conflict(new, git("ls-tree", "HEAD", "--", old).split()[0].decode(), versions)
    report(f"{old} is now {new}; your changes " + ("conflict with it" if result.returncode else "are in it"))


def mark_conflict(path: str, mode: str, versions: tuple[bytes, ...]) -> None:
    """Write a conflict into git's index.

    Args:
        path: the file, from the project's folder.
        mode: its mode, as git writes it.
        versions: the content of base, project and template.
    """
    place = git("rev-parse", "--show-prefix").decode().strip() + path
    blobs = [git("hash-object", "-w", "--stdin", content=version).decode().strip() for version in versions]
    lines = [f"{mode} {blob} {stage}\t{place}\n" for stage, blob in enumerate(blobs, start=1)]
    git("update-index", "--index-info", content="".join(lines).encode())


def undo() -> str:
    """Restore the project's folder; Copier starts only if everything in it is committed.

    Returns:
        What was done, for the reader. Nothing outside of the folder is touched.
    """
    git("reset", "--quiet", "HEAD", "--", ".")  # restore refuses a conflict in a file that HEAD does not have
    git("restore", "--source=HEAD", "--staged", "--worktree", "--", ".")
    shown = git("config", "--default", "normal", "--get", "status.showUntrackedFiles").strip()
    if shown in (b"no", b"false"):  # Copier may have started beside files that git does not know
        return "What is committed is as before the update; delete what `git status -unormal .` shows as new."
    git("clean", "--quiet", "-d", "--force", "--", ".")
    return "It is as it was before the update."


def rewrite_imports(moves: imports.Moves, base: Path) -> None:
    """Rewrite the imports of moved modules in every Python file and notebook that git does not ignore.

    Args:
        moves: what moved.
        base: the project as the template had made it.

    Raises:
        UpdaterError: release 0.2.1's `make update` runs this, and a line of the project's own is rewritten.
    """
    patterns = ("*.py", "*.ipynb")
    names = git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns)
    for path in sorted({Path(os.fsdecode(name)) for name in names.split(b"\0") if name}):
        if path.is_file():
            before = read_lines(path)
            for problem in imports.rewrite_file(path, moves):
                report(problem)
            record_rewritten(path, before - read_lines(path), base)


def read_lines(path: Path) -> Counter[bytes]:
    """Count the lines of a file; there are none if it is missing."""
    return Counter(path.read_bytes().splitlines() if path.is_file() else ())


def record_rewritten(path: Path, rewritten: Counter[bytes], base: Path) -> None:
    """Record the rewritten lines for `make update`; that of 0.2.1 does not read the record."""
    if RECORD in os.environ:
        with Path(os.environ[RECORD]).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps([str(path), line.decode()]) + "\n" for line in rewritten.elements())
    elif is_unaware() and (own := sorted(rewritten - read_lines(base / path))):
        raise UpdaterError(
            f"`make update` of release 0.2.1 takes a rewritten import for a lost line, here in {path}:"
            f" {own[0].decode()}\nUpdate with Copier itself this once: {DIRECT}"
        )


def is_unaware() -> bool:
    """Whether release 0.2.1's program runs the update, which knows nothing of rewritten lines."""
    keys = {value for name, value in os.environ.items() if name.startswith("GIT_CONFIG_KEY_")}
    return {"apply.ignoreWhitespace", "diff.orderFile", "init.templateDir"} <= keys


def report(message: str) -> None:
    """Print a line among Copier's."""
    print(f"moved: {message}", file=sys.stderr)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--answers", default=".copier-answers.yml", help="the answers file (%(default)s)")
    parser.add_argument("--package", help="the project's package")
    parser.add_argument("--moves", type=Path, help="a release's table of moves, beside this script")
    parser.add_argument("paths", nargs="*", metavar="OLD[=NEW]")
    return parser.parse_args()


def main() -> None:
    """Move all files, or none: a failure undoes the update."""
    options = parse_arguments()
    pairs = [word.partition("=")[::2] for word in options.paths]
    try:
        table = yaml.safe_load(options.moves.read_text(encoding="utf-8")) if options.moves else {}
        root = f"src/{options.package}"
        pairs += [(f"{root}/{old}", f"{root}/{new}") for old, new in table.get("modules", {}).items()]
        pairs += [(f"{root}/{old}", "") for old in table.get("dropped", [])]
        with tempfile.TemporaryDirectory() as folder:
            render(options.answers, Path(folder))
            for old, new in pairs:
                move(old, new, Path(folder, old))
            if table:
                rewrite_imports(imports.read_moves(options.package, table), Path(folder))
    except UpdaterError as error:
        sys.exit(f"moved: {error}\n{undo()}")
    except Exception as error:
        sys.exit(
            f"moved: {error}\nOnly the project's folder, {Path.cwd()}, was restored. {undo()} Fix the cause"
            " and update again; or restore the template's file, update, and repeat your changes."
        )


if __name__ == "__main__":
    main()
