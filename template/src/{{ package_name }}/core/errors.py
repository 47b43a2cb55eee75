"""The error that a user can fix, and how a command shows it."""

import errno
import sys
from collections.abc import Callable
from functools import cache

from .secrets import mask_secrets

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


class ProjectError(Exception):
    """An error that the user can fix: the message says what is wrong, what was expected and what to do."""


def cli(main: Callable[[], object]) -> None:
    """Run a command: print a `ProjectError`, without secrets, as one line `error: …` and exit with code 1.

    So is a disk that is full or must not be written to. Other exceptions keep their traceback.

    Args:
        main: The command's function.

    Raises:
        SystemExit: `main` raised a `ProjectError`, or the disk is full or read-only.
    """
    try:
        main()
    except ProjectError as error:
        message = str(error)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        message = (
            f"{error.filename or 'the disk'}: {error.strerror}. Free space or allow writing there, then "
            "repeat the command: it continues where it stopped."
        )
    else:
        return
    print(f"\nerror: {mask_secrets(message)}\n", file=sys.stderr)
    sys.exit(1)


@cache
def warn_once(message: str) -> None:
    """Print a warning to stderr, once per process.

    Args:
        message: What is outdated or doubtful, and what to do.
    """
    print(f"warning: {message}", file=sys.stderr)
