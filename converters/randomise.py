"""Random parameters, biases and running statistics, for parity checks.

A fresh initialisation hides mistakes: batch norm with mean 0, variance 1, scale 1 and shift 0 does nothing, and a
branch whose last scale is 0 is never seen.
"""

from __future__ import annotations

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
