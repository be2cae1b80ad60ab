"""Checkpoint files: read without running what is in them, searched for an architecture's tensors, fitted."""

from converters.checkpoints.reading import CheckpointError, read

__all__ = ["CheckpointError", "read"]
