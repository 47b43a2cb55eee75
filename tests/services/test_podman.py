"""The image, built and run without Docker."""

import subprocess

from images import buildah
from project import Project


def test_podman_builds_the_image(podman: dict[str, str], work: Project) -> None:
    """The same Dockerfile without a daemon: files then have the umask of the builder."""
    work.good("chmod", "--recursive", "go=", "models", "src", "uv.lock")
    buildah(podman, "served", work, umask=0o077)
    say = ("podman", "run", "--rm", "--read-only", "--entrypoint", "python", "served", "-c")
    code = f"import {work.package}.serving.app as app; print(app.create_app().api.version)"
    version = subprocess.run((*say, code), env=podman, capture_output=True, text=True, check=False)
    assert version.stdout.strip() == work.json("models/bundle/metadata.json")["version"], version.stderr
