"""Stochastic depth as one operator.

timm's DropPath and torchvision's StochasticDepth do nothing in evaluation mode, so a trace would lose them. While
`traced()` is on they call an operator of their own, which the graph keeps and `vtabjax.model.apply` can switch on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from timm.layers import DropPath
from torchvision.ops import StochasticDepth


@torch.library.custom_op("vtabjax::stochastic_depth", mutates_args=())
def _stochastic_depth(x: torch.Tensor, p: float, mode: str, scale: bool) -> torch.Tensor:
    return x.clone()


@_stochastic_depth.register_fake
def _(x: torch.Tensor, p: float, mode: str, scale: bool) -> torch.Tensor:
    return torch.empty_like(x)


def _drop_path(self: Any, x: torch.Tensor) -> torch.Tensor:
    return _stochastic_depth(x, float(self.drop_prob or 0.0), "row", bool(self.scale_by_keep))


def _torchvision(self: Any, x: torch.Tensor) -> torch.Tensor:
    return _stochastic_depth(x, float(self.p), self.mode, True)


@contextlib.contextmanager
def traced() -> Iterator[None]:
    """While it lasts, stochastic depth is an operator that shows in a trace."""
    before = {DropPath: DropPath.forward, StochasticDepth: StochasticDepth.forward}
    DropPath.forward, StochasticDepth.forward = _drop_path, _torchvision  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer, forward in before.items():
            layer.forward = forward
