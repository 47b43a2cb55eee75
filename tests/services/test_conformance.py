"""What every target must do, run on each: docs/extending.md says how a target joins (targets.py)."""

import math
import random
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from helpers import until
from images import Docker
from project import Project
from serving import free_port, load
from targets import (
    LAST_WORDS,
    PARAMS,
    Bundles,
    Compose,
    Processes,
    Production,
    blocked,
    since,
    statuses,
    wait_for_requests,
)

Order = tuple[str, ...]
Record = Callable[[str, object], None]
TARGETS = ("compose", "processes")


@pytest.fixture(scope="module")
def bundles(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """Make two bundles."""
    return Bundles.make(project, tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def start(
    request: pytest.FixtureRequest,
    project: Project,
    bundles: Bundles,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[Path], Production]:
    """Copy the project, where rollouts are short, and make its target's images; give what deploys it."""
    copy = project.copy(tmp_path_factory.mktemp("server") / "project")
    copy.params(PARAMS)
    names = bundles.champion, bundles.other
    if request.param == "compose":
        docker: Docker = request.getfixturevalue("docker")
        Compose.make_images(docker, request.getfixturevalue("image"), project, bundles)
        return lambda state: Compose(copy, *names, free_port(), state, docker=docker)
    Processes.install(copy)
    images = {"IMAGES": str(Processes.make_images(project, bundles))}
    return lambda state: Processes(copy, *names, free_ports(3), state, images)


def free_ports(n_ports: int) -> int:
    """Find the first of several free ports in a row, below those that the system gives to clients."""
    while True:
        first = random.randrange(20_000, 30_000)  # noqa: S311
        with ExitStack() as stack:
            try:
                for port in range(first, first + n_ports):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first


@pytest.fixture
def production(start: Callable[[Path], Production], tmp_path: Path) -> Iterator[Production]:
    """Put the project's model in production."""
    production = start(tmp_path / "state")
    assert production.good("promote", production.champion) == f"{production.champion} is active"
    yield production
    production.stop()


def on(*names: str) -> pytest.MarkDecorator:
    """Run a test on these targets."""
    return pytest.mark.parametrize("start", names, indirect=True, scope="module")


# ── commands ─────────────────────────────────────────────────────────────────────────────────────


@on(*TARGETS)
def test_each_command_has_help_and_rejects_invalid_arguments(production: Production) -> None:
    """Invalid arguments change nothing."""
    for words in (
        (),
        ("shadow",),
        ("canary",),
        ("promote",),
        ("rollback",),
        ("abort",),
        ("remove",),
        ("status",),
    ):
        assert production.good(*words, "--help").startswith("usage: rollout.py")
    for share in ("0", "100", "-3", "x"):
        assert production.deploy("canary", share).returncode == 2


@pytest.mark.proof("Promotion and rollback lose no request, and switch all clients, on every target")
@on(*TARGETS)
def test_no_command_loses_a_request(production: Production, record_property: Record) -> None:
    """Each way to another model and back, each command twice; after it, no other model serves."""
    champion, other = production.champion, production.other
    steps: list[tuple[Order, str | None, str]] = [
        (("shadow", other), champion, f"shadow: {other}"),
        (("promote",), other, f"previous: {champion}"),
        (("rollback",), champion, "previous: none"),
        (("promote", other), other, f"previous: {champion}"),
        (("shadow", champion), other, f"shadow: {champion}"),
        (("canary", "50"), None, f"canary at 50 %: {champion}"),
        (("promote",), champion, f"previous: {other}"),
        (("shadow", other), champion, f"shadow: {other}"),
        (("abort",), champion, "previous: none"),
    ]
    wrong, seconds = {}, math.nan
    with load(production.ask) as responses:
        for words, version, standby in steps:
            began = time.monotonic()
            production.good(*words)
            if words == ("rollback",):
                seconds = time.monotonic() - began
            else:
                production.good(*words)
            finished = time.monotonic()
            active = version or other
            assert production.status() == [f"active: {active}", standby]
            wait_for_requests(responses, 20)
            if version and (versions := since(list(responses), finished)) != {version}:
                wrong[words] = versions
    assert wrong == {}
    lost = sum(response.status != 200 for response in responses)
    assert not production.promises["lossless"] or lost == 0, Counter(statuses(responses))
    assert seconds < 6 * production.rollback_seconds  # the machine may be busy
    rollback = production.deploy("rollback")
    assert (rollback.returncode, "no previous image" in rollback.stderr) == (3, True)
    answered = Counter(response.version for response in responses if response.status == 200)
    until(  # each answer is recorded, also those of slots that were emptied
        lambda: (
            answered <= Counter(row["version"] for row in production.events("model_version AS version, role"))
        )
    )
    text = (
        f"{type(production).__name__}: {len(responses):,} requests, {lost} lost; rollback in {seconds:.1f} s"
    )
    record_property("found", text)


@pytest.mark.proof("A command that is killed after any act of a target is completed by running it again")
@on(*TARGETS)
def test_command_that_is_cut_off_is_completed_by_repeating_it(production: Production) -> None:
    """Killed after each act; clients notice nothing, and the same command completes the work."""
    champion, other = production.champion, production.other
    steps: tuple[tuple[Order, set[str]], ...] = (
        (("shadow", other), {champion}),
        (("canary", "50"), {champion, other}),
        (("promote",), {other}),
        (("rollback",), {champion}),
        (("promote", other), {other}),
        (("shadow", champion), {other}),
        (("abort",), {other}),
        (("promote", champion), {champion}),
    )
    with load(production.ask) as responses:
        for words, versions in steps:
            result, n_acts = production.cut_off(1, *words), 1
            while result.returncode == -9:  # each time one act later, on what the former ones have left
                n_acts += 1
                result = production.cut_off(n_acts, *words)
            assert (result.returncode, n_acts > 2) == (0, True), (words, result.stderr)
            now = time.monotonic()
            wait_for_requests(responses, 10)
            assert since(list(responses), now) <= versions, words
    assert not production.promises["lossless"] or {response.status for response in responses} == {200}
    assert production.status()[0] == f"active: {champion}"


@on(*TARGETS)
def test_interrupted_challenger_is_not_promoted_by_rollback(production: Production) -> None:
    """A challenger that never served is removed by a rollback."""
    champion, other = production.champion, production.other
    production.good("shadow", other)
    assert production.good("rollback", "--from", other) == f"{champion} is still active"
    assert production.cut_off(2, "promote", other).returncode == -9
    assert production.status()[1] == f"promote, interrupted: {other}"
    assert production.good("rollback") == f"{champion} is still active"
    assert statuses([production.ask()]) == {(200, champion)}


@on(*TARGETS)
def test_removed_target_serves_nothing_and_is_made_anew(production: Production) -> None:
    """Not by accident; an interrupted removal is repeated; events are kept."""
    champion = production.champion
    refused = production.deploy("remove")
    assert (refused.returncode, "remove --yes" in refused.stderr) == (3, True)
    assert production.ask().status == 200
    until(lambda: len(production.events("id")) == 1)
    assert production.cut_off(1, "remove", "--yes").returncode == -9
    assert production.deploy("promote", champion).returncode == 3
    for _ in range(2):
        assert production.good("remove", "--yes").startswith("nothing is left")
        assert production.status() == ["active: none", "previous: none"]
        assert production.ask().status == 0
    production.good("promote", champion)
    assert statuses([production.ask()]) == {(200, champion)}
    until(lambda: len(production.events("id")) == 2)


@on(*TARGETS)
def test_wrong_order_is_refused_and_changes_nothing(production: Production) -> None:
    """With exit code 3 and the reason."""
    champion = production.champion
    for words, reason in (
        (("canary", "20"), "no challenger"),
        (("shadow", champion), f"{champion} is active"),
        (("rollback",), "no previous image"),
    ):
        result = production.deploy(*words)
        assert (result.returncode, reason in result.stderr) == (3, True), result
    assert production.status() == [f"active: {champion}", "previous: none"]
    assert statuses([production.ask()]) == {(200, champion)}


@pytest.mark.proof("An image that does not start, or never gets ready, is removed; the champion serves")
@on(*TARGETS)
@pytest.mark.parametrize("fault", LAST_WORDS)
def test_image_that_does_not_get_ready_is_removed(production: Production, fault: str) -> None:
    """As a shadow and as a promotion; its last words are shown, and no client notices."""
    champion = production.champion
    with load(production.ask) as responses:
        for command in ("shadow", "promote"):
            result = production.deploy(command, fault)
            assert result.returncode == 1
            assert result.stderr.startswith(f"deploy: {command}: {fault} failed, {champion} is active\n")
            assert LAST_WORDS[fault] in result.stderr
            assert production.status() == [f"active: {champion}", "previous: none"]
    assert statuses(responses) == {(200, champion)}


@on(*TARGETS)
def test_lost_connection_fails_and_the_command_is_completed_later(production: Production) -> None:
    """The platform cannot be reached for a while; nothing of what serves changes."""
    champion, other = production.champion, production.other
    for words, version in ((("shadow", other), champion), (("promote", other), other)):
        result = production.deploy(*words, **production.lost)
        assert (result.returncode, "Traceback" in result.stderr) == (1, False), result
        assert statuses([production.ask()]) == {(200, champion)}
        production.good(*words)
        assert statuses([production.ask()]) == {(200, version)}


@on(*TARGETS)
def test_of_two_commands_at_once_one_waits_or_is_refused(production: Production) -> None:
    """Whichever wins, state and traffic agree."""
    champion, other = production.champion, production.other
    production.good("shadow", other)
    orders = (("promote", other), ("rollback", "--from", other))
    command = (production.python, "deploy/rollout.py")
    environment, folder = production.environment(), production.project.folder
    running = [
        subprocess.Popen((*command, *words), cwd=folder, env=environment, stdout=subprocess.DEVNULL)
        for words in orders
    ]
    assert {process.wait() for process in running} <= {0, 1, 3}
    active = production.status()[0].removeprefix("active: ")
    assert active in (champion, other)
    assert statuses([production.ask() for _ in range(10)]) == {(200, active)}


# ── traffic ──────────────────────────────────────────────────────────────────────────────────────


@on(*TARGETS)
def test_shadow_receives_the_share_that_is_promised(production: Production) -> None:
    """One server answers each request; copies are recorded as such, under the same id where promised."""
    champion, other, n_requests = production.champion, production.other, 200
    assert production.good("shadow", other) == f"{champion} is active, {other} is its shadow"
    responses = [production.ask(None, **{"x-request-id": f"own-{n}"}) for n in range(n_requests)]
    assert statuses(responses) == {(200, champion)}

    def recorded(role: str) -> list[tuple[str, str]]:
        rows = production.events("id, role, model_version AS version")
        return [(row["id"], row["version"]) for row in rows if row["role"] == role]

    until(lambda: len(recorded("champion")) == n_requests)
    copied = production.promises["copied"]
    slack = 4 * (copied * (1 - copied) * n_requests) ** 0.5
    until(lambda: len(recorded("challenger")) >= copied * n_requests - slack)
    copies = recorded("challenger")
    assert len(copies) <= copied * n_requests + slack
    assert {version for _, version in copies} == {other}
    assert {version for _, version in recorded("champion")} == {champion}
    ids = {response.id for response in responses}
    assert ({name for name, _ in copies} <= ids) == production.promises["paired"]
    assert {name for name, _ in recorded("champion")} == ids


@pytest.mark.proof("A canary serves its share of the clients, always the same ones where that is promised")
@on(*TARGETS)
def test_canary_serves_its_share_of_the_clients(production: Production, record_property: Record) -> None:
    """The share grows; where clients are sticky, each keeps its model."""
    champion, other = production.champion, production.other

    def answering() -> list[str]:
        served = [production.ask(None, **{"x-client-id": f"client-{n}"}) for n in range(500)]
        assert {response.status for response in served} == {200}
        return [response.version for response in served]

    production.good("shadow", other)
    assert production.good("canary", "20").startswith(f"{other} serves 20 % of the clients")
    first = answering()
    share = Counter(first)[other] / 500
    record_property("found", f"{type(production).__name__}: {share:.1%} of 500 clients at a share of 20 %")
    assert abs(share - 0.2) < 4 * (0.2 * 0.8 / 500) ** 0.5
    assert set(first) == {champion, other}
    assert (answering() == first) == production.promises["sticky"]
    assert production.status()[1] == f"canary at 20 %: {other}"
    production.good("canary", "60")
    more = answering()
    assert abs(Counter(more)[other] / 500 - 0.6) < 4 * (0.6 * 0.4 / 500) ** 0.5
    if production.promises["sticky"]:
        assert all(after == other for before, after in zip(first, more, strict=True) if before == other)


# ── rollouts ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.proof("A rollout promotes a good image step by step, also if it is killed and repeated")
@on(*TARGETS)
def test_rollout_promotes_a_good_image_step_by_step(production: Production) -> None:
    """Also when the rollout is killed half-way: the next one continues."""
    champion, other = production.champion, production.other
    with load(production.ask) as responses:
        began = subprocess.Popen(
            (*production.rollout, other),
            cwd=production.project.folder,
            env=production.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for line in began.stderr or ():
            if "20 % of the clients" in line:
                began.kill()
        began.communicate()
        assert production.status()[1] == f"canary at 20 %: {other}"
        result = production.run(*production.rollout, other)
    assert result.returncode == 0, result.stdout + result.stderr
    steps = [line for line in result.stdout.splitlines() if line.startswith("###")]
    assert steps == ["### canary 20: promote", "### canary 60: promote"]
    assert result.stdout.endswith(f"deploy: {other} is active\n")
    assert statuses(responses) == {(200, champion), (200, other)}
    assert production.status() == [f"active: {other}", f"previous: {champion}"]


@pytest.mark.proof(
    "A rollout blocks an image that fails, is slow or shifts the scores of a segment, and names the reason"
)
@on(*TARGETS)
def test_rollout_stops_a_bad_image(production: Production) -> None:
    """The reason is its fault, as a shadow or as a canary; with a fallback, no client sees an error."""
    champion, other = production.champion, production.other
    for mode, fault, reason in (
        ("shadow", "fails", ("errors", "failed")),
        ("shadow", "slow", ("latency", "median")),
        ("canary", "fails", ("errors", "failed")),
        ("canary", "shifted", ("shift", "Yes, internet_service = DSL")),
    ):
        with load(production.ask) as responses:
            if mode == "canary":
                production.good("shadow", fault)
                production.good("canary", "50")
            result = production.run(*production.rollout, fault)
        assert result.returncode == 2, result.stdout + result.stderr
        assert reason in blocked(result.stdout)
        assert f"{fault}: blocked\n\ndeploy: {champion} is still active\n" in result.stdout
        if production.promises["fallback"] or mode == "shadow" or fault != "fails":
            assert {response.status for response in responses} == {200}
        share = sum(response.version == other for response in responses) / len(responses)
        assert share <= (0.6 if mode == "canary" else 0)
        assert production.status() == [f"active: {champion}", "previous: none"]


@on(*TARGETS)
def test_rollout_removes_an_image_without_traffic(production: Production) -> None:
    """Without requests there is no evidence; with zero minutes, an image is promoted directly."""
    champion, other = production.champion, production.other
    params = production.project.folder / "params.yaml"
    for minutes, code, now in (("0.01", 3, champion), ("0", 0, other)):
        params.write_text(PARAMS.replace("minutes: 0.5", f"minutes: {minutes}"))
        result = production.run(*production.rollout, other)
        assert result.returncode == code, result.stderr
        assert production.status()[0] == f"active: {now}"
    params.write_text(PARAMS)
