#!/usr/bin/env python3
"""Former name of `deploy/rollout.py`; removed in 0.5. The part about Docker Compose is in `target.py`."""

import os
import sys
from pathlib import Path

ROLLOUT = Path(__file__).parents[1] / "rollout.py"

print("warning: deploy/compose/deploy.py is now deploy/rollout.py; the old name goes in 0.5", file=sys.stderr)
os.execv(sys.executable, [sys.executable, str(ROLLOUT), *sys.argv[1:]])
