"""Checkpoint files: ``source/architecture@/path/to/file``."""

from __future__ import annotations

import os
from typing import Any

from torch import nn

from vtabjax.specs import Spec, SpecError


def check(spec: Spec) -> None:
    """Raises SpecError unless the spec's file can be read."""
    if not os.path.isfile(spec.file):
        raise SpecError(f"model {str(spec)!r}: there is no weight file {spec.file}")
    if not os.access(spec.file, os.R_OK):
        raise SpecError(f"model {str(spec)!r}: the weight file {spec.file} is not readable")


def load_into(module: nn.Module, spec: Spec) -> dict[str, Any]:
    """Fills the module from the spec's file. Returns what the file says, for the source's info."""
    import torch

    state = torch.load(spec.file, map_location="cpu", weights_only=True)
    module.load_state_dict(state, strict=True)
    return {"weights": os.path.basename(spec.file)}
