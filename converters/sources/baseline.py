"""The floor every model should beat: no network, the image itself."""

from __future__ import annotations

import torch
from torch import nn

from vtabjax.bundled import GRID, check, describe, names  # noqa: F401
from vtabjax.specs import Spec

from . import Source


class Pixels(nn.Module):
    """The image average-pooled to 16x16x3 and flattened in [h, w, c] order: [B, 3, H, W] -> [B, 768]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        if height % GRID == 0 and width % GRID == 0:
            x = nn.functional.avg_pool2d(x, (height // GRID, width // GRID))
        else:
            x = nn.functional.adaptive_avg_pool2d(x, GRID)
        return x.permute(0, 2, 3, 1).flatten(1)


def build(spec: Spec, input_size: int | None) -> Source:
    """The baseline, at 224 pixels unless told otherwise."""
    size = input_size or 224
    return Source(Pixels(), {**describe(spec), "input_size": [3, size, size]})


def parameters(spec: Spec) -> int:
    """It has none."""
    return 0
