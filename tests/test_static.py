"""What linters and schemas say of every render and of the template's own workflows: nothing.

Each checker is given a folder with one subfolder per different content, and returns what it objects to.
"""

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from helpers import Renderer, files
from project import Json
from test_render import pairwise

TOKEN = "gh" + "p_" + hashlib.sha256(b"nobody's").hexdigest()[:36]  # put together here, or scanners find it
PINNED = re.compile(r"([\w.-]+/[\w./-]+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)")
# How tools are told to look away: by a file, or by a comment, which has to give its reason.
EXCUSES = re.compile(r"\.gitleaks.*|\.hadolint\..*|\.shellcheckrc|actionlint\.ya?ml")
PRAGMA = re.compile(r"(zizmor: ignore|shellcheck disable|hadolint ignore)\S*$", re.M)


def say(folder: Path, *command: str | Path, stdin: str = "") -> str:
    """Run a tool of the development environment; return what it objects to."""
    tools = Path(sys.executable).parent
    path = os.pathsep.join([str(tools), os.defpath])  # actionlint looks for shellcheck there
    own = {"HOME": str(folder), "LC_ALL": "C.UTF-8", "PATH": path, "STATE": "/x"}  # nobody's settings
    result = subprocess.run(
        [tools / command[0], *command[1:]],
        cwd=folder,
        env=own,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    return f"exit code {result.returncode}\n{result.stdout}{result.stderr}" if result.returncode else ""


def load(path: Path) -> Json:
    """Read YAML."""
    return yaml.safe_load(path.read_text())


def leaves(node: object, *keys: object) -> Iterator[tuple[tuple[object, ...], object]]:
    """List the scalars of YAML, each with the keys that lead to it."""
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, *keys, key)
    else:
        yield keys, node


def runs(path: Path) -> list[str]:
    """List the shell scripts of a workflow or a composite action."""
    return [str(value) for keys, value in leaves(load(path)) if keys[-1] == "run"]


def zizmor(folder: Path) -> str:
    """Security of workflows. A file that it cannot read is a mere warning unless collection is strict."""
    options = ("--offline", "--quiet", "--no-progress", "--strict-collection", "--format=plain")
    return say(folder, "zizmor", *options, *folder.iterdir())


def actionlint(folder: Path) -> str:
    """Logic and scripts of workflows, and what they give to composite actions."""
    for repository in folder.iterdir():
        (repository / ".git").mkdir()  # by this it finds the actions
    return say(folder, "actionlint", "-no-color", *folder.glob("*/.github/workflows/*.yml"))


def schema(name: str, pattern: str) -> Callable[[Path], str]:
    """One of the schemas that check-jsonschema brings."""

    def check(folder: Path) -> str:
        options = ("--color=never", f"--builtin-schema=vendor.{name}")
        return say(folder, "check-jsonschema", *options, *folder.glob(f"*/{pattern}"))

    return check


def shellcheck(folder: Path) -> str:
    """Scripts that actionlint does not reach: those of composite actions, and our own."""
    scripts = [script for path in folder.glob("*/.github/actions/*/action.yml") for script in runs(path)]
    scripts += [path.read_text() for path in folder.glob("*/.ci/run")]
    return "".join(say(folder, "shellcheck", "--shell=bash", "-", stdin=script) for script in scripts)


def hadolint(folder: Path) -> str:
    """Images, also those that Compose builds from a few lines."""
    options = ("--no-color", "--disable-ignore-pragma", "--failure-threshold=style")
    objections = say(folder, "hadolint", *options, *folder.glob("*/Dockerfile"))
    for path in folder.glob("*/compose.yaml"):
        inline = [str(value) for keys, value in leaves(load(path)) if keys[-1] == "dockerfile_inline"]
        assert inline
        objections += "".join(say(folder, "hadolint", *options, "-", stdin=text) for text in inline)
    return objections


def compose(folder: Path) -> str:
    """Services, as Compose itself reads them, in every profile."""
    command = ("docker-compose", "--profile=*", "--file")
    return "".join(say(folder, *command, path, "config", "--quiet") for path in folder.rglob("compose.yaml"))


def gitleaks(folder: Path) -> str:
    """Passwords and keys."""
    options = ("--no-banner", "--no-color", "--redact", "--verbose", "--ignore-gitleaks-allow")
    return say(folder, "gitleaks", "dir", ".", *options)


def types(folder: Path) -> str:
    """Versions are strings: as a number, 3.10 is 3.1."""
    return "".join(
        f"{path}: {keys} is a float\n"
        for path in files(folder)
        for keys, value in leaves(load(path))
        if isinstance(value, float)
        and (".github" in path.parts or re.search("python|version", str(keys), re.I))
    )


def faults(path: Path) -> Iterator[str]:
    """Say what the house does not allow in a workflow or a composite action."""
    text, parsed = path.read_text(), load(path)
    if "jobs" in parsed:
        if parsed.get("permissions") != {}:
            yield "the workflow grants permissions to all of its jobs"
        if "concurrency" not in parsed:
            yield "the workflow has no concurrency"
        for name, job in parsed["jobs"].items():
            for missing in sorted({"permissions", "timeout-minutes"} - job.keys()):
                yield f"the job {name} has no {missing}"
    if path.name == "ci.yml" and re.search(r"\$\{\{[^}]*\bsecrets\b|^ *secrets:", text, re.M):
        yield "a secret is used, so this is red from a fork"
    if any("${{" in script for script in runs(path)):
        yield "a script holds an expression; its environment should"
    for job in [*parsed.get("jobs", {}).values(), parsed.get("runs", {})]:
        for step in job.get("steps", []):
            persisted = step.get("with", {}).get("persist-credentials", True)
            if step.get("uses", "").startswith("actions/checkout@") and persisted is not False:
                yield "a checkout keeps credentials"
    used = Counter(str(value) for keys, value in leaves(parsed) if keys[-1] == "uses")
    for name in used - Counter("@".join(match.groups()[:2]) for match in PINNED.finditer(text)):
        if not name.startswith("./"):
            yield f"{name} is no commit with its version behind it"


def house(folder: Path) -> str:
    """Our own rules. One action has one commit and one version, wherever it is used."""
    objections, pins = "", dict[str, set[tuple[str, str]]]()
    for path in files(folder):
        objections += "".join(f"{path}: {fault}\n" for fault in faults(path))
        for action, commit, version in PINNED.findall(path.read_text()):
            pins.setdefault(action, set()).add((commit, version))
    assert pins
    return objections + "".join(
        f"{action} has two pins: {versions}\n" for action, versions in pins.items() if len(versions) > 1
    )


class Check(NamedTuple):
    """A checker and the files that it reads."""

    judge: Callable[[Path], str]
    reads: tuple[str, ...]


FLOWS = ".github/workflows/*.yml"
ACTIONS = ".github/actions/*/action.yml"
COMPOSE = ("compose.yaml", "deploy/compose/compose.yaml")
CHECKS = {
    "zizmor": Check(zizmor, (FLOWS, ACTIONS, ".github/*.yml", ".pre-commit-config.yaml")),
    "actionlint": Check(actionlint, (FLOWS, ACTIONS)),
    "workflow": Check(schema("github-workflows", FLOWS), (FLOWS,)),
    "action": Check(schema("github-actions", ACTIONS), (ACTIONS,)),
    "renovate": Check(schema("renovate", "renovate.json"), ("renovate.json",)),
    "services": Check(schema("compose-spec", "**/compose.yaml"), COMPOSE),
    "compose": Check(compose, COMPOSE),
    "shellcheck": Check(shellcheck, (ACTIONS, ".ci/run")),
    "hadolint": Check(hadolint, ("Dockerfile", "compose.yaml")),
    "gitleaks": Check(gitleaks, ("**/*",)),
    "types": Check(types, ("**/*.yml", "**/*.yaml")),
    "house": Check(house, (FLOWS, ACTIONS)),
}


def gather(folder: Path, check: Check, project: Path) -> Path | None:
    """Copy what a checker reads in a project, unless the same is there already."""
    paths = {path for pattern in check.reads for path in project.glob(pattern) if path.is_file()}
    content = {str(path.relative_to(project)): path.read_bytes() for path in sorted(paths)}
    copy = folder / hashlib.sha256(repr(content).encode()).hexdigest()[:12]
    for name, data in content.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(data)
    return copy if content else None


@pytest.fixture(scope="module")
def projects(render: Renderer) -> list[Path]:
    """Render every set of answers."""
    return [render(**answer_set) for answer_set in pairwise()]


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_checker_finds_nothing(projects: list[Path], render: Renderer, check: Check, tmp_path: Path) -> None:
    """Renders share most of their files: each content is judged once."""
    assert all(gather(tmp_path, check, project) for project in projects)
    gather(tmp_path, check, render.source)  # of the template itself, what it has of these files
    objections = check.judge(tmp_path)
    assert not objections, objections


def test_no_file_switches_a_checker_off(projects: list[Path]) -> None:
    """One rule of zizmor's is off, with its reason; no file and no bare comment hides more."""
    for project in projects:
        for path in files(project):
            assert not EXCUSES.fullmatch(path.name), path
            assert not PRAGMA.search(path.read_text()), path
        assert load(project / ".github/zizmor.yml") == {"rules": {"self-repository": {"disable": True}}}
        assert re.search(r"self-repository: # \w+", (project / ".github/zizmor.yml").read_text())


CI, DEPLOY, TRAIN = (f".github/workflows/{name}.yml" for name in ("ci", "deploy", "train"))
SETUP, REMOTE = (f".github/actions/{name}/action.yml" for name in ("setup", "remote"))
# Checker, file, what is replaced by what, and what must be said then.
BROKEN = [
    ("zizmor", CI, r"(actions/checkout)@\w+", r"\1@v7", "unpinned-uses"),
    ("zizmor", SETUP, r"(astral-sh/setup-uv)@\w+", r"\1@main", "unpinned-uses"),
    ("zizmor", CI, "pull_request:", "pull_request_target:", "dangerous-triggers"),
    ("zizmor", CI, " *persist-credentials: false\n", "", "artipacked"),
    ("zizmor", TRAIN, "make propose", 'echo "${{ inputs.reason }}"', "template-injection"),
    ("zizmor", CI, "runs-on: .*", "runs-on: [", "failed to load"),
    ("zizmor", ".github/zizmor.yml", "disable: true", "disable: false", "self-repository"),
    ("actionlint", DEPLOY, "needs: model", "needs: modell", '"modell" which does not exist'),
    ("actionlint", DEPLOY, r"steps\.build\.", "steps.built.", 'property "built" is not defined'),
    ("actionlint", DEPLOY, "variables: ", "variable: ", 'missing input "variables"'),
    ("actionlint", CI, '"(.GITHUB_STEP_SUMMARY)"', r"\1", "SC2086"),
    ("workflow", CI, "runs-on:", "run-on:", "'runs-on' is a required"),
    ("action", SETUP, "using: composite", "using: composed", "'composed' is not one of"),
    ("renovate", "renovate.json", '"in-range-only"', '"in-range"', "'in-range' is not one of"),
    ("services", COMPOSE[1], "read_only:", "readonly:", "'readonly' was unexpected"),
    ("compose", COMPOSE[0], "mem_limit:", "mem_limits:", "mem_limits"),
    ("compose", COMPOSE[0], "(postgres): {cond", r"\1ql: {cond", "depends on undefined service"),
    ("compose", COMPOSE[1], r"\$\{STATE:", "${STATES:", "required variable STATES"),
    ("shellcheck", REMOTE, r'"\$REMOTE"', "$REMOTE", "SC2086"),
    ("hadolint", "Dockerfile", "FROM .* AS uv", "# hadolint ignore=DL3007\nFROM uv:latest AS uv", "DL3007"),
    ("hadolint", "compose.yaml", "FROM (.*):.*", r"FROM \1", "DL3006"),
    ("gitleaks", "README.md", r"\Z", f"{TOKEN} # gitleaks:allow\n", "github-pat"),
    ("types", SETUP, "enable-cache: .*", "python-version: 3.10", "is a float"),
    ("types", ".copier-answers.yml", "(python_min): .*", r"\1: 3.10", "is a float"),
    ("house", CI, r"permissions: \{\}", "permissions: read-all", "grants permissions"),
    ("house", CI, "concurrency:", "x-concurrency:", "no concurrency"),
    ("house", CI, "    timeout-minutes: .*\n", "", "check has no timeout-minutes"),
    ("house", CI, "    permissions:\n.*\n", "", "check has no permissions"),
    ("house", CI, "make check", "make ${{ secrets.TARGET }}", "red from a fork"),
    ("house", SETUP, "make setup", "make ${{ github.head_ref }}", "holds an expression"),
    ("house", DEPLOY, "persist-credentials: false", "fetch-tags: true", "keeps credentials"),
    ("house", CI, r"(actions/checkout)@\w+", r"\1@v7", "v7 is no commit"),
    ("house", DEPLOY, r" # v[\d.]+", "", "is no commit with its version"),
    ("house", TRAIN, r"(actions/checkout)@\w+", r"\1@" + 40 * "0", "actions/checkout has two pins"),
    ("house", TRAIN, r"(checkout@\w+ #) v.*", r"\1 v1.2.3", "actions/checkout has two pins"),
]


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "word"), BROKEN, ids=[f"{row[0]}: {row[-1]}" for row in BROKEN]
)
def test_checker_finds_each_fault(
    render: Renderer, tmp_path: Path, name: str, file: str, old: str, new: str, word: str
) -> None:
    """A checker that never objects proves nothing."""
    copy = gather(tmp_path, CHECKS[name], render())
    assert copy
    text, count = re.subn(old, new, (copy / file).read_text(), count=1)
    assert count
    (copy / file).write_text(text)
    assert word in CHECKS[name].judge(tmp_path)
