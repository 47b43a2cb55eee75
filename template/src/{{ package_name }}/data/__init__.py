"""Data: ingest, validate, split."""
