"""Your own modules, such as transformers and loaders: `from .custom.features import ...` in `problem.py`.

This folder is yours: the template never changes it. Every stage reruns when something here changes.
"""
