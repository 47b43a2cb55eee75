"""`deploy/rollout.py` without a server, without Docker and with a damaged state; no container is started."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import Renderer, require

LIVE = {"live": "blue", "images": {"blue": "churn:first"}}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return the path of a server's state, which does not exist."""
    return tmp_path / "state"


def deploy(
    render: Renderer, state: Path, *words: str, command: str = "deploy/rollout.py"
) -> "subprocess.CompletedProcess[str]":
    """Run deploy/rollout.py, or its former name, without Docker."""
    environment = {"STATE": str(state), "PATH": str(state.parent)}
    return subprocess.run(
        (sys.executable, command, *words),
        cwd=render(),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_deploy_status_writes_nothing(render: Renderer, state: Path) -> None:
    """It creates no folder and no lock, and shows the active image without Docker."""
    result = deploy(render, state, "status", "--json")
    assert (result.returncode, json.loads(result.stdout)["active"]) == (0, None), result.stderr
    result = deploy(render, state, "status")
    assert result.stdout.startswith("active: none\n")
    assert result.stderr == "deploy: docker is not on PATH\n"
    assert not state.exists()
    state.mkdir()
    (state / "state.json").write_text(json.dumps(LIVE))
    assert deploy(render, state, "status").stdout.startswith("active: churn:first\n")
    assert [path.name for path in state.iterdir()] == ["state.json"]


def test_former_command_still_works_and_names_the_new_one(render: Renderer, state: Path) -> None:
    """Scripts on servers call it; its output and its exit codes are those of the new one."""
    state.mkdir()
    (state / "state.json").write_text(json.dumps(LIVE))
    former = "deploy/compose/deploy.py"
    result = deploy(render, state, "status", "--json", command=former)
    assert json.loads(result.stdout) == json.loads(deploy(render, state, "status", "--json").stdout)
    assert result.stderr == f"warning: {former} is now deploy/rollout.py; the old name goes in 0.5\n"
    assert deploy(render, state, "canary", "10", command=former).returncode == 3


@pytest.mark.parametrize("text", ["", "{", "[]", '{"weight": 3}', '{"live": "blue"', "\x00"])
@pytest.mark.parametrize("verb", [("status",), ("status", "--json"), ("rollback",)])
def test_deploy_reports_unreadable_state(
    render: Renderer, state: Path, text: str, verb: tuple[str, ...]
) -> None:
    """Truncated, or written by a newer release: one sentence, no traceback."""
    state.mkdir()
    (state / "state.json").write_text(text)
    result = deploy(render, state, *verb)
    assert result.returncode == 1
    assert result.stderr.startswith(f"deploy: {state}/state.json cannot be read (")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("written", "production"),
    [(None, False), ({}, False), ({"images": {"blue": "x"}, "doing": "promote"}, False), (LIVE, True)],
)
def test_monitor_reads_events_of_the_deployed_image(
    render: Renderer, state: Path, written: dict[str, object] | None, production: bool
) -> None:
    """Without an active image, the local events are read."""
    require("make")
    if written is not None:
        (state / "events").mkdir(parents=True)
        (state / "state.json").write_text(json.dumps(written))
    result = subprocess.run(
        ("make", "--dry-run", "monitor", f"STATE={state}"),
        cwd=render(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert f'EVENTS="{f"{state}/events" if production else "events"}"' in result.stdout
