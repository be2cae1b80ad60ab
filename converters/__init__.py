"""PyTorch checkpoints -> vtabjax artefacts. The only package here that imports torch."""

from __future__ import annotations

from typing import Any

from vtabjax import installation

__all__ = ["ExportError", "ParityError", "convert", "from_torch", "list_models"]

if not installation.absent("convert"):
    from . import _compat  # noqa: F401  (before anything imports torchvision)
    from .convert import convert
    from .export import ExportError, from_torch
    from .sources import list_models
    from .verify import ParityError


def __getattr__(name: str) -> Any:
    if name in __all__:  # without PyTorch the package is there, so that its command can say what is missing
        installation.require("convert", f"converters.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
