"""Monitoring: predictions in production, compared with the training data and with ground truth."""
