"""Serving: the bundle behind an API, and over files."""
