"""Evaluation of the bundle: metrics, importance, the gate and its reports."""
