"""Rules, alerts and dashboard: each does what it is for, in the real Prometheus and Alertmanager."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml
from helpers import Renderer, require, run, until
from project import Done, Json, Project
from serving import Server, free_port, running
from test_events import example, recording

OWNERS = {"owner": "org/models", "data_owner": "org/data", "deployment_owner": "org/servers"}
UP, GATEWAY = 'up{job="server",instance="blue"}', 'up{job="gateway",instance="gateway"}'
BLUE, GREEN = '{job="server",instance="blue"}', '{job="server",instance="green"}'
REQUESTS = 'predict_requests_total{{job="server",instance="blue",status="{}"}}'
OK, FAILED, REJECTED, TURNED_AWAY = (REQUESTS.format(status) for status in (200, 500, 422, 503))
ON_GREEN = OK.replace("blue", "green")
SECONDS = 'predict_duration_seconds_bucket{{job="server",instance="blue",le="{}"}}'
FAILURES, DROPPED = f"event_write_failures_total{BLUE}", f"event_dropped_rows_total{BLUE}"
RUNNING, MEMORY = f"process_start_time_seconds{BLUE}", f"process_resident_memory_bytes{BLUE}"
ON_BLUE = {"instance": "blue", "job": "server"}


class Case(NamedTuple):
    """Measurements, one every so many minutes, and what an alert makes of so many of them."""

    alert: str
    series: dict[str, str]
    length: int
    fires: Sequence[dict[str, str]] = ()
    """The labels of what fires; none: silence."""
    every: int = 1


CASES = [
    Case("ServiceDown", {UP: "0x10"}, 5, [{}]),
    Case("ServiceDown", {UP: "1x10 _x10"}, 20, [{}]),
    Case("ServiceDown", {UP: "1x20", GATEWAY: "1x10 0x10"}, 15, [{"instance": "gateway", "job": "gateway"}]),
    Case("ServiceDown", {UP: "1x20", GATEWAY: "1x10 _x10"}, 20, [{"instance": "gateway", "job": "gateway"}]),
    Case("ServiceDown", {UP: "1x10", GATEWAY: "1x10"}, 10),
    Case("ServiceDown", {UP: "1x10"}, 10),
    Case("HighErrorRate", {OK: "0+98x70", FAILED: "0+2x70"}, 70, [{"instance": "blue", "status": "500"}]),
    Case("HighErrorRate", {OK: "0+995x70", FAILED: "0+5x70"}, 70),
    Case("HighErrorRate", {OK: "0+98x70", FAILED: "0x65 2+2x5"}, 70),
    Case("HighErrorRate", {OK: "0+98x70", FAILED: "0+5x50 250x20"}, 70),
    Case("HighErrorRate", {OK: "0x10", FAILED: "0x10"}, 10),
    Case("Overloaded", {OK: "0+98x20", TURNED_AWAY: "0+2x20"}, 20, [{"instance": "blue", "status": "503"}]),
    Case("Overloaded", {OK: "0+995x20", TURNED_AWAY: "0+5x20"}, 20),
    Case(
        "HighLatency",
        {
            SECONDS.format("0.1"): "0+98x20",
            SECONDS.format("0.3"): "0+100x20",
            SECONDS.format("+Inf"): "0+100x20",
        },
        20,
        [{"instance": "blue"}],
    ),
    Case(
        "HighLatency",
        {
            SECONDS.format(edge).replace("duration_", ""): f"0+{count}x20"  # what 0.2 says
            for edge, count in (("0.1", 98), ("0.3", 100), ("+Inf", 100))
        },
        20,
        [{"instance": "blue"}],
    ),
    Case("HighLatency", {SECONDS.format("0.1"): "0+100x20", SECONDS.format("+Inf"): "0+100x20"}, 20),
    Case(
        "RequestsRejected", {OK: "0+90x30", REJECTED: "0+10x30"}, 30, [{"instance": "blue", "status": "422"}]
    ),
    Case("RequestsRejected", {OK: "0+98x30", REJECTED: "0+2x30"}, 30),
    Case("EventsNotWritten", {FAILURES: "0+1x20"}, 15, [ON_BLUE]),
    Case("EventsNotWritten", {DROPPED: "0+100x20"}, 15, [ON_BLUE]),
    *(
        Case("EventsNotWritten", {series.replace("event", name): "0+1x20"}, 15, [ON_BLUE])
        for series in (FAILURES, DROPPED)
        for name in ("label", "truth")  # the latter is what 0.2 says
    ),
    Case("EventsNotWritten", {FAILURES: "0 1x20"}, 20),
    Case("ServerUnstable", {UP: "0x5"}, 5, [ON_BLUE]),
    Case("ServerUnstable", {RUNNING: "1x3 2x3 3x3 4x3"}, 16, [ON_BLUE]),
    Case("ServerUnstable", {UP: "1x20", RUNNING: "1x10 2x10"}, 20),
    Case("HighMemory", {MEMORY: "900000000x20"}, 20, [ON_BLUE]),
    Case("HighMemory", {MEMORY: "300000000x20"}, 20),
    Case("NoTraffic", {OK: "0+9x672 6048x3"}, 675, [{}], every=15),
    Case("NoTraffic", {OK: "0+9x675"}, 675, every=15),
    Case("NoTraffic", {OK: "0x675"}, 675, every=15),
    Case("RolloutStalled", {OK: "0+9x300", ON_GREEN: "0+1x300"}, 300, [{}], every=5),
    Case("RolloutStalled", {OK: "0+9x300", ON_GREEN: "0x300"}, 300, every=5),
]
# What is recorded over five minutes of these measurements, and what it has to be.
MEASURED = {
    OK: "0+540x5",
    REJECTED: "0+60x5",
    f"predict_rows_total{BLUE}": "0+1200x5",
    f"server_price_per_hour{BLUE}": "3.6x5",
    f"server_price_per_hour{GREEN}": "3.6x5",
    SECONDS.format("0.01"): "0+98x5",
    SECONDS.format("0.03"): "0+100x5",
    SECONDS.format("+Inf"): "0+100x5",
    'predict_output_sum{job="server",instance="blue",output="Yes"}': "0+30x5",
    'predict_output_count{job="server",instance="blue",output="Yes"}': "0+120x5",
}
SHARES = {'{instance="blue",status="200"}': 0.9, '{instance="blue",status="422"}': 0.1}
# What servers of 0.2 export under other names, which rules and dashboard read beside the new names.
OLD_METRICS = {
    "event_waiting_rows",
    "predict_seconds_bucket",
    "truth_dropped_rows_total",
    "truth_write_failures_total",
}
FIGURES: dict[str, dict[str, float]] = {
    "limit:error_share": {"": 0.01},
    "limit:rejected_share": {"": 0.05},
    "limit:latency_seconds": {"": 0.1},
    "limit:memory_bytes": {"": 8.5e8},
    "instance_status:predict_requests:rate5m": {
        '{instance="blue",status="200"}': 9,
        '{instance="blue",status="422"}': 1,
    },
    "instance_status:predict_requests:share5m": SHARES,
    "instance_status:predict_requests:share1h": SHARES,
    "instance:predict_rows:rate5m": {'{instance="blue"}': 20},
    "instance:predict_duration_seconds:median5m": {'{instance="blue"}': 0.0051},
    "instance:predict_duration_seconds:p99_5m": {'{instance="blue"}': 0.02},
    "instance_output:predict_output:mean5m": {'{instance="blue",output="Yes"}': 0.25},
    "predictions:cost_per_thousand:rate5m": {"": 0.05},
}


@pytest.fixture(scope="module")
def rendered(render: Renderer) -> Path:
    """Render a project whose alerts have three owners."""
    require("promtool", "amtool", "prometheus", "prometheus-alertmanager")
    return render(**OWNERS, observability="prometheus")


def rules(project: Path, kind: str) -> list[Json]:
    """List the rules of a kind, alert or record."""
    groups = yaml.safe_load((project / "deploy/monitoring/rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def alert_test(project: Path, case: Case) -> Json:
    """A case in promtool's words."""
    rule = next(rule for rule in rules(project, "alert") if rule["alert"] == case.alert)
    fires = [
        {"exp_labels": rule["labels"] | labels, "exp_annotations": rule["annotations"]}
        for labels in case.fires
    ]
    end = f"{case.length * case.every}m"
    return {"alert_rule_test": [{"eval_time": end, "alertname": case.alert, "exp_alerts": fires}]}


def figure_test(name: str, values: dict[str, float]) -> Json:
    """What a figure has to be."""
    samples = [{"labels": labels, "value": value} for labels, value in values.items()]
    return {"expr": f"round({name}, 1e-4)", "eval_time": "5m", "exp_samples": samples}


def unit_tests(project: Path, cases: list[Case] = CASES) -> dict[str, Json]:
    """All of them, in files by how often they look."""
    files: dict[str, Json] = {}
    judged = [(case.every, case.series, alert_test(project, case)) for case in cases]
    figures = [figure_test(*figure) for figure in FIGURES.items()]
    for every, series, test in [*judged, (1, MEASURED, {"promql_expr_test": figures})]:
        often = f"{every}m"
        empty = {"rule_files": ["rules.yml", "custom-rules.yml"], "evaluation_interval": often, "tests": []}
        values = [{"series": name, "values": text} for name, text in series.items()]
        content = files.setdefault(f"{often}.json", empty)
        content["tests"].append({"interval": often, "input_series": values, **test})
    return files


def judge(project: Path, folder: Path, tests: dict[str, Json], edit: Callable[[str], str] = str) -> Done:
    """Run unit tests on a project's rules, edited or not."""
    for name in ("rules.yml", "custom-rules.yml"):
        (folder / name).write_text(edit((project / "deploy/monitoring" / name).read_text()))
    for name, content in tests.items():
        (folder / name).write_text(json.dumps(content))
    command = ("promtool", "test", "rules", *tests)
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.proof(
    "Each recording rule has the right value, and each alert fires when it should and is silent otherwise"
)
def test_rules_fire_and_stay_silent_as_specified(rendered: Path, tmp_path: Path) -> None:
    """Each alert fires when it should and is silent otherwise; each recording rule has the right value."""
    run("promtool", "check", "config", "--lint-fatal", "prometheus.yml", cwd=rendered / "deploy/monitoring")
    assert {rule["record"] for rule in rules(rendered, "record")} == FIGURES.keys()
    result = judge(rendered, tmp_path, unit_tests(rendered))
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(("always", "silent"), [("vector(1) > 0", True), ("vector(1) < 0", False)])
def test_rule_tests_detect_an_alert_that_never_changes(
    rendered: Path, tmp_path: Path, always: str, silent: bool
) -> None:
    """Every alert has a case in which it must be silent and one in which it must fire."""

    def edit(text: str) -> str:
        content = yaml.safe_load(text)
        for group in content["groups"]:
            group["rules"] = [rule | {"expr": always} if "alert" in rule else rule for rule in group["rules"]]
        return json.dumps(content)

    cases = [case for case in CASES if silent != bool(case.fires)]
    result = judge(rendered, tmp_path, unit_tests(rendered, cases), edit)
    detected = set(re.findall(r"alertname: (\w+)", result.stderr + result.stdout))
    assert detected == {rule["alert"] for rule in rules(rendered, "alert")}


def test_custom_rules_override_limits(rendered: Path, tmp_path: Path) -> None:
    """The example in custom-rules.yml, once it is no comment any more, makes a slow server a good one."""
    slow = next(case for case in CASES if case.alert == "HighLatency" and case.fires)
    tests = unit_tests(rendered, [slow._replace(fires=())])
    assert "alertname: HighLatency" in judge(rendered, tmp_path, tests).stderr
    result = judge(
        rendered, tmp_path, tests, lambda text: text.replace("rules: []\n    # -", "rules:\n      -")
    )
    assert "alertname: HighLatency" not in result.stderr
    assert "limit:latency_seconds" in result.stderr


def test_each_alert_has_an_owner_and_a_runbook_section(rendered: Path) -> None:
    """Every owner gets an alert; the runbook has a section for each alert and for no other."""
    alerts = rules(rendered, "alert")
    assert {rule["labels"]["severity"] for rule in alerts} == {"critical", "warning"}
    assert {rule["labels"]["owner"] for rule in alerts} == set(OWNERS.values())
    assert all(rule["annotations"]["summary"] for rule in alerts)
    runbook = (rendered / "docs/runbook.md").read_text().split("\n## ")[1]
    sections = re.findall(r"^### (\w+)$", runbook, re.M)
    assert sections == [rule["alert"] for rule in alerts]
    for rule in alerts:
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"


def alertmanager(project: Path, **environment: str) -> str:
    """Alertmanager's configuration, as Compose makes it."""
    compose = Path(sys.executable).parent / "docker-compose"
    command = (compose, "--profile", "monitoring", "config", "--format", "json")
    result = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=True)
    content = json.loads(result.stdout)["configs"]["alertmanager"]["content"]
    return content.replace("$$", "$")  # doubled, so that Compose could read what it prints


@pytest.mark.proof("Alertmanager routes each alert to its receiver")
@pytest.mark.parametrize("environment", [{}, {"ALERT_WEBHOOK": "https://chat.example/hook?team=a&key=$1"}])
def test_each_severity_has_its_route(rendered: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    """With any webhook address, and without one: then alerts are only displayed."""
    (tmp_path / "routes.yml").write_text(alertmanager(rendered, **environment))
    run("amtool", "check-config", "routes.yml", cwd=tmp_path)
    hooks = yaml.safe_load((tmp_path / "routes.yml").read_text())["receivers"]
    assert [hook["url"] for receiver in hooks for hook in receiver["webhook_configs"]] == 2 * [
        *environment.values()
    ]
    for severity in ("critical", "warning"):
        way = ("--config.file=routes.yml", f"--verify.receivers={severity}", f"severity={severity}")
        run("amtool", "config", "routes", "test", *way, cwd=tmp_path)


class Webhook(BaseHTTPRequestHandler):
    """What a chat or a pager would be told: receiver, status and alert."""

    notifications: list[tuple[str, str, str]]

    def do_POST(self) -> None:
        """Take a notice down."""
        notice = json.loads(self.rfile.read(int(self.headers["content-length"])))
        for alert in notice["alerts"]:
            self.notifications.append((notice["receiver"], alert["status"], alert["labels"]["alertname"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def ask(prometheus: int, path: str, **parameters: object) -> Json:
    """Ask Prometheus's API; nothing comes while it is about to start."""
    try:
        with urlopen(f"http://127.0.0.1:{prometheus}/api/v1/{path}?{urlencode(parameters)}") as answer:
            return json.load(answer)["data"]
    except OSError as error:
        if getattr(error, "code", 503) == 503:
            return None
        raise


@dataclass
class Stack:
    """A server with clients, Prometheus and Alertmanager, and the notifications that they send."""

    server: Server
    prometheus: int
    alertmanager: int
    notifications: list[tuple[str, str, str]]

    def query(self, expression: str) -> list[Json]:
        """Ask Prometheus, as Grafana does, for the last minute."""
        now = time.time()
        matrix = ask(self.prometheus, "query_range", query=expression, start=now - 60, end=now, step=1)
        return [series for series in matrix["result"] if any(value != "NaN" for _, value in series["values"])]

    def inhibited(self) -> set[str]:
        """Return the alerts about which Alertmanager notifies nobody because of another alert."""
        with urlopen(f"http://127.0.0.1:{self.alertmanager}/api/v2/alerts") as response:
            alerts = json.load(response)
        return {alert["labels"]["alertname"] for alert in alerts if alert["status"]["inhibitedBy"]}


@contextmanager
def listening(notifications: list[tuple[str, str, str]]) -> Generator[int]:
    """Take notices down until the block ends; gives the port."""
    handler = type("Handler", (Webhook,), {"notifications": notifications})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        Thread(target=http.serve_forever).start()
        try:
            yield http.server_port
        finally:
            http.shutdown()


@contextmanager
def asking(server: Server, row: Json) -> Generator[None]:
    """Ask all the time, also what is refused, until the block ends."""
    stop = Event()

    def run() -> None:
        while not stop.wait(0.1):
            server.predict([row] * 10)
            server.predict({})
            server.ask("GET", "/predict")

    thread = Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def hurry(project: Path, folder: Path, port: int, alertmanager: int) -> None:
    """Configure Prometheus as the project does, but every second and for a server at hand."""
    monitoring = project / "deploy/monitoring"
    settings = yaml.safe_load((monitoring / "prometheus.yml").read_text())
    settings["global"] = dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), "1s")
    settings["alerting"]["alertmanagers"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{alertmanager}"]}]
    for job in settings["scrape_configs"]:
        del job["dns_sd_configs"], job["relabel_configs"]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    (folder / "custom-rules.yml").write_text((monitoring / "custom-rules.yml").read_text())
    (folder / "rules.yml").write_text(re.sub(r"for: \w+", "for: 1s", (monitoring / "rules.yml").read_text()))


@pytest.fixture(scope="module")
def stack(project: Project, slim: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Watch a server as in production, only faster."""
    require("prometheus", "prometheus-alertmanager")
    folder, notifications = tmp_path_factory.mktemp("stack"), list[tuple[str, str, str]]()
    with ExitStack() as parts:
        parts.enter_context(pytest.MonkeyPatch.context()).setenv("PRICE_PER_HOUR", "0.36")
        server = parts.enter_context(recording(project, slim, folder, folder / "events"))
        webhook = f"http://127.0.0.1:{parts.enter_context(listening(notifications))}/?a=1&b=2"
        routes = alertmanager(project.folder, ALERT_WEBHOOK=webhook)
        (folder / "routes.yml").write_text(re.sub(r"(group_\w+): \w+", r"\1: 1s", routes))
        prometheus, tells = free_port(), free_port()  # as late as possible: others look for free ports too
        hurry(project.folder, folder, server.port, tells)
        own = ("--config.file=routes.yml", "--cluster.listen-address=", "--storage.path=notices")
        at = f"--web.listen-address=127.0.0.1:{tells}"
        parts.enter_context(running(folder, "prometheus-alertmanager", *own, at, port=tells))
        at = f"--web.listen-address=127.0.0.1:{prometheus}"
        own = ("--config.file=prometheus.yml", "--storage.tsdb.path=data")
        parts.enter_context(running(folder, "prometheus", *own, at, port=prometheus))
        until(lambda: ask(prometheus, "targets") is not None)
        parts.enter_context(asking(server, example(project)))
        yield Stack(server, prometheus, tells, notifications)


@pytest.mark.proof("Each query of the dashboard returns data from a Prometheus that scrapes a server")
def test_every_panel_has_data(stack: Stack, project: Project) -> None:
    """Each query of the dashboard returns data from a Prometheus that scrapes a server."""
    dashboard = project.json("deploy/monitoring/grafana/dashboards/model.json")
    targets = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(targets) > len(dashboard["panels"]) > 0
    for expression in targets:
        query = expression.replace("$output", "Yes").replace("$__rate_interval", "1m")
        until(lambda query=query: stack.query(query) != [])
    assert {series["metric"]["job"] for series in stack.query("model_info")} == {"server", "gateway"}


def named_series(expression: str) -> set[str]:
    """Return the names of the series that a PromQL expression reads."""
    nested = r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|\b(?:by|on)\s*\([^)]*\)'
    names = re.findall(r"(?<![\w:.])[a-zA-Z_][\w:]*\b(?!\s*\()", re.sub(nested, " ", expression))
    return {*names} - {"and", "or", "unless", "offset", "group_left"}


def test_rules_and_dashboard_read_metrics_that_the_server_exports(stack: Stack, project: Project) -> None:
    """An alert on a metric that no server exports would be silent forever."""
    dashboard = project.json("deploy/monitoring/grafana/dashboards/model.json")
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    own = [rule for kind in ("record", "alert") for rule in rules(project.folder, kind)]
    named = {name for query in [*queries, *(rule["expr"] for rule in own)] for name in named_series(query)}
    recorded = {rule["record"] for rule in own if "record" in rule}
    overriding = {name for name in named if name.startswith(("custom:", "own:"))}
    exported = {*re.findall(r"^\w+", stack.server.get("/metrics").body.decode(), re.M)}
    assert named - exported - recorded - overriding == {"up", "ALERTS", *OLD_METRICS}


@pytest.mark.proof("The webhook receives an alert for a hanging server, and its resolution")
def test_webhook_receives_alerts_by_severity(stack: Stack) -> None:
    """Many rejections are a warning; a hanging server is critical and inhibits other alerts."""
    until(lambda: ("warning", "firing", "RequestsRejected") in stack.notifications)
    stack.server.process.send_signal(signal.SIGSTOP)
    try:
        until(lambda: ("critical", "firing", "ServiceDown") in stack.notifications)
        until(lambda: "ServerUnstable" in stack.inhibited())
    finally:
        stack.server.process.send_signal(signal.SIGCONT)
    assert not any(name == "ServerUnstable" for _, _, name in stack.notifications)
    until(lambda: ("critical", "resolved", "ServiceDown") in stack.notifications)
