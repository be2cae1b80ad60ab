"""Lets torchvision, and so timm, be imported beside a torch it was not compiled for. Import this first.

torchvision from the package index is built for CUDA. Beside a CPU-only torch its compiled operators do not
load, and its import then dies with "operator torchvision::nms does not exist". The converters need none of
those operators: declaring the two schemas that torchvision looks up while importing is enough.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch

_ARGUMENTS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_library = None  # torch drops the declarations together with this object


def _loads_own_operators() -> bool:
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return True  # not installed: nothing to mend
    for path in Path(found.origin).parent.glob("_C*"):
        if path.suffix in (".so", ".pyd", ".dylib"):
            try:
                torch.ops.load_library(str(path))
                return True
            except OSError:
                return False
    return False


if "torchvision" not in sys.modules and not _loads_own_operators():
    # A fragment, and only what is missing: the importing program may have helped itself already.
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            _library.define(name + _ARGUMENTS)
