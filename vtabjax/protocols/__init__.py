"""Protocols: pure functions from arrays (features, labels, images) to scores."""
