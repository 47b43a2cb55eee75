"""The model: the bundle, how it is built, and which one is in production."""
