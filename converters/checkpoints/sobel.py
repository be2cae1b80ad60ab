"""DeepCluster's first layer, which sees the gradients of a grey image."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class SobelConv(nn.Conv2d):
    """DeepCluster's first layer: a convolution on the two Sobel gradients of the grey image.

    Upstream averages the three channels and applies two fixed 3x3 filters before this layer; the released files
    leave them out. Both together are one convolution from 3 to 2 channels.
    """

    sobel: torch.Tensor

    def __init__(self, conv: Any) -> None:
        super().__init__(
            2, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=conv.bias is not None
        )
        horizontal = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
        filters = torch.stack([horizontal, horizontal.T]) / 3
        self.register_buffer("sobel", filters[:, None].repeat(1, 3, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W], normalised, to the layer's output."""
        return super().forward(nn.functional.conv2d(x, self.sobel, padding=1))


def put_sobel_first(module: Any) -> None:
    """Gives a ResNet the two-channel first layer of DeepCluster, under the name it has in the file."""
    module.conv1 = SobelConv(module.conv1)
