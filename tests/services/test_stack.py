"""What watches production, in containers beside it: it finds everything by name."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import require, until
from images import Docker
from project import Project
from serving import free_port
from test_alerts import ask

# Debian's builds in the places where the images that a project names have them.
IMAGES = {
    "prom/prometheus:v3.13.1": """\
FROM base
COPY prometheus /bin/
RUN install -d -o 65534 /prometheus
USER 65534
ENTRYPOINT ["prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
""",
    "prom/alertmanager:v0.31.1": """\
FROM base
COPY prometheus-alertmanager /bin/alertmanager
COPY templates /usr/share/prometheus/alertmanager
RUN install -d -o 65534 /alertmanager
USER 65534
ENTRYPOINT ["alertmanager"]
CMD ["--config.file=/etc/alertmanager/alertmanager.yml", "--storage.path=/alertmanager"]
""",
}
PORTS = (
    "services: {{prometheus: {{ports: !override ['127.0.0.1:{}:9090']}}, alertmanager: {{ports: !reset []}}}}"
)


@pytest.fixture
def images(docker: Docker, tmp_path: Path) -> None:
    """Build what stands in for the images of the stack."""
    require("prometheus", "prometheus-alertmanager")
    for program in ("prometheus", "prometheus-alertmanager"):
        shutil.copy2(str(shutil.which(program)), tmp_path)
    shutil.copytree("/usr/share/prometheus/alertmanager", tmp_path / "templates")
    for name, text in IMAGES.items():
        (tmp_path / "Dockerfile").write_text(text)
        docker.good("build", "--quiet", "--tag", name, tmp_path)


@pytest.fixture
def production(docker: Docker, image: str, work: Project, tmp_path: Path) -> Iterator[None]:
    """Put a project's model in production."""
    own = {"STATE": str(tmp_path / "state"), "PORT": str(free_port())}
    deploy = (sys.executable, work.folder / "deploy/rollout.py", "promote", image)
    subprocess.run(deploy, env=docker.environment() | own, check=True, capture_output=True)
    yield
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STATE", own["STATE"])
        services = work.folder / "deploy/compose/compose.yaml"
        docker.good("compose", "--file", services, "down", "--volumes", "--timeout", "1")


@pytest.fixture
def prometheus(
    docker: Docker, images: None, production: None, work: Project, tmp_path: Path
) -> Iterator[int]:
    """Watch production as the README says, but every second, and at another port, which it gives."""
    settings, port = work.folder / "deploy/monitoring/prometheus.yml", free_port()
    settings.write_text(settings.read_text().replace("15s", "1s"))
    ports = tmp_path / "ports.yaml"
    ports.write_text(PORTS.format(port))
    parts = (work.folder / "compose.yaml", work.folder / "deploy/monitoring/production.yaml", ports)
    stack = ("compose", *(f"--file={part}" for part in parts))
    docker.good(*stack, "up", "--detach", "prometheus")
    until(lambda: ask(port, "targets") is not None)
    yield port
    docker.good(*stack, "--profile=monitoring", "down", "--volumes", "--timeout", "1")


@pytest.mark.proof("Prometheus scrapes the slots and the gateway in their containers")
def test_prometheus_scrapes_production(docker: Docker, prometheus: int) -> None:
    """Slots and gateway are found by their names, and a stopped gateway raises an alert."""

    def query(expression: str) -> dict[str, str]:
        series = ask(prometheus, "query", query=expression)["result"]
        return {sample["metric"]["instance"]: sample["value"][1] for sample in series}

    def alerts() -> set[str]:
        return {alert["labels"]["alertname"] for alert in ask(prometheus, "alerts")["alerts"]}

    until(lambda: query("up") == query("model_info") == {"blue": "1", "gateway": "1"})
    until(lambda: alerts() == set())
    assert ask(prometheus, "alertmanagers")["activeAlertmanagers"]
    docker.good("stop", "--time=1", "customer-churn-production-gateway-1")
    until(lambda: query("up") == {"blue": "1"})
    assert alerts() == {"ServiceDown"}
    routes = docker.good("exec", "customer-churn-alertmanager-1", "cat", "/etc/alertmanager/alertmanager.yml")
    assert "webhook_configs: []" in routes
