"""Stochastic depth as one operator.

timm's DropPath, torchvision's StochasticDepth and the many DropPath of transformers do nothing in evaluation mode, so
a trace would lose them. While `traced` is on they call an operator of their own, which the graph keeps and
`vtabjax.model.apply` can switch on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from timm.layers import DropPath
from torch import nn
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


def _transformers(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    return _stochastic_depth(hidden_states, float(self.drop_prob or 0.0), "row", True)


@contextlib.contextmanager
def traced(module: nn.Module) -> Iterator[None]:
    """While it lasts, stochastic depth in `module` is an operator that shows in a trace."""
    forwards: dict[Any, Any] = {DropPath: _drop_path, StochasticDepth: _torchvision}
    for kind in {type(m) for m in module.modules()}:  # transformers has one for each family, all alike
        if kind.__name__.endswith("DropPath") and kind.__module__.startswith("transformers."):
            forwards[kind] = _transformers
    before: dict[Any, Any] = {layer: layer.__dict__["forward"] for layer in forwards}
    for layer, forward in forwards.items():
        layer.forward = forward
    try:
        yield
    finally:
        for layer, forward in before.items():
            layer.forward = forward
