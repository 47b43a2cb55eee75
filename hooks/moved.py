"""Keep what a project changed in files that the template has moved or dropped.

    moved.py [--answers FILE] OLD=NEW … OLD …

Copier deletes such a file with all that was changed in it. Run in the project, as a migration after an
update, this merges the changes into NEW; an edited file that the template dropped stays, as the project's.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import copier
import yaml

LABELS = ("before updating", "last update", "after updating")  # as Copier marks conflicts


def git(*args: str | Path, fed: bytes = b"") -> bytes:
    """Run git; raise `CalledProcessError` if it fails."""
    command = ("git", "-c", f"core.hooksPath={os.devnull}", *args)
    return subprocess.run(command, input=fed, capture_output=True, check=True).stdout


def committed(path: str) -> bytes | None:
    """Read a file as it was before the update; None if there was none."""
    found = git("ls-tree", "HEAD", "--", path)
    return git("cat-file", "blob", found.split()[2].decode()) if found else None


def render(answers_file: str, folder: Path) -> None:
    """Write into a folder what the template made of the project before the update."""
    recorded = committed(answers_file)
    if recorded is None:
        raise FileNotFoundError(f"{answers_file}, which names the template, is not committed")
    answers = yaml.safe_load(recorded)
    source, version = answers["_src_path"], answers["_commit"]
    given = {name: answer for name, answer in answers.items() if not name.startswith("_")}
    copier.run_copy(source, folder, data=given, vcs_ref=version, defaults=True, quiet=True)


def move(old: str, new: str, base: Path) -> None:
    """Take the project's changes of one file along; `base` is that file as the template had made it."""
    ours = committed(old)
    if not base.exists() or (ours is not None and ours == base.read_bytes()):
        return
    if ours is None:
        if new and committed(new) is None:
            Path(new).unlink(missing_ok=True)
            say(f"{old} is now {new}; you had deleted it, so it is not written")
    elif not new or committed(new) is not None or not Path(new).exists():
        git("checkout", "HEAD", "--", old)
        say(f"{old} is no longer the template's; you had changed it, so it stays, as your own")
    elif not git("ls-files", "--unmerged", "--", new):
        merge(old, new, base)


def merge(old: str, new: str, base: Path) -> None:
    """Merge the project's version of `old` and the template's `new`; mark a conflict in git's index too."""
    theirs = Path(new).read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        ours = Path(folder, "ours")
        ours.write_bytes(committed(old) or b"")
        labels = [word for label in LABELS for word in ("-L", label)]
        done = subprocess.run(
            ("git", "merge-file", "-p", *labels, ours, base, new), capture_output=True, check=False
        )
        if done.returncode < 0 or done.returncode > 127:
            raise RuntimeError(f"{old} and {new} cannot be merged: {done.stderr.decode().strip()}")
        versions = (base.read_bytes(), ours.read_bytes(), theirs)
    Path(new).write_bytes(done.stdout)
    Path(old).unlink(missing_ok=True)
    if done.returncode:
        mark(new, git("ls-tree", "HEAD", "--", old).split()[0].decode(), versions)
    say(f"{old} is now {new}; your changes " + ("conflict with it" if done.returncode else "are in it"))


def mark(path: str, mode: str, versions: tuple[bytes, ...]) -> None:
    """Tell git that a path has a conflict, of these versions: base, ours, theirs."""
    place = git("rev-parse", "--show-prefix").decode().strip() + path
    blobs = [git("hash-object", "-w", "--stdin", fed=content).decode().strip() for content in versions]
    lines = [f"{mode} {blob} {stage}\t{place}\n" for stage, blob in enumerate(blobs, start=1)]
    git("update-index", "--index-info", fed="".join(lines).encode())


def undo() -> str:
    """Make the project's folder what it was; Copier starts only where all in it is committed.

    Returns:
        what was done, for the reader. Nothing outside of the folder is touched.
    """
    git("restore", "--source=HEAD", "--staged", "--worktree", "--", ".")
    shown = git("config", "--default", "normal", "--get", "status.showUntrackedFiles").strip()
    if shown in (b"no", b"false"):  # Copier may have started beside files that git does not know
        return "What is committed is as before the update; delete what `git status -unormal .` shows as new."
    git("clean", "--quiet", "-d", "--force", "--", ".")
    return "It is as it was before the update."


def say(text: str) -> None:
    """Tell the reader, among what Copier tells."""
    print(f"moved: {text}", file=sys.stderr)


def main() -> None:
    """Move all files, or none: a failure takes the update back."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--answers", default=".copier-answers.yml", help="the answers file (%(default)s)")
    parser.add_argument("moves", nargs="+", metavar="OLD[=NEW]")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            render(options.answers, Path(folder))
            for word in options.moves:
                old, _, new = word.partition("=")
                move(old, new, Path(folder, old))
    except Exception as error:
        sys.exit(
            f"moved: {error}\nOnly the project's folder, {Path.cwd()}, is taken back. {undo()} Mend that and"
            " update again; or put the file back as the template had it, update, and make your changes anew."
        )


if __name__ == "__main__":
    main()
