"""The floor every model should beat: no network, the image itself."""

from __future__ import annotations

import fnmatch
from typing import Any

import torch
from torch import nn

from converters.sources import Source, did_you_mean
from vtabjax.specs import Spec, SpecError

GRID = 16


class Pixels(nn.Module):
    """The image average-pooled to 16x16x3 and flattened in [h, w, c] order: [B, 3, H, W] -> [B, 768]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        if height % GRID == 0 and width % GRID == 0:
            x = nn.functional.avg_pool2d(x, (height // GRID, width // GRID))
        else:
            x = nn.functional.adaptive_avg_pool2d(x, GRID)
        return x.permute(0, 2, 3, 1).flatten(1)


def names(spec: Spec) -> list[str]:
    """All there is, whatever the pattern says about weights."""
    return fnmatch.filter(["pixels"], spec.name)


def check(spec: Spec) -> None:
    """Raises SpecError unless the spec is baseline/pixels."""
    if spec.name != "pixels":
        raise did_you_mean(spec, "model", spec.name, ["pixels"])
    if spec.tag or spec.file or spec.random:
        raise SpecError(f"model {str(spec)!r}: baseline/pixels has no weights; leave the rest out")


def describe(spec: Spec) -> dict[str, Any]:
    """What is known about the baseline."""
    return {
        "architecture": "pixels",
        "family": "pixels",
        "weights": "none: the image average-pooled to 16x16x3",
        "input_size": [3, 224, 224],
        "mean": [0.0, 0.0, 0.0],
        "std": [1.0, 1.0, 1.0],
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "num_classes": None,
        "license": "apache-2.0",
        "method": "none",
        "pretraining_data": None,
    }


def build(spec: Spec, input_size: int | None) -> Source:
    """The baseline, at 224 pixels unless told otherwise."""
    size = input_size or 224
    return Source(Pixels(), {**describe(spec), "input_size": [3, size, size]})


def parameters(spec: Spec) -> int:
    """It has none."""
    return 0
