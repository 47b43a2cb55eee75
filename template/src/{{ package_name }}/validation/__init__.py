"""Validation: evaluate the bundle."""
