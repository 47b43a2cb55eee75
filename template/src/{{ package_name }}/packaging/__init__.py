"""Packaging: the bundle, which is what is judged and served."""
