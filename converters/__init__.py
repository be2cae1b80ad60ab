"""PyTorch checkpoints -> vtabjax artefacts. The only package here that imports torch."""

from __future__ import annotations

from converters import _compat  # noqa: F401  (before anything imports torchvision)
from converters.convert import convert
from converters.export import ExportError, from_torch
from converters.sources import list_models
from converters.verify import ParityError

__all__ = ["ExportError", "ParityError", "convert", "from_torch", "list_models"]
