"""Whether a module takes images of a given size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from vtabjax.specs import Spec, SpecError


def runs_at(module: nn.Module, size: int) -> bool:
    """Whether one image of size x size pixels passes through, found without computing anything.

    Works on modules on any device: parameters and buffers are replaced by shapes.
    """
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    shapes = {name: torch.empty_like(t, device="meta") for name, t in tensors.items()}
    try:
        with torch.no_grad(), torch.device("meta"):
            out = torch.func.functional_call(module, shapes, (torch.zeros(1, 3, size, size, device="meta"),))
    except (AssertionError, RuntimeError, ValueError, IndexError, ZeroDivisionError):
        return False
    return all(n > 0 for n in out.shape) if isinstance(out, torch.Tensor) else True


def refuse_size(spec: Spec, size: int, own: tuple[int, int], works: Callable[[int], bool]) -> SpecError:
    """The error for a size that a model cannot take, with the nearest ones that it can."""
    # Patches are 14, 16 or 32 pixels wide; 7x7 windows at stride 32 ask for multiples of 224.
    multiples = {k * step for step in (14, 16, 32, 224) for k in (size // step, size // step + 1)}
    near = sorted((s for s in multiples if 0 < s != size and own != (s, s)), key=lambda s: (abs(s - size), s))
    good = sorted([s for s in near[:8] if works(s)][:2])
    shape = f"{own[0]}" if own[0] == own[1] else f"{own[0]}x{own[1]}"
    others = f", and near {size} it takes {' and '.join(map(str, good))}" if good else ""
    return SpecError(
        f"model {str(spec)!r} cannot take images of {size} pixels: its own size is {shape}{others}; "
        "give one of these as the input size"
    )
