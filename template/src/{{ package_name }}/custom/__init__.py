"""Your own modules, such as transformers: `from .custom.features import ...` in `problem.py`.

This folder is yours: updates never change it. `train` and `bundle` rerun when a module here changes.
"""
