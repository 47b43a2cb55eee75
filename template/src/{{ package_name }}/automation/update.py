"""Update: merge the template's newest release, or other answers, into the project.

    python -m <package>.automation.update [--trust] [--data question=answer …]

The arguments are those of `copier update`. Copier merges and marks conflicts in a temporary checkout, where a
file that it deletes although you changed it is restored. The project changes only if Copier succeeds and each
line of yours is still in a file, or a migration rewrote it.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

import yaml

from ..core.errors import ProjectError, cli
from ..core.git import checkout
from ..core.shell import call

ANSWERS = Path(".copier-answers.yml")
GIT_SETTINGS = {
    "apply.ignoreWhitespace": "no",
    "apply.whitespace": "nowarn",
    "core.attributesFile": os.devnull,
    "core.bigFileThreshold": "512m",
    "core.excludesFile": os.devnull,
    "core.hooksPath": os.devnull,
    "core.quotePath": "true",
    "core.safecrlf": "false",
    "diff.orderFile": os.devnull,
    "init.templateDir": "",
    "status.showUntrackedFiles": "normal",
}
"""Git settings that Copier's merge needs: with other values, it loses edits or stops half-way."""
REWRITTEN = "UPDATE_REWRITTEN"
"""Variable that names a file: a migration adds `[path, line]` in JSON for each line that it rewrote."""
MAX_LINES = 20
"""Lost lines that are shown."""

Lines = Counter[bytes]


def answers_file() -> Path:
    """Return the answers file that the command line names, as Copier reads it.

    Returns:
        Its path, from the project's folder.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-a", "--answers-file", type=Path, default=ANSWERS)
    return parser.parse_known_args()[0].answers_file


def load_answers(folder: Path = Path()) -> dict[str, str]:
    """Read the project's answers.

    Args:
        folder: the project, or a checkout of it.

    Returns:
        Each question's answer; `_src_path` is the template's address, `_commit` the project's release.

    Raises:
        ProjectError: the file is missing.
    """
    path = answers_file()
    try:
        return yaml.safe_load((folder / path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ProjectError(f"{path} is missing; ARGS='-a FILE' names another answers file") from None


def conflicts() -> list[str]:
    """List the files with conflicts.

    Returns:
        Their paths, from the project's folder.
    """
    return call("git", "diff-files", "--name-only", "--diff-filter=U", "--relative").splitlines()


def _check_clean() -> None:
    """Refuse to start beside changes that no commit has: they might be overwritten."""
    if changes := call("git", "-c", "status.showUntrackedFiles=normal", "status", "--porcelain", "--", "."):
        names = [line.split(maxsplit=1)[1] for line in changes.splitlines()]
        raise ProjectError("\n".join(["commit or stash these files before an update:", *names]))


def _isolate_git() -> None:
    """Keep the caller's git settings away from the merge; identity, credentials and addresses stay."""
    local = set(call("git", "rev-parse", "--local-env-vars").split())  # such as GIT_DIR in a hook of git
    for name in local - {"GIT_CONFIG_COUNT", "GIT_CONFIG_PARAMETERS"} | {"GIT_TEMPLATE_DIR"}:
        os.environ.pop(name, None)
    # Settings in the environment win over settings in files.
    first = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
    for number, (key, value) in enumerate(GIT_SETTINGS.items(), start=first):
        os.environ |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    os.environ["GIT_CONFIG_COUNT"] = str(first + len(GIT_SETTINGS))


def _list_files(folder: Path, *options: str) -> list[Path]:
    """List files of a checkout as `git ls-files` does."""
    return [Path(name) for name in call("git", "ls-files", "-z", *options, folder=folder).split("\0") if name]


def _read_lines(path: Path) -> Lines:
    """Count the lines of a file; there are none if it is missing."""
    return Counter(path.read_bytes().splitlines() if path.is_file() else ())


def _read_rewritten(path: Path) -> dict[Path, Lines]:
    """Return the lines of each file that a migration rewrote, as they were before."""
    rewritten: dict[Path, Lines] = {}
    for entry in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        name, line = json.loads(entry)
        rewritten.setdefault(Path(name), Counter())[line.encode()] += 1
    return rewritten


def _render(project_answers: dict[str, str], folder: Path) -> None:
    """Render the project as the template had made it, at its release."""
    import copier  # after git is isolated: Copier keeps the environment that it is imported in

    source, release = project_answers["_src_path"], project_answers["_commit"]
    data = {name: answer for name, answer in project_answers.items() if not name.startswith("_")}
    try:
        copier.run_copy(source, folder, data=data, vcs_ref=release, defaults=True, quiet=True)
    except Exception as error:  # Copier, git and the network have different errors
        raise ProjectError(
            f"release {release} of the template at {source} cannot be read: {error}\n_src_path in"
            f" {answers_file()} must be the template's address, or its full path, and hold that tag."
        ) from None


def _read_own_lines(project_answers: dict[str, str]) -> dict[Path, Lines]:
    """Return the lines of each file that are not the template's; raise `ProjectError` without the package."""
    package = Path("src", project_answers.get("package_name", ""))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _render(project_answers, folder)
        if (folder / package).exists() and not package.exists():
            raise ProjectError(
                f"{package} is missing. If you renamed the package, write its name as package_name into"
                f" {answers_file()}, commit, and update again."
            )
        paths = {*_list_files(Path())} - {answers_file()}  # which Copier writes
        return {path: _read_lines(path) - _read_lines(folder / path) for path in paths}


def _run_copier(own_lines: dict[Path, Lines], tree: Path) -> dict[Path, Lines]:
    """Update a checkout; restore deleted files whose own lines are in no file that the update wrote.

    Returns:
        The lines that migrations rewrote.
    """
    command = (sys.executable, "-m", "copier", "update", "--defaults", *sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder, "rewritten")
        environment = os.environ | {REWRITTEN: str(record)}
        # One stream, so that Copier's reports appear in order.
        result = subprocess.run(command, cwd=tree, env=environment, stderr=subprocess.STDOUT, check=False)
        rewritten = _read_rewritten(record)
    if result.returncode:
        print("update: nothing was changed", file=sys.stderr)
        sys.exit(result.returncode)
    paths = _list_files(tree, "--modified", "--others")
    written = [_read_lines(tree / path) + rewritten.get(path, Counter()) for path in paths]
    for path, own in own_lines.items():
        if own and not (tree / path).exists() and not any(own.keys() <= lines.keys() for lines in written):
            call("git", "--literal-pathspecs", "checkout", "HEAD", "--", path, folder=tree)
            print(f"update: {path} is no longer the template's; you had changed it, so it stays, as your own")
    return rewritten


def _check_package(name: str, tree: Path) -> None:
    """Raise `ProjectError` if the package would have another name."""
    if load_answers(tree).get("package_name", "") != name:
        raise ProjectError(
            "an update cannot rename the package. Do that by hand: `git mv` its folder, replace the name in"
            f" all files and package_name in {answers_file()}, and commit."
        )


def _check_lines(own_lines: dict[Path, Lines], rewritten: dict[Path, Lines], tree: Path) -> None:
    """Raise `ProjectError` if a line of the project or a part of the merge would be in no file."""
    new = _list_files(tree, "--others")
    own_lines = own_lines | {path: _read_lines(path) for path in new}  # ignored files would be overwritten
    lost: list[str] = []
    for path, own in own_lines.items():
        if (tree / path).exists():
            missing = own - _read_lines(tree / path) - rewritten.get(path, Counter())
            lost += [f"{path}: {line.decode(errors='replace')[:100]}" for line in sorted(missing)]
    lost += [f"{path}: not merged" for path in new if path.suffix == ".rej"]
    if lost:
        more = [f"… and {len(lost) - MAX_LINES} more"] if len(lost) > MAX_LINES else []
        raise ProjectError(
            "\n".join(["an update would lose these lines of yours:", *lost[:MAX_LINES], *more])
            + "\nRemove these lines, commit, update, and write them again.\n"
            f"Not updated: lines of yours would be lost, the first in {lost[0].partition(':')[0]}"
        )


def _take_over(tree: Path) -> None:
    """Bring the files and conflicts of an updated checkout into the project's folder."""
    for path in {*_list_files(tree, "--modified", "--others")}:
        path.unlink(missing_ok=True)
        if os.path.lexists(tree / path):
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(tree / path, path, follow_symlinks=False)
        else:
            with suppress(OSError):  # the folder has other files
                path.parent.rmdir()
    *entries, _ = call("git", "ls-files", "--unmerged", "--full-name", "-z", folder=tree).split("\0")
    removed = [f"0 {'0' * len(entry.split()[1])}\t{entry.partition(chr(9))[2]}" for entry in entries]
    index = "".join(f"{entry}\0" for entry in (*removed, *entries))
    subprocess.run(("git", "update-index", "-z", "--index-info"), input=index, text=True, check=True)


def main() -> None:
    """Update the project, or leave it as it is."""
    _check_clean()
    _isolate_git()
    project_answers = load_answers()
    own_lines = _read_own_lines(project_answers)
    with checkout("HEAD") as tree:
        rewritten = _run_copier(own_lines, tree)
        _check_package(project_answers.get("package_name", ""), tree)
        _check_lines(own_lines, rewritten, tree)
        _take_over(tree)
    if paths := conflicts():
        message = "you and the template changed the same lines. Edit them, then `git add`:"
        raise ProjectError("\n".join([message, *paths]))


if __name__ == "__main__":
    cli(main)
