"""The package: a folder for each area; `problem.py` and `custom/` are yours."""
