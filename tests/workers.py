"""How pytest-xdist's workers share the tests: a module each, and all containers on one worker."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadFileScheduling

# These use the containers of one Docker daemon, and together take longest.
CONTAINERS = {
    "test_former_release",
    "test_image",
    "test_loop",
    "test_operations",
    "test_rollout",
    "test_secrets",
    "test_stack",
    "test_workflows",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> "LoadFileScheduling":
    """Give each module to one worker, and all modules that start containers to the same one."""
    from xdist.scheduler import LoadFileScheduling

    class ByModule(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module = Path(super()._split_scope(nodeid)).stem
            return "containers" if module in CONTAINERS else module

    return ByModule(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with what takes longest, so that no worker waits for another at the end.

    Containers come first, then use cases, then updates, which do not need the project that is set up first.
    """
    ranks = (lambda name: name in CONTAINERS, "test_use_cases".__eq__, lambda name: "update" in name)
    items.sort(key=lambda item: [not rank(item.path.stem) for rank in ranks])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave the processor to the worker that runs the containers."""
    if item.path.stem not in CONTAINERS:
        os.setpriority(os.PRIO_PROCESS, 0, 5)
