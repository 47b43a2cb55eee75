#!/usr/bin/env python3
"""Former name of `deploy/rollout.py`; removed in 0.5. The part about Docker Compose is in `target.py`."""

import runpy
import sys
from pathlib import Path

ROLLOUT = str(Path(__file__).parents[1] / "rollout.py")

print("warning: deploy/compose/deploy.py is now deploy/rollout.py; the old name goes in 0.5", file=sys.stderr)
sys.argv[0] = ROLLOUT
runpy.run_path(ROLLOUT, run_name="__main__")
