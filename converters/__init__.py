"""PyTorch checkpoints -> vtabjax artefacts. The only package here that imports torch, and not before it is used."""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import sys
from typing import TYPE_CHECKING, Any

from vtabjax import installation

if TYPE_CHECKING:
    from .conversion import convert
    from .export import ExportError, from_torch
    from .sources import list_models
    from .verify import ParityError

__all__ = ["ExportError", "ParityError", "convert", "from_torch", "list_models"]

_HOMES = {
    "ExportError": "export",
    "ParityError": "verify",
    "convert": "conversion",
    "from_torch": "export",
    "list_models": "sources",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    installation.require("convert", f"converters.{name}")
    found = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    """Finds nothing; whoever imports torchvision from now on gets it mended (`_compat`)."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            # Without torch: whoever asked says what is missing.
            with contextlib.suppress(ModuleNotFoundError):
                importlib.import_module(f"{__name__}._compat")


if "torchvision" not in sys.modules:
    sys.meta_path.insert(0, _BeforeTorchvision())
