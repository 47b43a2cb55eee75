"""Start the server: `python -m <package>.serving`, or `serve` in the image. Options are those of uvicorn.

The port is `SAGEMAKER_BIND_TO_PORT` where SageMaker assigns one, else `PORT`, else 8000.
"""

import os
import signal
import sys

import uvicorn

from ..core.errors import ProjectError, cli

PORT_VARIABLES = ("SAGEMAKER_BIND_TO_PORT", "PORT")
DEFAULT_PORT = "8000"
GRACE_SECONDS = "20"  # for requests in progress; platforms kill the process after 30 s
APP, HTTP = f"{__package__}.app:create_app", f"{__package__}.protocol:BoundedProtocol"


def read_port() -> str:
    """Read the port from the environment; an empty variable counts as unset.

    Returns:
        The first of `PORT_VARIABLES` that is set, else `DEFAULT_PORT`.

    Raises:
        ProjectError: The value is not a port.
    """
    name = next(filter(os.environ.get, PORT_VARIABLES), "")
    port = os.environ[name] if name else DEFAULT_PORT
    if not (port.isascii() and port.isdecimal() and int(port) < 2**16):
        raise ProjectError(f"{name} is {port!r}; expected a port, from 0 to 65535. Correct the variable.")
    return port


def main() -> None:
    """Serve until SIGTERM. Then uvicorn accepts no more requests and finishes those in progress."""
    # uvicorn raises the signal again when it has finished. To stop as asked is success, and the first process
    # of a container would ignore a signal that has no handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    options = ["--port", read_port(), "--no-access-log", "--timeout-graceful-shutdown", GRACE_SECONDS]
    uvicorn.main(["--factory", APP, "--http", HTTP, *options, *sys.argv[1:]], prog_name="serve")


def serve() -> None:
    """Run `main` as a console script."""
    cli(main)


if __name__ == "__main__":
    serve()
