"""Run other programs."""

import os
import subprocess
from pathlib import Path

from .errors import ProjectError


def call(*command: str | Path, failure: str = "", folder: Path = Path(), **environment: str) -> str:
    """Run a command to its end.

    Args:
        *command: The program and its arguments.
        failure: Begins the message if the command fails; its name by default.
        folder: Working folder.
        **environment: Variables in addition to those of this process.

    Returns:
        The command's standard output, stripped.

    Raises:
        ProjectError: The program is not installed, or failed; the message contains its output.
    """
    env = os.environ | environment
    try:
        result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ProjectError(f"{command[0]} is not on PATH") from None
    if result.returncode:
        failure = failure or f"{' '.join(map(str, command))[:80]} failed:"
        raise ProjectError(f"{failure}\n{(result.stdout + result.stderr).strip()[-2000:]}".strip())
    return result.stdout.strip()
