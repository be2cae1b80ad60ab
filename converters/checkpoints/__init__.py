"""Checkpoint files: read without running what is in them, searched for an architecture's tensors, fitted."""

from .reading import CheckpointError, read

__all__ = ["CheckpointError", "read"]
