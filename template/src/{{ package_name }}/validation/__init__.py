"""Validation: evaluate the bundle, judge it, describe it."""
