"""Docker Compose beyond what every target must do: a shadow that dies, the fallback, the gateway, tokens."""

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection
from itertools import product
from pathlib import Path

import pytest
from helpers import PATIENCE, until
from serving import load
from targets import LATE, Compose, blocked, since, statuses, wait_for_requests
from test_conformance import bundles, production, start

__all__ = ["bundles", "production", "start"]
pytestmark = pytest.mark.parametrize("start", ["compose"], indirect=True, scope="module")

# Stands before Docker's command line, and ends who called it for the STOP-th time, once that is done.
CUT = """\
#!/bin/sh
{docker} "$@"
code=$?
echo >> {calls}
[ "$(wc -l < {calls})" = "$STOP" ] && kill -9 "$PPID"
exit $code
"""


@pytest.mark.proof("A shadow that is slow and then dies affects no client")
def test_slow_and_dying_shadow_harms_no_client(
    production: Compose, record_property: Callable[[str, object], None]
) -> None:
    """No request fails or waits for it, also over a reused connection; the gateway starts without it."""
    production.good("shadow", "late")
    with load(production.ask) as responses:
        connection = HTTPConnection("127.0.0.1", production.port, timeout=PATIENCE)
        again = [production.ask(connection) for _ in range(5)]
        wait_for_requests(responses, 400)  # during which the shadow answers the first ones
        production.kill("late")
        wait_for_requests(responses, 400)
    assert statuses(responses + again) == {(200, production.champion)}
    times = sorted(response.seconds for response in responses + again)
    assert times[len(times) // 2] < LATE  # all would wait so long if they waited for the shadow
    slow = times[int(0.99 * len(times))]
    record_property("found", f"{len(times):,} requests, 99th percentile {1000 * slow:.0f} ms")
    gateway = production.docker.good("ps", "--quiet", "--filter", "name=gateway")
    production.docker.good("restart", gateway)
    until(lambda: production.ask().status == 200)


@pytest.mark.proof("If a canary dies, the champion serves its clients, and the analysis counts failures")
def test_fallback_serves_the_clients_of_a_dead_canary(production: Compose) -> None:
    """The gateway starts without it, too; events name the role of each server."""
    champion, other = production.champion, production.other

    def answering() -> list[str]:
        served = [production.ask(None, **{"x-client-id": f"client-{n}"}) for n in range(200)]
        assert {response.status for response in served} == {200}
        return [response.version for response in served]

    production.good("shadow", other)
    production.good("canary", "60")
    before = Counter(answering())
    until(lambda: len(production.events("id")) == 200)
    production.kill(other)
    assert set(answering()) == {champion}
    until(lambda: len(production.events("id")) == 400)
    roles = production.events("role, model_version AS version, count(*) AS rows GROUP BY ALL ORDER BY ALL")
    assert roles == [
        {"role": "challenger", "version": other, "rows": before[other]},
        {"role": "champion", "version": champion, "rows": 2 * before[champion]},
        {"role": "fallback", "version": champion, "rows": before[other]},
    ]
    result = production.run(*production.rollout, other)
    assert (result.returncode, blocked(result.stdout)) == (2, {("errors", "failed")}), result.stderr
    assert set(answering()) == {champion}
    assert production.status() == [f"active: {champion}", "previous: none"]


@pytest.mark.proof("A command that is killed after any call of Docker is completed by running it again")
def test_interrupted_command_is_completed_by_repeating_it(production: Compose, tmp_path: Path) -> None:
    """Killed after any of its steps; clients notice nothing, and the same command completes the work."""
    champion, other = production.champion, production.other
    calls, tool = tmp_path / "calls", tmp_path / "bin/docker"
    tool.parent.mkdir()
    tool.write_text(CUT.format(docker=shutil.which("docker"), calls=calls))
    tool.chmod(0o755)
    cut, killed = {"PATH": f"{tool.parent}{os.pathsep}{os.environ['PATH']}"}, Counter[str]()
    steps = (
        (("shadow", other), {champion}),
        (("canary", "50"), {champion, other}),
        (("promote",), {other}),
        (("rollback",), {champion}),
    )
    with load(production.ask) as responses:
        for stop, (words, versions) in product((1, 2, 4, 6), steps):  # those between only look
            calls.unlink(missing_ok=True)
            if replace(production, extra=cut | {"STOP": str(stop)}).deploy(*words).returncode == -9:
                killed[words[0]] += 1
                production.good(*words)
            now = time.monotonic()
            wait_for_requests(responses, 10)
            assert since(list(responses), now) <= versions, (stop, words)
    assert min(killed[words[0]] for words, _ in steps) >= 3
    assert {response.status for response in responses} == {200}, Counter(statuses(responses))
    assert production.status() == [f"active: {champion}", "previous: none"]


def test_gateway_limits_size_and_hides_operations(production: Compose) -> None:
    """It passes bodies up to the server's limit; metrics, documentation and facts are not for clients."""
    for method, path, rows, status in (
        ("GET", "/ready", 0, 200),
        ("GET", "/metrics", 0, 404),
        ("GET", "/openapi.json", 0, 403),
        ("GET", "/docs", 0, 403),
        ("GET", "/health", 0, 200),
        ("POST", "/predict", 5_000, 200),
        ("POST", "/predict", 50_000, 413),
    ):
        connection = HTTPConnection("127.0.0.1", production.port, timeout=PATIENCE)
        connection.request(method, path, body=json.dumps([production.row] * rows))
        assert connection.getresponse().status == status, (path, rows)
        connection.close()


@pytest.mark.proof("The gateway accepts labels only with the token")
def test_feedback_needs_a_token(production: Compose) -> None:
    """Without a configured token no label is accepted; then only with it. Other deployments keep it."""

    def tell(**headers: str) -> int:
        with closing(HTTPConnection("127.0.0.1", production.port, timeout=PATIENCE)) as connection:
            connection.request("POST", "/feedback", body='{"id": "a", "churn": "No"}', headers=headers)
            return connection.getresponse().status

    authorization = {"authorization": "Bearer mine"}
    assert [tell(), tell(**authorization), tell(**{"x-role": ""})] == [403, 403, 403]
    (production.state / "slots.env").write_text("FEEDBACK_TOKEN=mine\n")
    production.good("promote", production.champion)
    assert [tell(), tell(authorization="Bearer yours"), tell(**authorization)] == [401, 401, 202]
    production.extra |= {"FEEDBACK_TOKEN": "yours"}
    production.good("promote", production.champion)
    assert [tell(), tell(authorization="Bearer yours"), tell(**authorization)] == [401, 202, 401]
