"""The package: one folder an area of the pipeline, `problem.py` for what is yours."""
