"""Floating-point operations of a model that has not been converted, counted by torch on the meta device."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from . import sources
from .outputs import Outputs


def gflops(spec: str, input_size: int | None = None) -> float:
    """What `vtabjax.model.flops` will count on the graph, in thousand millions for one image, without the weights.

    Args:
      spec: a model spec without a pattern.
      input_size: height and width of the images; None for the size the weights were made for.

    Raises:
      vtabjax.specs.SpecError: as `sources.build`.
    """
    size = [3, input_size, input_size] if input_size else sources.describe(spec, listed=True)["input_size"]
    module = sources.skeleton(spec, input_size)
    # Of timm's classifiers features and logits come from two calls of the head, which the graph has once.
    forward = module if hasattr(module, "reset_classifier") else Outputs(module)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), torch.device("meta"):
        forward(torch.zeros(1, *size))
    return counter.get_total_flops() / 1e9
