"""Take over the template's newest release, or other answers, and keep all that is yours.

    python -m <package>.automation.update [--trust] [--data question=answer …]

The arguments are those of `copier update`. Copier merges and marks conflicts; what it deletes although you
changed it comes back here. When Copier fails, or a line of yours is in no file afterwards, the whole update
is put back.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

import yaml

from ..core.errors import ProjectError, cli
from ..core.shell import call

ANSWERS = Path(".copier-answers.yml")
GIT_SETTINGS = {
    "apply.ignoreWhitespace": "no",
    "apply.whitespace": "nowarn",
    "core.attributesFile": os.devnull,
    "core.bigFileThreshold": "512m",
    "core.hooksPath": os.devnull,
    "core.quotePath": "true",
    "core.safecrlf": "false",
    "diff.orderFile": os.devnull,
    "init.templateDir": "",
    "status.showUntrackedFiles": "normal",
}
"""What Copier's merge needs of git: with other values of these, it loses edits or stops half-way."""
SMALL = 1_000_000
"""Bytes up to which a file outside of git is kept in memory, in case the update overwrites it."""
SHOWN_LINES = 20


def set_git(settings: dict[str, str]) -> None:
    """Set settings of git for this program and all that it starts; they win over those in files."""
    first = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
    for number, (key, value) in enumerate(settings.items(), start=first):
        os.environ[f"GIT_CONFIG_KEY_{number}"], os.environ[f"GIT_CONFIG_VALUE_{number}"] = key, value
    os.environ["GIT_CONFIG_COUNT"] = str(first + len(settings))


def uncommitted(*options: str) -> list[str]:
    """Files in the project's folder that are not committed, as git sees them with these options."""
    changed = call("git", *options, "status", "--porcelain", "--", ".")
    return [line.split(maxsplit=1)[1] for line in changed.splitlines()]


def isolate_git() -> None:
    """Keep the caller's git settings away from the merge; identity, credentials and addresses stay."""
    repository = set(call("git", "rev-parse", "--local-env-vars").split())  # GIT_DIR: as in a hook of git's
    for name in repository - {"GIT_CONFIG_COUNT", "GIT_CONFIG_PARAMETERS"} | {"GIT_TEMPLATE_DIR"}:
        os.environ.pop(name, None)
    set_git(GIT_SETTINGS)


def check_clean() -> None:
    """Refuse to start where an update could not be put back.

    Raises:
        ProjectError: something in the project's folder is not committed.
    """
    if names := uncommitted():
        raise ProjectError(
            "commit or stash these first; an update starts where all is committed:\n" + "\n".join(names)
        )


def unhide_template() -> None:
    """Let Copier see files of the template that the caller's git ignores everywhere."""
    if not uncommitted("-c", f"core.excludesFile={os.devnull}"):  # else Copier would not start
        set_git({"core.excludesFile": os.devnull})


def answers_file() -> Path:
    """Give the answers file that the command line names, as Copier reads it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-a", "--answers-file", type=Path, default=ANSWERS)
    return parser.parse_known_args()[0].answers_file


def load_answers() -> dict[str, str]:
    """Read what the project remembers of its answers.

    Raises:
        ProjectError: the file is not there.
    """
    path = answers_file()
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ProjectError(f"{path} is missing; ARGS='-a FILE' names another answers file") from None


def render(folder: Path) -> None:
    """Write into a folder what the template made of this project, at the release that it has."""
    import copier  # not before git is isolated: it remembers the environment

    answers = load_answers()
    source, release = answers["_src_path"], answers["_commit"]
    given = {name: answer for name, answer in answers.items() if not name.startswith("_")}
    try:
        copier.run_copy(source, folder, data=given, vcs_ref=release, defaults=True, quiet=True)
    except Exception as error:  # Copier, git and the network each have errors of their own
        raise ProjectError(
            f"release {release} of the template at {source} cannot be read: {error}\n_src_path in"
            f" {answers_file()} must be the template's address, or its full path, and hold that tag."
        ) from None


def listed(*options: str) -> list[Path]:
    """Files that git lists."""
    return [Path(name) for name in call("git", "ls-files", "-z", *options).split("\0") if name]


def lines(path: Path) -> Counter[bytes]:
    """The lines of a file; none if it is not there."""
    return Counter(path.read_bytes().splitlines() if path.is_file() else ())


def check_package(name: str, folder: Path) -> None:
    """Refuse to start where an update would not reach the package.

    Args:
        name: the package's name, as the answers have it.
        folder: the project as the template had made it.

    Raises:
        ProjectError: the project has no such package.
    """
    package = Path("src", name)
    if (folder / package).exists() and not listed("--", str(package)):
        raise ProjectError(
            f"{package} is missing. Is the package renamed? Then write its name as package_name into"
            f" {answers_file()}, commit, and update again."
        )


def read_small() -> dict[Path, bytes]:
    """Read the small text files outside of git, but not in folders that are outside of it as a whole."""
    paths = [path for path in listed("--others", "--directory") if path.is_file()]
    contents = {path: path.read_bytes() for path in paths if path.stat().st_size <= SMALL}
    return {path: content for path, content in contents.items() if b"\0" not in content}


def rejected() -> set[Path]:
    """Files that git keeps rejected parts of a merge in, also where they are ignored."""
    return {path for path in listed("--others") if path.suffix == ".rej"}


def restore(mine: dict[Path, Counter[bytes]]) -> list[Path]:
    """Bring files back that are gone, unless your lines of them stand in a file that the update wrote."""
    written = [lines(path).keys() for path in listed("--modified", "--others", "--exclude-standard")]
    lost = [path for path, own in mine.items() if own and not path.exists()]
    gone = [path for path in lost if not any(mine[path].keys() <= there for there in written)]
    for path in gone:
        call("git", "--literal-pathspecs", "checkout", "HEAD", "--", str(path))
    return gone


def check_end(mine: dict[Path, Counter[bytes]], rejects: set[Path], package: str) -> None:
    """See that the update lost nothing, whatever the reason.

    Args:
        mine: the lines that are yours, of each file.
        rejects: files that were named like rejected parts of a merge before the update.
        package: the package's name before the update.

    Raises:
        ProjectError: a line of yours or a part of the merge is in no file, or the package has another name.
    """
    if load_answers().get("package_name", "") != package:
        raise ProjectError(
            "an update cannot rename the package. Do that by hand: `git mv` its folder, replace the name in"
            f" all files and package_name in {answers_file()}, and commit."
        )
    missing = {path: sorted(own - lines(path)) for path, own in mine.items() if path.exists()}
    lost = [f"{path}: {line.decode(errors='replace')[:100]}" for path in missing for line in missing[path]]
    lost += [f"{path}: not merged" for path in rejected() - rejects]
    if lost:
        more = [f"… and {len(lost) - SHOWN_LINES} more"] if len(lost) > SHOWN_LINES else []
        raise ProjectError(
            "\n".join(["an update would lose these lines of yours:", *lost[:SHOWN_LINES], *more])
            + "\nIf settings of git are the reason, this leaves yours out:"
            " GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 make update\n"
            "Else take these lines out, commit, update, and write them again.\n"
            f"Not updated: lines of yours would be lost, the first in {lost[0].partition(':')[0]}"
        )


def put_back(rejects: set[Path], kept: dict[Path, bytes]) -> None:
    """Make the project's folder, and nothing outside of it, what it was before the update.

    Args:
        rejects: files that were named like rejected parts of a merge before the update.
        kept: the content of small text files outside of git.
    """
    call("git", "restore", "--source=HEAD", "--staged", "--worktree", "--", ".")
    for path in {*listed("--others", "--exclude-standard"), *rejected()} - rejects:
        path.unlink()
        with suppress(OSError):
            path.parent.rmdir()  # if that was all
    for path, content in kept.items():
        if Counter(content.splitlines()) - lines(path):  # a log may only have grown
            path.write_bytes(content)


def update(mine: dict[Path, Counter[bytes]]) -> None:
    """Run Copier, and bring back what it deleted."""
    command = (sys.executable, "-m", "copier", "update", "--defaults", *sys.argv[1:])
    done = subprocess.run(command, stderr=subprocess.STDOUT, check=False)  # reports are to be kept together
    if done.returncode:
        sys.exit(done.returncode)
    for path in restore(mine):
        print(f"update: {path} is no longer the template's; you had changed it, so it stays, as your own")


def conflicts() -> str:
    """Name the files that have conflicts, one a line, from the project's folder."""
    return call("git", "diff-files", "--name-only", "--diff-filter=U", "--relative")


def main() -> None:
    isolate_git()
    check_clean()
    unhide_template()
    package = load_answers().get("package_name", "")
    kept = read_small()
    with tempfile.TemporaryDirectory() as folder:
        render(Path(folder))
        check_package(package, Path(folder))
        mine = {path: lines(path) - lines(folder / path) for path in (*listed(), *kept)}
    mine.pop(answers_file(), None)  # Copier's own
    rejects = rejected()
    try:
        update(mine)
        check_end(mine, rejects, package)
    except BaseException:
        if uncommitted():
            put_back(rejects, kept)
            print("update: the project is as it was before the update", file=sys.stderr)
        raise
    if marked := conflicts():
        raise ProjectError(
            f"both you and the template changed the same lines. Mend them, then `git add`:\n{marked}"
        )


if __name__ == "__main__":
    cli(main)
