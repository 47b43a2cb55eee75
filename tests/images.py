"""Container images without a registry: the tests' own base, and what is built on it."""

import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import require, run
from project import Project
from serving import Server, free_port, started

BASE = "docker.io/library/python:3.11-slim-bookworm"
UV = "ghcr.io/astral-sh/uv:0.8"
# What CPython and its modules link with.
LIBRARIES = (
    "ca-certificates,libbz2-1.0,libffi8,liblzma5,libncursesw6,libreadline8,libsqlite3-0,libssl3,zlib1g"
)
ENGINE = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=32768:32768"]
netns = "host"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
"""
STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{folder}/images"
runroot = "{folder}/containers"
"""


@dataclass(frozen=True)
class Engine:
    """podman and buildah with a store of their own."""

    folder: Path

    def environment(self) -> dict[str, str]:
        """Where they find their settings."""
        own = {"CONTAINERS_CONF": "engine.conf", "CONTAINERS_STORAGE_CONF": "storage.conf"}
        return os.environ | {name: str(self.folder / file) for name, file in own.items()}

    def call(self, *command: str | Path) -> str:
        """Run a command that must succeed."""
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command} said:\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def size(self, image: str) -> int:
        """Bytes of an image."""
        return int(self.call("podman", "image", "inspect", image, "--format", "{{.Size}}"))

    def build(self, project: Path, image: str) -> None:
        """Build a project's Dockerfile as it stands."""
        trusted = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
        volumes = (
            f"{trusted}:/etc/ssl/certs/ca-certificates.crt:ro",
            f"{self.folder / 'uv.toml'}:/etc/uv/uv.toml:ro",
        )
        mounts = (word for volume in volumes for word in ("--volume", volume))
        how = ("--isolation", "chroot", "--network", "host", "--pull=never", "--format", "docker")
        self.call("buildah", "bud", *how, *mounts, "--tag", image, project)

    def serve(self, image: str, *options: str) -> AbstractContextManager[Server]:
        """Start a container as production would: nothing to write to, no rights, little memory."""
        port = free_port()
        limits = ("--read-only", "--cap-drop", "all", "--memory", "300m", *options)
        command = ("podman", "run", "--rm", *limits, image, "--host", "127.0.0.1", "--port", str(port))
        return started([*command], self.folder, self.environment(), port)


def base_system(folder: Path) -> Path:
    """A small Debian with this machine's CPython, as the archive of an image."""
    root, archive = folder / "root", folder / "base.tar"
    sources = next(Path("/etc/apt/sources.list.d").glob("debian.sources"), Path("/etc/apt/sources.list"))
    minimal = ("mmdebstrap", "--quiet", "--variant=minbase", f"--include={LIBRARIES}", "--format=directory")
    run(*minimal, "bookworm", root, sources, cwd=folder)
    skipped = {"site-packages", "test", "__pycache__"}
    with tarfile.open(folder / "python.tar", "w") as packed:
        for part in ("bin/python3", f"bin/python3.{sys.version_info[1]}", "lib", "include"):
            source = Path(sys.base_prefix) / part
            packed.add(source, part, filter=lambda it: None if skipped & {*it.name.split("/")} else it)
    run("tar", "-C", root / "usr/local", "-xf", folder / "python.tar", cwd=folder)
    run("chroot", root, "ldconfig", cwd=folder)
    run("tar", "-C", root, "-cf", archive, ".", cwd=folder)
    run("rm", "-r", root, cwd=folder)
    return archive


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Make a store that holds the images which a Dockerfile starts from."""
    require("buildah", "podman", "runc", "mmdebstrap")
    folder = tmp_path_factory.mktemp("engine")
    (folder / "engine.conf").write_text(ENGINE)
    (folder / "storage.conf").write_text(STORAGE.format(folder=folder))
    (folder / "uv.toml").write_text("system-certs = true\n")
    made = Engine(folder)
    path = "ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    made.call("podman", "import", "--quiet", "--change", path, base_system(folder), BASE)
    uv = Path(
        run("uv", "run", "python", "-c", "import shutil; print(shutil.which('uv'))", cwd=folder).strip()
    )
    run("tar", "-C", uv.parent, "-chf", folder / "uv.tar", "uv", cwd=folder)
    made.call("podman", "import", "--quiet", folder / "uv.tar", UV)
    yield made
    made.call("podman", "system", "reset", "--force")  # the store is mounted while it is used


@pytest.fixture(scope="session")
def image(engine: Engine, project: Project) -> str:
    """Build the default project's image."""
    engine.build(project.folder, "served")
    return "served"
