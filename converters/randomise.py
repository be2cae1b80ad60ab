"""Random parameters, biases and running statistics, for parity checks.

A fresh initialisation hides mistakes: batch norm with mean 0, variance 1, scale 1 and shift 0 does nothing, and a
branch whose last scale is 0 is never seen.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


@torch.no_grad()
def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Gives every parameter and running statistic a random value, in place; scales stay those of a trained network.

    Matrices and kernels keep their initialisation unless it is constant; scales and variances are drawn from
    [0.5, 1.5], biases and means from a normal distribution of standard deviation 0.1.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(t: torch.Tensor) -> None:
        t.copy_(torch.rand(t.shape, generator=generator, dtype=torch.float64) + 0.5)

    def normal(t: torch.Tensor, std: float) -> None:
        t.copy_(torch.randn(t.shape, generator=generator, dtype=torch.float64) * std)

    for name, p in module.named_parameters():
        if p.ndim >= 2 and p.shape.numel() > max(p.shape):
            if bool((p == p.flatten()[0]).all()):
                normal(p, 0.1)
        elif bool((p == 0).all()) or name.endswith("bias"):
            normal(p, 0.1)
        else:
            uniform(p)
    for name, b in module.named_buffers():
        if name.endswith("running_mean"):
            normal(b, 0.1)
        elif name.endswith("running_var"):
            uniform(b)
    return module


@torch.no_grad()
def fit_statistics(module: nn.Module, images: torch.Tensor, seed: int = 0) -> nn.Module:
    """Gives batch norms running statistics near those of their own inputs, in place, layer after layer.

    Deep networks with random weights may grow a signal from block to block until they amplify rounding a billion
    times. Statistics that fit (a tenth of a standard deviation off the mean, half to one and a half times the variance)
    keep it where training would, and still are neither 0 nor 1.

    Args:
      module: in evaluation mode.
      images: [B, C, H, W], in the module's dtype.
      seed: of the deviations.
    """
    generator = torch.Generator().manual_seed(seed)

    def fit(norm: Any, args: tuple[torch.Tensor, ...]) -> None:
        x = args[0].transpose(0, 1).flatten(1)
        mean, var = x.mean(1), x.var(1, unbiased=False) + 1e-3
        off = torch.randn(mean.shape, generator=generator, dtype=torch.float64).to(x.dtype)
        factor = torch.rand(var.shape, generator=generator, dtype=torch.float64).to(x.dtype) + 0.5
        norm.running_mean.copy_(mean + 0.1 * off * var.sqrt())
        norm.running_var.copy_(var * factor)

    hooks = [
        m.register_forward_pre_hook(fit)
        for m in module.modules()
        if isinstance(getattr(m, "running_var", None), torch.Tensor)
    ]
    try:
        module(images)
    finally:
        for hook in hooks:
            hook.remove()
    return module
