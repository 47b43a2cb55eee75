"""The package: one folder an area of the pipeline, `problem.py` for what is yours."""

import os

# ONNX Runtime and Ray report their use to their makers, unless they are told not to before they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
