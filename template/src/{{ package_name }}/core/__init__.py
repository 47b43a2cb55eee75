"""Foundations without machine learning: paths, errors, commands, files, git."""
