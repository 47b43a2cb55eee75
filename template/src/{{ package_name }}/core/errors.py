"""The error that people can act on, and how it is shown."""

import sys
from types import TracebackType


class ProjectError(Exception):
    """Something the reader can put right: the message names the thing, the rule and the way out."""


def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say what a `ProjectError` says, instead of a traceback; exit code 1 either way."""
    if not isinstance(error, ProjectError):
        sys.__excepthook__(kind, error, trace)
        return
    print(f"\nerror: {error}\n", file=sys.stderr)


sys.excepthook = report
