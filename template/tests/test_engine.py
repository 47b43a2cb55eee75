"""Order, recovery and errors of `deploy/rollout.py`, on a target in memory; commands are cut off anywhere."""

import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import rollout
from rollout import Mode, Promises, RefusedError, Rollout, State, TargetError, other_slot, run


class KilledError(BaseException):
    """The process is killed."""


class Memory:
    """A target that checks at each act that no request can go to a slot without its image."""

    promises = Promises(copied=1, paired=True, sticky=True, fallback=True, share_step=0.5, lossless=True)
    events = "events"

    def __init__(self) -> None:
        self.saved = State()
        self.running: dict[str, str] = {}
        self.routed: tuple[str, Mode, float] | None = None
        self.acts: list[str] = []
        self.stop_after = 0  # the process is killed after so many acts
        self.is_reachable = True

    @property
    def serving(self) -> set[str]:
        """The slots that get requests."""
        slot, mode, _ = self.routed or ("", "alone", 0)
        return {slot} - {""} | ({other_slot(slot)} if mode == "canary" else set())

    def act(self, *words: str) -> None:
        """Finish an act."""
        assert self.serving <= {*self.running}, words
        self.acts.append(" ".join(words))
        if len(self.acts) == self.stop_after:
            raise KilledError

    def reach(self) -> None:
        """Fail without a connection."""
        if not self.is_reachable:
            raise TargetError("no route to host")

    @contextmanager
    def lock(self) -> Generator[None]:
        yield

    def load(self) -> State:
        return deepcopy(self.saved)

    def save(self, state: State) -> None:
        self.saved = deepcopy(state)
        self.act("save")

    def start(self, state: State, slot: str) -> None:
        self.reach()
        image = state.images[slot]
        is_first = state.active is None  # an interrupted first deployment may be replaced
        assert self.running.get(slot) == image or slot not in self.serving or is_first
        self.running[slot] = image
        if image == "broken":
            raise TargetError("ImportError: no module named numpy")
        self.act("start", image)

    def route(self, state: State, slot: str, mode: Mode) -> None:
        self.reach()
        self.routed = (slot, mode, state.share if mode == "canary" else 0)
        self.act("route", self.running[slot], mode)

    def stop(self, state: State, slot: str) -> None:
        self.reach()
        assert slot not in self.serving or state.active is None
        self.routed = self.routed if state.active else None
        self.running.pop(slot, None)
        self.act("stop", slot)

    def remove(self) -> None:
        self.reach()
        self.running, self.routed = {}, None
        self.act("remove")

    def describe(self, state: State) -> str:
        self.reach()
        return f"running: {self.running}"

    def picture(self) -> tuple[object, ...]:
        """What is true, except for the time."""
        values = {name: value for name, value in vars(self.saved).items() if name != "since"}
        return values, self.running, self.routed


Order = tuple[str, Any]
SHADOW, CANARY, PROMOTE = ("shadow", "new"), ("canary", 10), ("promote", None)
ROLLBACK, ABORT, REMOVE = ("rollback", None), ("abort", None), ("remove", True)
FIRST = ("promote", "old")
ORDERS: list[Order] = [
    FIRST,
    *(SHADOW, ("shadow", "third"), CANARY, ("canary", 50), PROMOTE, ("promote", "new"), ("promote", "third")),
    *(ROLLBACK, ("rollback", "old"), ("rollback", "new"), ("rollback", "third"), ABORT, REMOVE),
]
SCENES: dict[str, list[Order]] = {
    "nothing": [],
    "active": [FIRST],
    "shadow": [FIRST, SHADOW],
    "canary": [FIRST, SHADOW, CANARY],
    "promoted": [FIRST, SHADOW, PROMOTE],
    "rolled back": [FIRST, SHADOW, PROMOTE, ROLLBACK],
}


def play(scene: str) -> Memory:
    """A target after the commands of a scene."""
    target = Memory()
    for order in SCENES[scene]:
        run(target, *order)
    target.acts = []
    return target


def is_consistent(target: Memory) -> bool:
    """Whether requests go where the state says, and exactly the images of the state run."""
    state = target.saved
    mode = state.phase if state.phase in ("shadow", "canary") else "alone"
    share = state.share if mode == "canary" else 0
    return target.running == state.images and target.routed == (
        (state.active, mode, share) if state.active else None
    )


def attempt(target: Memory, order: Order) -> str:
    """Run a command; the name of the error if it is refused."""
    try:
        return run(target, *order)
    except RefusedError as error:
        return type(error).__name__


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_command_leaves_a_consistent_state_also_twice(scene: str, order: Order) -> None:
    target = play(scene)
    before = target.picture()
    if attempt(target, order) == "RefusedError":
        assert (target.acts, target.picture()) == ([], before)
    else:
        assert is_consistent(target)
        if order != ROLLBACK:  # twice goes one step further, as two people would
            after = target.picture()
            run(target, *order)
            assert target.picture() == after


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_command_that_is_cut_off_is_completed_by_repeating_it(scene: str, order: Order) -> None:
    whole = play(scene)
    if attempt(whole, order) == "RefusedError":
        return
    for n_acts in range(1, len(whole.acts)):
        target = play(scene)
        target.stop_after = n_acts
        with pytest.raises(KilledError):
            run(target, *order)
        target.stop_after = 0
        assert target.saved.active is None or order == REMOVE or target.serving
        attempt(target, order)  # a promotion may have done all before it was killed: nothing is left to do
        assert target.picture() == whole.picture(), (n_acts, target.acts)


@pytest.mark.parametrize("scene", SCENES)
def test_any_command_after_a_cut_leaves_a_consistent_state(scene: str) -> None:
    for order, follower in product(ORDERS, ORDERS):
        whole = play(scene)
        attempt(whole, order)
        for n_acts in range(1, len(whole.acts)):
            target = play(scene)
            target.stop_after = n_acts
            with pytest.raises(KilledError):
                run(target, *order)
            target.stop_after = 0
            state, image = target.saved, follower[1]
            in_use = {None, state.image, state.standby_image if state.phase else None}
            is_about_another = follower[0] == "rollback" and image not in in_use
            if attempt(target, follower) == "RefusedError":
                continue
            if is_about_another:  # it only undoes the switch of an interrupted promotion
                assert target.saved.active in (None, *target.serving)
            else:
                assert is_consistent(target), (order, n_acts, follower, target.acts)


def test_rollout_starts_before_it_routes_and_saves_before_it_starts() -> None:
    target = play("active")
    for order in (SHADOW, CANARY, PROMOTE, ROLLBACK):
        run(target, *order)
    assert target.acts == [
        *("save", "start new", "route old shadow", "save"),
        *("save", "start new", "route old canary", "save"),
        *("save", "start new", "route new alone", "save"),
        *("start old", "route old alone", "save", "stop green", "save"),
    ]


@pytest.mark.parametrize(
    ("scene", "order", "message"),
    [
        ("nothing", SHADOW, "nothing is active"),
        ("nothing", PROMOTE, "no challenger"),
        ("nothing", ROLLBACK, "no previous image"),
        ("active", ("shadow", "old"), "old is active"),
        ("active", CANARY, "start one with `shadow IMAGE`"),
        ("promoted", CANARY, "no challenger"),
        ("shadow", ("rollback", "old"), "no previous image"),  # the challenger is none
        ("rolled back", ROLLBACK, "no previous image"),
        ("active", ("remove", False), "old serves clients"),
    ],
)
def test_wrong_order_is_refused(scene: str, order: Order, message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        run(play(scene), *order)


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("command", ["shadow", "promote"])
def test_image_that_does_not_start_is_removed_and_its_last_words_are_shown(scene: str, command: str) -> None:
    target, active = play(scene), play(scene).saved.image
    if command == "shadow" and active is None:
        return
    with pytest.raises(TargetError, match=f"failed, {active or 'nothing'} is active\nImportError: no mod"):
        run(target, command, "broken")
    assert is_consistent(target)
    assert (target.saved.image, target.saved.standby_image) == (active, None)


@pytest.mark.parametrize("order", [SHADOW, ("promote", "new"), ("promote", None), ABORT, REMOVE], ids=str)
def test_command_without_a_connection_fails_and_is_completed_later(order: Order) -> None:
    whole, target = play("active"), play("active")
    target.is_reachable = False
    with pytest.raises(TargetError, match="no route to host"):
        run(target, *order)
    target.is_reachable = True
    run(whole, *order)
    run(target, *order)
    assert target.picture() == whole.picture()


def test_image_that_cannot_be_removed_is_named() -> None:
    target = play("active")
    target.is_reachable = False
    with pytest.raises(TargetError, match="could not be removed: run `abort`"):
        run(target, *SHADOW)
    assert target.saved.challenger == "new"


def test_phase_keeps_its_start_until_image_or_share_change(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(1, 9))
    monkeypatch.setattr(rollout.time, "time", lambda: float(next(seconds)))
    target, starts = play("active"), []
    for order in (SHADOW, SHADOW, CANARY, CANARY, ("canary", 50), ("shadow", "third")):
        run(target, *order)
        starts.append(target.saved.since)
    assert starts == [1, 1, 2, 2, 3, 4]


@pytest.mark.parametrize(("share", "rounded"), [(10.2, 10), (10.3, 10.5), (0.1, 0.5), (99.9, 99.5)])
def test_share_is_rounded_to_what_the_target_can_do(share: float, rounded: float) -> None:
    target = play("shadow")
    assert f"new serves {rounded:g} % of the clients" in run(target, "canary", share)
    assert target.saved.share == rounded


def test_removed_target_starts_anew_and_an_interrupted_removal_must_be_repeated() -> None:
    target = play("canary")
    target.stop_after = 1
    with pytest.raises(KilledError):
        run(target, *REMOVE)
    target.stop_after = 0
    for order in (SHADOW, PROMOTE, ABORT):
        with pytest.raises(RefusedError, match="repeat `remove --yes`"):
            run(target, *order)
    assert run(target, *REMOVE).endswith("events are kept in events")
    assert target.picture() == Memory().picture()
    run(target, *FIRST)
    assert is_consistent(target)


def test_status_shows_state_events_and_promises(capsys: pytest.CaptureFixture[str]) -> None:
    target = play("canary")
    values = json.loads(run(target, "status", True))
    assert {name: values[name] for name in ("active", "challenger", "phase", "share", "events")} == {
        "active": "old",
        "challenger": "new",
        "phase": "canary",
        "share": 10,
        "events": "events",
    }
    assert values["promises"] == vars(Memory.promises)
    assert run(target, "status", False).startswith("running: ")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["active: old", "canary at 10 %: new", "events: events"]
    assert lines[3].startswith("promises: 100% copied, pairs, sticky clients, fallback, lossless switch")


def test_status_names_an_interrupted_promotion() -> None:
    target = play("shadow")
    target.saved.phase = "promote"
    assert Rollout(target, target.load()).state.challenger == "new"
    assert run(target, *ROLLBACK) == "deploy: old is still active"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("promote", "old"), None, ""),
        (("rollback",), 3, "deploy: nothing is active, and there is no previous image\n"),
        (("promote", "broken"), 1, "deploy: promote: broken failed, nothing is active\nImportError"),
        (("canary", "100"), 2, "100 is not between 0 and 100 percent"),
        (("canary", "x"), 2, "invalid percentage value"),
        (("shadow",), 2, "required: IMAGE"),
    ],
)
def test_exit_code_says_what_happened(
    words: tuple[str, ...],
    code: int | None,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(rollout, "load_target", Memory)
    monkeypatch.setattr(sys, "argv", ["rollout.py", *words])
    if code is None:
        rollout.main()
        assert capsys.readouterr().out == "deploy: old is active\n"
    else:
        with pytest.raises(SystemExit) as error:
            rollout.main()
        assert (error.value.code, message in capsys.readouterr().err) == (code, True)


@pytest.mark.parametrize("names", [[], ["compose", "kubernetes"]])
def test_exactly_one_target_is_expected(
    names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "target.py").touch()
    monkeypatch.setattr(rollout, "__file__", str(tmp_path / "rollout.py"))
    with pytest.raises(RefusedError, match=f"has: {', '.join(names) or 'none'}"):
        rollout.load_target()
