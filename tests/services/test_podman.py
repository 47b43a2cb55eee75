"""The image, built and run without Docker."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import require
from images import BASE, SEARCHED
from project import Project

CONFIGURATION = {
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


@pytest.fixture
def podman(base: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Give podman and buildah a store of their own, and the images that a Dockerfile starts from."""
    require("buildah", "podman", "runc")
    for name, text in CONFIGURATION.items():
        (tmp_path / name).write_text(text.format(folder=tmp_path))
    own = {"CONTAINERS_CONF": "engine.conf", "CONTAINERS_STORAGE_CONF": "storage.conf"}
    environment = os.environ | {name: str(tmp_path / file) for name, file in own.items()}
    python, uv = f"docker.io/library/{BASE}", "ghcr.io/astral-sh/uv:0.13"
    for words in (("import", "--quiet", "--change", SEARCHED, base, python), ("tag", python, uv)):
        subprocess.run(("podman", *words), env=environment, check=True, capture_output=True)
    yield environment
    reset = ("podman", "system", "reset", "--force")  # the store is mounted while it is used
    subprocess.run(reset, env=environment, check=True, capture_output=True)


def test_podman_builds_the_image(podman: dict[str, str], work: Project) -> None:
    """The same Dockerfile without a daemon: files then have the umask of the builder."""
    work.good("chmod", "--recursive", "go=", "models", "src", "uv.lock")
    how = ("--isolation", "chroot", "--network", "host", "--pull=never", "--format", "docker")
    build = ("buildah", "bud", *how, "--tag", "served", work.folder)
    built = subprocess.run(build, env=podman, capture_output=True, text=True, check=False, umask=0o077)
    assert built.returncode == 0, built.stderr
    say = ("podman", "run", "--rm", "--read-only", "--entrypoint", "python", "served", "-c")
    code = f"import {work.package}.serving.app as app; print(app.create_app().api.version)"
    version = subprocess.run((*say, code), env=podman, capture_output=True, text=True, check=False)
    assert version.stdout.strip() == work.json("models/bundle/metadata.json")["version"], version.stderr
