"""docs/operations.md, followed from an empty folder with Docker."""

import re
import subprocess
from pathlib import Path

import pytest
from actions import uv_cache
from helpers import ROOT, Renderer
from images import Docker
from project import OURS
from serving import free_port

DOC = ROOT / "docs/operations.md"
IDENTITY = [f"GIT_{role}_{part}" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")]
EXPECTED = (
    "churn:first is active",
    "### shadow churn:second: promote",
    "### canary 50: promote",
    "churn:second is active",
    "churn:first is active again",
    "monitor: ok",
    '{"rows":1}',
    "ALERT drift, contract:",
)


def blocks(language: str, port: int) -> list[str]:
    """Return the code blocks of a language, with another port."""
    text = DOC.read_text().replace(":8000", f":{port}")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.proof("docs/operations.md leads from an empty folder to a rollout, a rollback and monitoring")
def test_tutorial_commands_work(render: Renderer, docker: Docker, image: str, tmp_path: Path) -> None:
    """Each command succeeds and prints what docs/operations.md shows."""
    port = free_port()
    copy, *rest = blocks("sh", port)
    copy = copy.replace("<address or full path of the template>", str(render.source))
    (tmp_path / "traffic.py").write_text(*blocks("python", port))
    script = ["trap 'kill $(jobs -p) || true' EXIT\n", copy, "cp ../traffic.py .\n", *rest]
    variables = {name: value for name, value in docker.environment().items() if name not in OURS}
    own = {"HOME": str(tmp_path), "UV_CACHE_DIR": uv_cache(), "PORT": str(port)}
    log = tmp_path / "log"
    with log.open("w") as output:
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "".join(script)],
            cwd=tmp_path,
            env=variables | dict.fromkeys(IDENTITY, "me@example.com") | own,
            stdout=output,
            stderr=output,
            check=False,
        )
    docker.call("compose", "--project-name", "customer-churn-production", "down", "--volumes")
    assert result.returncode == 0, log.read_text()[-5000:]
    assert [part for part in EXPECTED if part not in log.read_text()] == []
