"""Fixtures of every test."""

import pytest
from helpers import Renderer, snapshot

pytest_plugins = ["project", "proof", "releases", "workers"]


@pytest.fixture(scope="session")
def render(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    """Render projects from the working tree as it stands, committed or not."""
    source = snapshot(tmp_path_factory.mktemp("template"))
    return Renderer(source, tmp_path_factory.mktemp("projects"))
