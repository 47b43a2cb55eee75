"""A fleet of twenty projects, updated by one command that is killed on the way and repeated."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import copier
import pytest
import yaml
from helpers import ROOT, commit, git, migrate, snapshot
from project import Done
from test_render import pairwise

from hooks.fleet import canonical

RELEASES = ("v1.0.0", "v1.1.0", "v1.2.0")
NEWEST = RELEASES[-1]
BRANCH = "template/1.2.0"
# What teams did to their projects, by the project's number. The others left theirs as it was.
EDITS = {
    1: ("params.yaml", "# ours\n"),
    2: (".gitignore", "ours/\n"),  # each release adds a line there, too
    4: ("extra/ours.py", "OURS = True\n"),
    7: (".github/workflows/ours.yml", "on: push\n"),
    8: (".gitignore", "ours/\n"),
    10: ("FAILS", "for the tests below\n"),
}
CONFLICTS, FAILS, CURRENT, FOREIGN, DIRTY = {2, 8}, 10, {5, 15}, 17, 19
PUSHED = {*range(20)} - CONFLICTS - CURRENT - {FAILS, FOREIGN}
TESTS = "git remote get-url origin >> {log} && test ! -e FAILS"  # a project's own take minutes


@dataclass(frozen=True)
class Fleet:
    """Projects, number 0 to 19: repositories side by side in a folder, with a list of them."""

    folder: Path

    def __getitem__(self, number: int) -> Path:
        """Give a project's folder."""
        return self.folder / f"project-{number}"

    def start(self, verb: str, *options: str, projects: str = "fleet.yaml") -> subprocess.Popen[str]:
        """Start the command."""
        template = f"--template={self.folder / 'template'}"
        command = (sys.executable, "-m", "hooks.fleet", verb, self.folder / projects, template, *options)
        names = (f"GIT_{role}_{part}" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL"))
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | dict.fromkeys(names, "fleet@example.com") | {"PATH": path}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)

    def run(self, verb: str, *options: str, projects: str = "fleet.yaml") -> Done:
        """Run the command to its end."""
        process = self.start(verb, *options, projects=projects)
        output, errors = process.communicate()
        return Done(process.args, process.returncode, output, errors)

    @property
    def tests(self) -> str:
        """The option that has the tests above run."""
        return f"--test=sh {self.folder / 'tests.sh'}"

    def tested(self) -> Counter[int]:
        """Count how often each project was tested."""
        lines = (self.folder / "tests.log").read_text().split()
        return Counter(int(line.rpartition("-")[2]) for line in lines)

    def pushed(self) -> set[int]:
        """List the projects that have the branch."""
        numbers = (number for number in range(20) if number != FOREIGN)
        return {number for number in numbers if git("branch", "--list", BRANCH, cwd=self[number])}


def results(output: str) -> dict[int, str]:
    """Read the table: what became of each project."""
    head, *lines = output.splitlines()
    return {int(line.split()[0].rpartition("-")[2]): line[head.index("result") :] for line in lines}


def release(template: Path, version: str) -> None:
    """Release the template with another line in a file that every project has, and, at last, a migration."""
    with (template / "template/.gitignore.jinja").open("a") as file:
        file.write(f"{version}/\n")
    if version == NEWEST:
        migrate(template, version)
    commit(template, version)
    git("tag", version, cwd=template)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """Start twenty projects from three releases, with different answers, and let teams work on them."""
    folder = tmp_path_factory.mktemp("fleet")
    template, fleet_of_twenty = snapshot(folder / "template"), Fleet(folder)
    for part in ("src", "tests", "deploy", ".github"):  # it is about many projects, not about many files
        shutil.rmtree(template / "template" / part)
    for version in RELEASES:
        release(template, version)
    for number, answer_set in zip(range(20), cycle(pairwise()), strict=False):
        project, taken = fleet_of_twenty[number], NEWEST if number in CURRENT else RELEASES[number % 2]
        copier.run_copy(str(template), project, data=answer_set, vcs_ref=taken, defaults=True, quiet=True)
        commit(project, "start")
        if number in EDITS:
            path, text = EDITS[number]
            (project / path).parent.mkdir(parents=True, exist_ok=True)
            with (project / path).open("a") as file:
                file.write(text)
            commit(project, "ours")
    (fleet_of_twenty[FOREIGN] / ".git").rename(folder / "elsewhere")
    (fleet_of_twenty[DIRTY] / "Makefile").write_text("# being worked on\n")
    (folder / "fleet.yaml").write_text(yaml.safe_dump([f"project-{number}" for number in range(20)]))
    (folder / "tests.sh").write_text(TESTS.format(log=folder / "tests.log"))
    return fleet_of_twenty


def test_fleet_status_lists_expected_conflicts(fleet: Fleet) -> None:
    """Before anything is touched: release, age, and who will conflict."""
    (fleet.folder / "few.yaml").write_text("[{repository: project-2, branch: main}, project-5]\n")
    result = fleet.run("status", "--trust", projects="few.yaml")
    assert result.returncode == 1
    assert results(result.stdout) == {2: "conflicts: .gitignore", 5: "current"}
    assert result.stdout.splitlines()[1].split()[1:4] == [RELEASES[0], "0", NEWEST]
    assert not fleet.pushed()


def test_fleet_runs_no_migration_without_trust(fleet: Fleet) -> None:
    """It is the template's own program."""
    (fleet.folder / "one.yaml").write_text("[project-0]\n")
    result = fleet.run("status", projects="one.yaml")
    assert result.returncode == 1
    assert "`--trust`" in results(result.stdout)[0]
    assert "potentially unsafe feature: migrations" in result.stderr


EVIL = "_tasks: ['touch {ran}']\n_migrations: ['touch {ran}']\n"


@pytest.mark.parametrize("verb", ["status", "update"])
def test_fleet_runs_nothing_of_another_template(fleet: Fleet, tmp_path: Path, verb: str) -> None:
    """Trust is this template's: a member may name any other, which is listed and left alone."""
    evil, project, ran = tmp_path / "evil", tmp_path / "project-1", tmp_path / "ran"
    evil.mkdir()
    (evil / "copier.yml").write_text(EVIL.format(ran=ran))
    (evil / "{{ _copier_conf.answers_file }}.jinja").write_text("{{ _copier_answers | to_nice_yaml }}")
    commit(evil, "evil")
    git("tag", "v9.0.0", cwd=evil)
    shutil.copytree(fleet[1], project)
    answers_file = project / ".copier-answers.yml"
    answers_file.write_text(answers_file.read_text().replace(str(fleet.folder / "template"), str(evil)))
    commit(project, "another template")
    (fleet.folder / "one.yaml").write_text(f"['{project}']\n")
    result = fleet.run(verb, "--trust", fleet.tests, projects="one.yaml")
    assert result.returncode == 1
    assert results(result.stdout) == {1: f"another template: {evil}"}
    assert not ran.exists()
    assert git("branch", cwd=project).split() == ["*", "main"]


def test_fleet_status_imports_nothing_from_a_project(fleet: Fleet, tmp_path: Path) -> None:
    """A file there may have the name of a library."""
    project = tmp_path / "project-1"
    shutil.copytree(fleet[1], project)
    for name in ("copier", "yaml", "msgspec"):
        (project / f"{name}.py").write_text(f"from pathlib import Path; Path('{tmp_path}/ran').touch()\n")
    commit(project, "names of libraries")
    (fleet.folder / "one.yaml").write_text(f"['{project}']\n")
    assert results(fleet.run("status", "--trust", projects="one.yaml").stdout) == {1: "no conflict"}
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "address",
    [
        "gh:acme/template",
        "https://github.com/acme/template",
        "https://token@github.com/acme/template.git/",
        "git+https://github.com/acme/template.git",
        "ssh://git@github.com/acme/template.git",
        "git@github.com:acme/template.git",
    ],
)
def test_canonical_unifies_spellings_of_an_address(address: str) -> None:
    """Copier's and git's own."""
    assert canonical(address) == "https://github.com/acme/template"


@pytest.mark.parametrize(
    "address",
    [
        "gl:acme/template",
        "https://github.com@evil.example/acme/template",
        "https://evil.example\\\\@github.com/acme/template",
        "https://evil.example#@github.com/acme/template",
        "https://evil.example/github.com/acme/template",
        "http://github.com/acme/template",
        "git://github.com/acme/template",
        "ext::sh -c evil% github.com/acme/template",
        "github.com/acme/template",
        "https://github.com/acme/template/../../evil/template",
    ],
)
def test_canonical_distinguishes_other_addresses(address: str) -> None:
    """Also one that looks alike, may be answered by somebody else, or is a folder of the member's."""
    assert canonical(address) not in {canonical("gh:acme/template")}


def test_fleet_stops_a_command_that_hangs(fleet: Fleet) -> None:
    """With all that it started: here a shell's child."""
    (fleet.folder / "one.yaml").write_text("[project-0]\n")
    result = fleet.run(
        "update", "--trust", "--test=sh -c 'sleep 600; true'", "--minutes=0.01", projects="one.yaml"
    )
    assert results(result.stdout) == {0: "sh -c sleep 600; true: stopped after 0.01 minutes"}
    assert result.returncode == 1
    assert not fleet.pushed()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("churn", "'churn' is none"),
        ("- {address: churn}", "unexpected keyword argument 'address'"),
        ("- [", "while parsing"),
    ],
)
def test_fleet_rejects_invalid_list(tmp_path: Path, text: str | None, message: str) -> None:
    """Before any project is visited."""
    if text is not None:
        (tmp_path / "fleet.yaml").write_text(text)
    result = Fleet(tmp_path).run("status")
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {tmp_path / 'fleet.yaml'} must be a YAML list of paths")
    assert message in result.stderr
