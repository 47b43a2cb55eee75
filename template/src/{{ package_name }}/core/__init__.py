"""Foundations without any knowledge of machine learning: paths, errors, commands, files, git."""
