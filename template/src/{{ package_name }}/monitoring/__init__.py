"""Monitoring: what a model is asked and answers in production, against what it was made from."""
