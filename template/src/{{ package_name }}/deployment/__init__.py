"""Progressive rollout: shadow, canary, promotion."""
