"""Fixtures that every test may ask for."""

import pytest
from helpers import Renderer, snapshot

# Modules that share containers stay on one worker; every other module is a group of its own.
CONTAINERS = {"test_workflows", "test_image"}
pytest_plugins = ["project", "serving", "hosts", "images"]


@pytest.fixture(scope="session")
def render(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    """Render projects from the working tree as it stands, committed or not."""
    source = snapshot(tmp_path_factory.mktemp("template"))
    return Renderer(source, tmp_path_factory.mktemp("projects"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group tests by what they share, the longest group first, for `pytest --dist loadgroup`."""
    for item in items:
        module = item.path.stem
        item.add_marker(pytest.mark.xdist_group("containers" if module in CONTAINERS else module))
    items.sort(key=lambda item: item.path.stem not in CONTAINERS)
