"""Measure the template, and print a Markdown table."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from . import data, drift, monitor, pipeline, render, serving, update, use_cases, way, width
from .demo import StepError
from .lab import Lab
from .table import markdown

BENCHMARKS = {
    "render": render.rows,
    "update": update.rows,
    "way": way.rows,
    "pipeline": pipeline.rows,
    "data": data.rows,
    "width": width.rows,
    "serving": serving.rows,
    "monitor": monitor.rows,
    "drift": drift.rows,
    "use_cases": use_cases.rows,
}


def main() -> None:
    """Run what is asked for; the table goes to standard output, progress to standard error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which: {', '.join(BENCHMARKS)} (default: all)"
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        type=int,
        default=[1_000_000, 10_000_000],
        help="sizes of the data benchmark (default: %(default)s)",
    )
    options = parser.parse_args()
    if unknown := set(options.names) - BENCHMARKS.keys():
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
            lab = Lab(Path(folder), options.rows)
            rows = [row for name in options.names or BENCHMARKS for row in BENCHMARKS[name](lab)]
    except StepError as error:
        sys.exit(f"\n{error}")
    except KeyboardInterrupt:
        sys.exit(130)
    print(markdown(rows))
    print(f"\nPython {platform.python_version()}, Copier {version('copier')}, {os.cpu_count()} cores.")


if __name__ == "__main__":
    main()
