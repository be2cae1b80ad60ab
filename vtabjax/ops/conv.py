"""Convolutions. PyTorch's NCHW/OIHW outside, channels-last inside."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from vtabjax.ops import _depthwise, _gradients, _grouped
from vtabjax.ops._sizes import LETTERS, Size, per_dimension

__all__ = [
    "conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
]  # fmt: skip

_Padding = Size | Literal["same", "valid"]


def _padding(
    padding: _Padding, kernel: Sequence[int], dilation: Sequence[int], rank: int
) -> list[tuple[int, int]]:
    if padding == "valid":
        return [(0, 0)] * rank
    if padding == "same":
        # Stride 1 only; the extra pixel of an even kernel goes to the end.
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return [(t // 2, t - t // 2) for t in totals]
    return [(p, p) for p in per_dimension(padding, rank)]


def _channels_last(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x, 1, -1)


def _channels_first(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x, -1, 1)


def _by_dot(x: jax.Array, weight: jax.Array, stride: Sequence[int]) -> jax.Array:
    """Convolution with a kernel of one pixel and no padding: a product of matrices; x is channels-last.

    XLA's CPU backend multiplies matrices twice as fast as it convolves.
    """
    x = lax.slice(x, [0] * x.ndim, x.shape, [1, *stride, 1])
    return x @ weight.reshape(weight.shape[:2]).T


def _by_product(
    x: jax.Array,
    weight: jax.Array,
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
) -> jax.Array:
    """Convolution as one product of the stacked windows with the kernel; x is channels-last.

    XLA's CPU backend convolves with a plain loop in float64, and in float32 where the kernel is not smaller than the
    image: this is up to a hundred times faster, for the memory of the windows.
    """
    rank, kernel = x.ndim - 2, weight.shape[2:]
    x = jnp.pad(x, [(0, 0), *padding, (0, 0)])
    for axis, (k, s, d) in enumerate(zip(kernel, stride, dilation, strict=True)):
        dim = 1 + 2 * axis
        count = (x.shape[dim] - d * (k - 1) - 1) // s + 1
        # [..., n, ...] -> [..., windows, k, ...]; slices, because the gradient of a gather is a slow scatter.
        taps = [lax.slice_in_dim(x, t * d, t * d + s * (count - 1) + 1, s, axis=dim) for t in range(k)]
        x = jnp.stack(taps, axis=dim + 1)
    # [B, windows..., C, kernel...]
    x = jnp.transpose(x, (0, *range(1, 2 * rank, 2), x.ndim - 1, *range(2, 2 * rank + 1, 2)))
    x = x.reshape(*x.shape[: rank + 1], groups, -1)
    weight = weight.reshape(groups, weight.shape[0] // groups, -1)
    if groups == 1:
        return lax.dot_general(x[..., 0, :], weight[0], (((rank + 1,), (1,)), ((), ())))
    return jnp.einsum("...gi,goi->...go", x, weight).reshape(*x.shape[:-2], -1)


def _by_patches(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Convolution with windows that touch and do not overlap, as one product; x is channels-last.

    cuDNN pads the three channels of an image and then has no fast kernel: for a ViT's patches this takes a quarter of
    its time.
    """
    rank, kernel = x.ndim - 2, weight.shape[2:]
    counts = [n // k for n, k in zip(x.shape[1:-1], kernel, strict=True)]
    x = x[(slice(None), *(slice(n * k) for n, k in zip(counts, kernel, strict=True)))]
    x = x.reshape(len(x), *itertools.chain(*zip(counts, kernel, strict=True)), x.shape[-1])
    windows, inside = range(1, 2 * rank, 2), range(2, 2 * rank + 1, 2)
    x = x.transpose(0, *windows, *inside, x.ndim - 1).reshape(len(x), *counts, -1)
    return x @ jnp.moveaxis(weight, (0, 1), (-1, -2)).reshape(-1, len(weight))


def _is_small(
    x: jax.Array,
    weight: jax.Array,
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> bool:
    """Whether the kernel is as large as the image, or as the output, over which the gradient convolves."""
    dims = zip(x.shape[1:-1], weight.shape[2:], stride, padding, dilation, strict=True)
    return any(k >= min(n, (n + sum(p) - d * (k - 1) - 1) // s + 1) for n, k, s, p, d in dims)


def _is_patch_embedding(
    weight: jax.Array,
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
) -> bool:
    """Whether a GPU convolves an image (or what has as few channels) with windows that touch and do not overlap."""
    if jax.default_backend() != "gpu" or groups > 1 or weight.shape[1] > 4 or any(map(any, padding)):
        return False
    return tuple(weight.shape[2:]) == tuple(stride) and set(dilation) == {1} and math.prod(stride) > 1


def conv_channels_last(
    x: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    stride: Size = 1,
    padding: _Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> jax.Array:
    """Convolution of x [B, ..., C] with ATen's weight [O, C / groups, ...] -> [B, ..., O]."""
    rank = weight.ndim - 2
    stride, dilation = per_dimension(stride, rank), per_dimension(dilation, rank)
    pads = _padding(padding, weight.shape[2:], dilation, rank)
    dtype = jnp.promote_types(x.dtype, weight.dtype)
    x, weight = x.astype(dtype), weight.astype(dtype)
    depthwise = groups > 1 and weight.shape[1] == 1
    on_cpu = jax.default_backend() == "cpu"
    if on_cpu and depthwise:
        out = _depthwise.convolve(x, weight, stride, pads, dilation)
    elif on_cpu and groups == 1 and math.prod(weight.shape[2:]) == 1 and not any(map(any, pads)):
        out = _by_dot(x, weight, stride)
    elif on_cpu and (dtype == jnp.float64 or _is_small(x, weight, stride, pads, dilation)):
        out = _by_product(x, weight, stride, pads, dilation, groups)
    elif on_cpu:
        out = _grouped.convolve(x, weight, stride, pads, dilation, groups)
    elif _is_patch_embedding(weight, stride, pads, dilation, groups):
        out = _by_patches(x, weight)
    else:
        letters = LETTERS[rank]
        out = lax.conv_general_dilated(
            x,
            weight,
            stride,
            pads,
            rhs_dilation=dilation,
            dimension_numbers=(f"N{letters}C", f"OI{letters}", f"N{letters}C"),
            feature_group_count=groups,
        )
    return out if bias is None else _gradients.scale_and_shift(out, None, bias.astype(dtype))


def _conv(
    x: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    stride: Size,
    padding: _Padding,
    dilation: Size,
    groups: int,
) -> jax.Array:
    batched = x.ndim == weight.ndim
    x = _channels_last(x if batched else x[None])
    out = _channels_first(conv_channels_last(x, weight, bias, stride, padding, dilation, groups))
    return out if batched else out[0]


def conv1d(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    stride: Size = 1,
    padding: _Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> jax.Array:
    return _conv(input, weight, bias, stride, padding, dilation, groups)


def conv2d(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    stride: Size = 1,
    padding: _Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> jax.Array:
    return _conv(input, weight, bias, stride, padding, dilation, groups)


def conv3d(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    stride: Size = 1,
    padding: _Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> jax.Array:
    return _conv(input, weight, bias, stride, padding, dilation, groups)


def _conv_transpose(
    x: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    stride: Size,
    padding: Size,
    output_padding: Size,
    groups: int,
    dilation: Size,
) -> jax.Array:
    """The gradient of a convolution: dilate the input by the stride, correlate with the flipped kernel."""
    rank = weight.ndim - 2
    stride, padding = per_dimension(stride, rank), per_dimension(padding, rank)
    output_padding, dilation = per_dimension(output_padding, rank), per_dimension(dilation, rank)
    kernel = weight.shape[2:]
    # [I, O / groups, ...] -> [O, I / groups, ...], flipped in space.
    inputs, outputs = weight.shape[:2]
    w = weight.reshape(groups, inputs // groups, outputs, *kernel)
    w = jnp.swapaxes(w, 1, 2).reshape(groups * outputs, inputs // groups, *kernel)
    w = jnp.flip(w, axis=tuple(range(2, 2 + rank)))
    pads = [
        (d * (k - 1) - p, d * (k - 1) - p + extra)
        for k, d, p, extra in zip(kernel, dilation, padding, output_padding, strict=True)
    ]
    letters = LETTERS[rank]
    dtype = jnp.promote_types(x.dtype, weight.dtype)
    out = lax.conv_general_dilated(
        _channels_last(x.astype(dtype)),
        w.astype(dtype),
        (1,) * rank,
        pads,
        lhs_dilation=stride,
        rhs_dilation=dilation,
        dimension_numbers=(f"N{letters}C", f"OI{letters}", f"N{letters}C"),
        feature_group_count=groups,
    )
    if bias is not None:
        out = out + bias.astype(dtype)
    return _channels_first(out)


def conv_transpose1d(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> jax.Array:
    return _conv_transpose(input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose2d(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> jax.Array:
    return _conv_transpose(input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose3d(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> jax.Array:
    return _conv_transpose(input, weight, bias, stride, padding, output_padding, groups, dilation)


def convolution(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    stride: Size,
    padding: Size,
    dilation: Size,
    transposed: bool,
    output_padding: Size,
    groups: int,
) -> jax.Array:
    if transposed:
        return _conv_transpose(input, weight, bias, stride, padding, output_padding, groups, dilation)
    return _conv(input, weight, bias, stride, padding, dilation, groups)
