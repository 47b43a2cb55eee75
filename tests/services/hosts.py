"""Two hosts: network namespaces with their own address and name, connected by a virtual cable."""

import os
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import PATIENCE, require, run
from project import Project

# Only root may create network namespaces.
SUDO = () if os.geteuid() == 0 else ("sudo",)


def ip(*words: str) -> str:
    """Run `ip`."""
    return run(*SUDO, "ip", *words, cwd=Path("/"))


@dataclass(frozen=True)
class Host:
    """A host with its own network. Its processes share the disk of this machine."""

    name: str
    address: str
    environment: dict[str, str]
    folder: Path

    def start(self, *command: str | Path) -> "subprocess.Popen[str]":
        """Start a command in this host's network, under its name."""
        # sudo passes no variables on.
        handed = ("env", *(f"{name}={value}" for name, value in self.environment.items())) if SUDO else ()
        inside = (*SUDO, "ip", "netns", "exec", self.name, *handed)
        named = ("unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.name)
        return subprocess.Popen(
            (*inside, *named, *command),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def good(self, *command: str | Path) -> str:
        """Run a command that must succeed and return its output."""
        with self.start(*command) as process:
            output = process.communicate(timeout=PATIENCE)[0]
        assert process.returncode == 0, output
        return output

    def die(self) -> None:
        """Kill every process on this host."""
        for pid in ip("netns", "pids", self.name).split():
            run(*SUDO, "sh", "-c", 'kill -KILL "$0" || true', pid, cwd=self.folder)


@contextmanager
def two_hosts(work: Project, libraries: Path) -> Generator[tuple[Host, Host]]:
    """Set up two hosts with the project and further libraries, and remove them with the block."""
    require("ip", "unshare")
    path = os.pathsep.join([str(work.folder / "src"), str(libraries)])
    environment = work.environment() | {
        "PYTHONPATH": path,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "a-token-that-only-these-two-know-" + "0" * 16,
        "RAY_USAGE_STATS_ENABLED": "0",
        # A lost host is detected within seconds; a busy one is not taken for lost.
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "10",
    }
    first, second = (
        Host(f"t{os.getpid()}{letter}", f"10.77.0.{number}", environment, work.folder)
        for number, letter in enumerate("ab", start=1)
    )
    try:
        for host in (first, second):
            ip("netns", "add", host.name)
        cable = ("type", "veth", "peer", "name", "cable", "netns", second.name)
        ip("-n", first.name, "link", "add", "cable", *cable)
        for host in (first, second):
            ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "cable")
            for link in ("lo", "cable"):
                ip("-n", host.name, "link", "set", link, "up")
        yield first, second
    finally:
        for host in (first, second):
            host.die()
            ip("netns", "delete", host.name)


@contextmanager
def dask(work: Project, libraries: Path) -> Generator[tuple[Host, Host, str]]:
    """Run a Dask cluster with one core on each of two hosts; yield its address."""
    with two_hosts(work, libraries) as (first, second):
        address = f"tcp://{first.address}:8786"
        module = (work.python, "-m", "distributed.cli.dask_scheduler")
        first.start(*module, "--host", first.address, "--port", "8786", "--no-dashboard")
        for host in (first, second):
            worker = (work.python, "-m", "distributed.cli.dask_worker", address)
            host.start(*worker, "--nthreads", "1", "--no-dashboard")
        wait = f"from distributed import Client; Client({address!r}).wait_for_workers(2, timeout={PATIENCE})"
        first.good(work.python, "-c", wait)
        yield first, second, address


@contextmanager
def ray(work: Project, libraries: Path) -> Generator[tuple[Host, Host, str]]:
    """Run a Ray cluster with one core on each of two hosts; yield its address."""
    # The folder contains sockets, whose paths must be short.
    with (
        tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder,
        two_hosts(work, libraries) as (first, second),
    ):
        address = f"{first.address}:6379"
        start = (work.python, "-m", "ray.scripts.scripts", "start", "--num-cpus=1")
        start = (*start, "--disable-usage-stats", "--object-store-memory=100000000")
        head = ("--head", "--port=6379", "--include-dashboard=false", f"--temp-dir={folder}")
        first.good(*start, *head, f"--node-ip-address={first.address}")
        second.good(*start, f"--address={address}", f"--node-ip-address={second.address}")
        yield first, second, address


@pytest.fixture(scope="session")
def libraries(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the dependency groups `ray` and `dask` into a separate folder."""
    folder = tmp_path_factory.mktemp("libraries")
    groups = ("--group", "ray", "--group", "dask")
    project.good("uv", "pip", "install", "--quiet", "--python", project.python, "--target", folder, *groups)
    return folder
