"""Run other programs."""

import os
import subprocess
from pathlib import Path

from .errors import ProjectError


def call(*command: str | Path, failure: str = "", folder: Path = Path(), **environment: str) -> str:
    """What a command said.

    Raises:
        ProjectError: it is not there or failed: `failure` (or its name), and what it said.
    """
    env = os.environ | environment
    try:
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ProjectError(f"{command[0]} is not on PATH") from None
    if done.returncode:
        failure = failure or f"{' '.join(map(str, command))[:80]} failed:"
        raise ProjectError(f"{failure}\n{(done.stdout + done.stderr).strip()[-2000:]}".strip())
    return done.stdout.strip()
