"""A project on the Pythons that it may run on, not only on the one that the tests run on."""

import subprocess
from pathlib import Path

import pytest
from helpers import Renderer, choices, questions, skip_or_fail
from project import Project, rendered

OFFERED = choices(questions()["python_min"])
LATER = "3.14"  # not offered as the oldest one, but allowed


def interpreter(version: str) -> Path | None:
    """Path of a Python of this version, from PATH, uv or pyenv; None if there is none."""
    for finder in (("uv", "python", "find", "--no-project"), ("pyenv", "prefix")):
        try:
            result = subprocess.run((*finder, version), capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        path = Path(result.stdout.strip())
        return path / "bin/python" if path.is_dir() else path
    return None


@pytest.mark.parametrize("place", [0, -1], ids=["oldest", "newest"])
def test_fresh_project_passes_its_checks(render: Renderer, tmp_path: Path, place: int) -> None:
    """Its checks, tests and pipeline pass before any change."""
    pythons = [path for version in OFFERED if (path := interpreter(version))]
    if len(pythons) == 1:
        skip_or_fail(
            f"{pythons[0]} is the only one of Python {', '.join(OFFERED)} (uv python install brings more)"
        )
    fresh = rendered(render, tmp_path / "project")
    output = fresh.make("setup", "check", "test", "pipeline", f"UV_PYTHON={pythons[place]}")
    assert "types (ty)" in output
    assert "Failed" not in output


@pytest.mark.parametrize("version", [*OFFERED, LATER])
def test_types_are_clean_with_the_libraries_of_each_python(
    project: Project, tmp_path: Path, version: str
) -> None:
    """The lock holds several versions of numpy, whose stubs differ. Reading them needs no such Python."""
    libraries = tmp_path / f"lib/python{version}/site-packages"
    needed = project.good("uv", "export", "--quiet", "--frozen", "--no-emit-project", "--no-hashes")
    (tmp_path / "needed.txt").write_text(needed)
    install = ("uv", "pip", "install", "--quiet", "--no-deps", "--target", libraries)
    project.good(*install, "--python-version", version, "--requirements", tmp_path / "needed.txt")
    assert list(libraries.glob("numpy-*.dist-info"))
    project.good(".venv/bin/ty", "check", "--python-version", version, "--python", tmp_path)
