"""Paths of the project's files, relative to its top folder."""

from pathlib import Path

RAW = Path("data/raw")  # a folder: see data/raw.py
CLEAN = Path("data/clean.parquet")
REJECTED = Path("data/rejected.parquet")
TRAIN = Path("data/splits/train.parquet")
TEST = Path("data/splits/test.parquet")

ESTIMATOR = Path("models/estimator.joblib")
BUNDLE = Path("models/bundle")

DATA_REPORT = Path("reports/data")
ESTIMATOR_REPORT = Path("reports/estimator.json")
SPLIT_REPORT = Path("reports/split.json")
TRAINING_REPORT = Path("reports/training.json")
BUNDLE_REPORT = Path("reports/bundle.json")
EVALUATION_REPORT = Path("reports/evaluation.json")
METRICS = Path("reports/metrics.json")
IMPORTANCE_REPORT = Path("reports/importance.json")
GATE_REPORT = Path("reports/gate.json")
MONITORING_REPORT = Path("reports/monitoring.json")
LOCK = Path("dvc.lock")
MODEL_CARD = Path("docs/model-card.md")
DATA_CARD = Path("docs/data-card.md")

STORED = ("data/", "models/")
"""Folders whose content DVC stores."""
RESULTS = (LOCK, GATE_REPORT.parent, MODEL_CARD, DATA_CARD)
"""Results of the pipeline and the gate that git tracks."""

SOURCES = ("dvc.yaml", "params.yaml", "uv.lock", "src")
"""What determines a model, besides its data."""
