"""What the benchmarks share: a folder to work in, and one project that was taken the whole way."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from .demo import Journey, StepError, Steps, journey, started

GIB = 1024**3
# ru_maxrss counts kilobytes, on macOS bytes.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class Cost(NamedTuple):
    """What a command took."""

    seconds: float
    peak_gib: float


@dataclass
class Lab:
    """Where benchmarks work."""

    folder: Path
    row_counts: Sequence[int]
    steps: Steps = field(default_factory=lambda: Steps(sys.stderr))

    @cached_property
    def journey(self) -> Journey:
        """A default project that was set up, trained and asked."""
        return journey(self.folder, "churn", self.steps)


def cost(command: Sequence[str | Path], folder: Path) -> Cost:
    """Run a command in a folder to its end; its peak memory is that of its largest process."""
    start = time.perf_counter()
    with started([str(word) for word in command], folder) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise StepError(folder, f"`{' '.join(map(str, command))}` ended with {process.returncode}")
    return Cost(time.perf_counter() - start, usage.ru_maxrss * RSS_UNIT / GIB)


def medians(rounds: int, *actions: Callable[[], float]) -> list[float]:
    """Median of each action over some rounds, in turns: noise then meets all alike."""
    measured = [[action() for action in actions] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*measured, strict=True)]
