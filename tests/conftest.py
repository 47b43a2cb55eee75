"""Fixtures that every test may ask for."""

import os
from pathlib import Path

import pytest
from helpers import Renderer, snapshot
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

CONTAINERS = {
    "test_workflows",
    "test_image",
    "test_loop",
    "test_operations",
    "test_rollout",
    "test_secrets",
    "test_stack",
}
pytest_plugins = ["project", "serving", "hosts", "images", "actions", "proof", "releases"]


@pytest.fixture(scope="session")
def render(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    """Render projects from the working tree as it stands, committed or not."""
    source = snapshot(tmp_path_factory.mktemp("template"))
    return Renderer(source, tmp_path_factory.mktemp("projects"))


class ByModule(LoadFileScheduling):
    """A module is one worker's, and so are all that share containers."""

    def _split_scope(self, nodeid: str) -> str:
        module = Path(super()._split_scope(nodeid)).stem
        return "containers" if module in CONTAINERS else module


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByModule:
    """Give modules to workers."""
    return ByModule(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave the processor to the longest way, which one worker goes alone."""
    if item.path.stem not in CONTAINERS:
        os.setpriority(os.PRIO_PROCESS, 0, 5)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest: a worker that has nothing left waits for the others.

    Updates are next, which can begin while the first worker makes the project that all others copy.
    """
    items.sort(key=lambda item: (item.path.stem not in CONTAINERS, "update" not in item.path.stem))
