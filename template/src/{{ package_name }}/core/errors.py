"""The error that a user can fix, and how a command shows it."""

import sys
from collections.abc import Callable
from functools import cache

from .secrets import mask_secrets


class ProjectError(Exception):
    """An error that the user can fix: the message says what is wrong, what was expected and what to do."""


def cli(main: Callable[[], object]) -> None:
    """Run a command: print a `ProjectError`, without secrets, as one line `error: …` and exit with code 1.

    Other exceptions keep their traceback.

    Args:
        main: The command's function.

    Raises:
        SystemExit: `main` raised a `ProjectError`.
    """
    try:
        main()
    except ProjectError as error:
        print(f"\nerror: {mask_secrets(str(error))}\n", file=sys.stderr)
        sys.exit(1)


@cache
def warn_once(message: str) -> None:
    """Print a warning to stderr, once per process.

    Args:
        message: What is outdated or doubtful, and what to do.
    """
    print(f"warning: {message}", file=sys.stderr)
