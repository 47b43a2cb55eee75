"""Nothing of a project looks up a host, or calls one, that its owner has not named."""

import re
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import yaml
from helpers import require
from hosts import SUDO
from project import Project

# The pipeline as DVC runs it; each stage in a process that stays; the server, asked once.
WHOLE = """
import runpy, subprocess, sys, time
from http.client import HTTPConnection

package, *stages = sys.argv[1:]
del sys.argv[1:]  # stages have options of their own
subprocess.run(["make", "pipeline"], check=True)
for stage in stages:
    runpy.run_module(f"{package}.{stage}", run_name="__main__", alter_sys=True)
app = f"{package}.serving.app:create_app"
server = subprocess.Popen([sys.executable, "-m", "uvicorn", "--factory", app, "--port", "8000"])
while server.poll() is None:
    try:
        connection = HTTPConnection("127.0.0.1", 8000)
        connection.request("POST", "/predict", open("models/bundle/example.json").read())
        assert connection.getresponse().status == 200
        break
    except ConnectionError:
        time.sleep(0.1)
open("waits", "w").close()
sys.stdin.read()
server.terminate()
"""
# A session of a model, and nothing that forbids it to report.
CONTROL = """
import sys
import onnxruntime

session = onnxruntime.InferenceSession("models/bundle/model.onnx")
sys.stdin.read()
"""
PATIENCE = 600
# Where one of these is set, ONNX Runtime takes the machine for one of CI and reports nothing: no proof.
CI_VARIABLES = (
    *("CI", "TF_BUILD", "GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "TRAVIS", "JENKINS_URL", "BUILDKITE"),
    *("CODEBUILD_BUILD_ID", "TEAMCITY_VERSION", "APPVEYOR", "BITBUCKET_BUILD_NUMBER"),
)
Process = subprocess.Popen[bytes]


@contextmanager
def traced(
    project: Project, log: Path, code: str, *args: str, **variables: str
) -> Generator[subprocess.Popen]:
    """Run a script where there is no network, and write down each call for one, until the block ends."""
    environment = project.environment() | variables
    # The first is the tests' own: a project has its configuration.
    for name in ("DVC_NO_ANALYTICS", *CI_VARIABLES):
        environment.pop(name, None)
    handed = ("env", *(f"{name}={value}" for name, value in environment.items())) if SUDO else ()
    strace = ("strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", str(log))
    alone = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
    process = subprocess.Popen(
        (*SUDO, *handed, *alone, *strace, str(project.python), "-c", code, *args),
        cwd=project.folder,
        env=environment,
        stdin=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.communicate()  # ends its input, and with that the script


def calls(log: Path) -> list[str]:
    """Names looked up, and addresses called elsewhere than on this machine."""
    addresses = re.findall(r".*sa_family=AF_INET.*", log.read_text() if log.exists() else "")
    return [line for line in addresses if "htons(53)" in line or not re.search(r'"(127\.|::1")', line)]


def wait(process: Process, file: Path | None = None, log: Path | None = None) -> None:
    """Wait for a file, or for the first call in a log."""
    end = time.monotonic() + PATIENCE
    while not (file.exists() if file else log and calls(log)):
        assert process.poll() is None, "it ended"
        assert time.monotonic() < end, "it was never seen"
        time.sleep(0.2)


def test_no_stage_and_no_server_calls_home(work: Project, tmp_path: Path) -> None:
    """They run longer than ONNX Runtime's telemetry needs for its first look-up."""
    require("strace", "unshare", "ip")
    document = yaml.safe_load((work.folder / "dvc.yaml").read_text())
    stages = [stage["cmd"].split(f"{work.package}.")[1] for stage in document["stages"].values()]
    log, control = tmp_path / "log", tmp_path / "control"
    with traced(work, log, WHOLE, work.package, *stages, "evaluation.gate") as process:
        wait(process, file=work.folder / "waits")
        with traced(work, control, CONTROL, ORT_DISABLE_TELEMETRY="0") as other:
            wait(other, log=control)
    assert process.returncode == 0
    assert not calls(log)


def test_image_disables_telemetry(project: Project) -> None:
    """It applies to every process in a container."""
    assert re.search(r"\bORT_DISABLE_TELEMETRY=1\b", (project.folder / "Dockerfile").read_text())
