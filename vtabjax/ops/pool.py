"""Pooling. NCHW outside, channels-last inside."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vtabjax.ops import _gradients
from vtabjax.ops._sizes import Size, per_dimension
from vtabjax.runtime import xla_cpu

_Ints = tuple[int, ...]

__all__ = [
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "adaptive_max_pool1d", "adaptive_max_pool2d", "max_pool2d_with_indices",
]  # fmt: skip


def _geometry(
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> list[tuple[int, int]]:
    """Padding (low, high) by dimension; `high` includes what ceil_mode adds."""
    pads = []
    for n, k, s, p, d in zip(sizes, kernel, stride, padding, dilation, strict=True):
        span = n + 2 * p - d * (k - 1) - 1
        out = (math.ceil(span / s) if ceil_mode else span // s) + 1
        if ceil_mode and (out - 1) * s >= n + p:
            out -= 1  # a window must start inside the input or its left padding
        pads.append((p, max(p, (out - 1) * s + d * (k - 1) + 1 - n - p)))
    return pads


def _reduce(
    x: jax.Array,
    initial: np.ndarray,
    function: Callable,
    kernel: Sequence[int],
    stride: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> jax.Array:
    return lax.reduce_window(
        x,
        initial,
        function,
        (1, *kernel, 1),
        (1, *stride, 1),
        [(0, 0), *pads, (0, 0)],
        window_dilation=(1, *dilation, 1),
    )


def _with_batch(function: Callable[..., jax.Array], x: jax.Array, rank: int, *args: Any) -> jax.Array:
    """`function` on channels-last [B, ..., C], also for an input without batch dimension."""
    batched = x.ndim == rank + 2
    x = x if batched else x[None]
    out = jnp.moveaxis(function(jnp.moveaxis(x, 1, -1), *args), -1, 1)
    return out if batched else out[0]


def max_pool_channels_last(
    x: jax.Array,
    kernel_size: Size,
    stride: Size = (),
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> jax.Array:
    """Max pooling of [B, ..., C]."""
    rank = x.ndim - 2
    kernel = per_dimension(kernel_size, rank)
    stride = per_dimension(stride, rank) if stride not in ((), None) else kernel
    padding, dilation = per_dimension(padding, rank), per_dimension(dilation, rank)
    pads = _geometry(x.shape[1:-1], kernel, stride, padding, dilation, ceil_mode)
    taps = math.prod(kernel)
    if jax.default_backend() == "cpu" and jnp.issubdtype(x.dtype, jnp.floating) and taps <= _MAX_TAPS:
        return _max_by_taps(x, tuple(kernel), tuple(stride), tuple(pads), tuple(dilation))
    low = -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    return _reduce(x, np.array(low, x.dtype), lax.max, kernel, stride, pads, dilation)


_MAX_TAPS = 25  # the larger windows of spatial pyramids would be long programs


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _max_by_taps(
    x: jax.Array, kernel: _Ints, stride: _Ints, pads: tuple[tuple[int, int], ...], dilation: _Ints
) -> jax.Array:
    """Max pooling as a maximum of shifted images: XLA's CPU backend reduces windows, and scatters, number by number."""
    return functools.reduce(jnp.maximum, _tap_windows(x, kernel, stride, pads, dilation))


def _tap_windows(
    x: jax.Array, kernel: _Ints, stride: _Ints, pads: Sequence[tuple[int, int]], dilation: _Ints
) -> list[jax.Array]:
    padded = jnp.pad(x, [(0, 0), *pads, (0, 0)], constant_values=-jnp.inf)
    dims = zip(padded.shape[1:-1], kernel, stride, dilation, strict=True)
    sizes = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in dims]
    starts = itertools.product(*(range(0, k * d, d) for k, d in zip(kernel, dilation, strict=True)))
    return [_gradients.windows(padded, start, stride, sizes) for start in starts]


def _max_by_taps_forward(
    x: jax.Array, kernel: _Ints, stride: _Ints, pads: tuple[tuple[int, int], ...], dilation: _Ints
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    out = _max_by_taps(x, kernel, stride, pads, dilation)
    return out, (x, out)


def _max_by_taps_backward(
    kernel: _Ints,
    stride: _Ints,
    pads: tuple[tuple[int, int], ...],
    dilation: _Ints,
    saved: tuple[jax.Array, jax.Array],
    g: jax.Array,
) -> tuple[jax.Array]:
    """All of a window's gradient goes to the first of its largest numbers, as in PyTorch."""
    x, out = saved
    found = _tap_windows(x, kernel, stride, pads, dilation)
    first = jnp.full(out.shape, len(found), jnp.int32)
    for number, window in reversed(list(enumerate(found))):
        first = jnp.where(window == out, number, first)
    first, g = xla_cpu.materialise(first), xla_cpu.materialise(g)
    numbers = dict(zip(itertools.product(*map(range, kernel)), range(len(found)), strict=True))

    def part(tap: _Ints) -> jax.Array:
        return jnp.where(first == numbers[tap], g, 0)

    low = [p for p, _ in pads]
    return (_gradients.scattered(part, kernel, stride, low, dilation, x.shape[1:-1]),)


_max_by_taps.defvjp(_max_by_taps_forward, _max_by_taps_backward)


def _max_pool(rank: int, x: jax.Array, *args: Any) -> jax.Array:
    return _with_batch(max_pool_channels_last, x, rank, *args)


def max_pool1d(
    self: jax.Array,
    kernel_size: Size,
    stride: Size = (),
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> jax.Array:
    return _max_pool(1, self, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool2d(
    self: jax.Array,
    kernel_size: Size,
    stride: Size = (),
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> jax.Array:
    return _max_pool(2, self, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool3d(
    self: jax.Array,
    kernel_size: Size,
    stride: Size = (),
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> jax.Array:
    return _max_pool(3, self, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool2d_with_indices(
    self: jax.Array,
    kernel_size: Size,
    stride: Size = (),
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> tuple[jax.Array, None]:
    """The maxima; the indices are not computed (nothing in an image classifier's features uses them)."""
    return max_pool2d(self, kernel_size, stride, padding, dilation, ceil_mode), None


def avg_pool_channels_last(
    x: jax.Array,
    kernel_size: Size,
    stride: Size = (),
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> jax.Array:
    """Average pooling of [B, ..., C]."""
    rank = x.ndim - 2
    kernel = per_dimension(kernel_size, rank)
    stride = per_dimension(stride, rank) if stride not in ((), None) else kernel
    padding = per_dimension(padding, rank)
    ones = (1,) * rank
    sizes = x.shape[1:-1]
    pads = _geometry(sizes, kernel, stride, padding, ones, ceil_mode)
    total = _reduce(x, np.array(0, x.dtype), lax.add, kernel, stride, pads, ones)
    if divisor_override is not None:
        return total / divisor_override
    # How many pixels each window covers; the strip that ceil_mode adds never counts.
    counts = np.ones((1,))
    for n, k, s, p, (_, high) in zip(sizes, kernel, stride, padding, pads, strict=True):
        out = (n + p + high - k) // s + 1
        start = np.arange(out) * s - p
        if count_include_pad:
            count = np.minimum(start + k, n + p) - start
        else:
            count = np.minimum(start + k, n) - np.maximum(start, 0)
        counts = counts[..., None] * count
    return total / jnp.asarray(counts.reshape(1, *counts.shape[1:], 1), x.dtype)


def _avg_pool(rank: int, x: jax.Array, *args: Any) -> jax.Array:
    return _with_batch(avg_pool_channels_last, x, rank, *args)


def avg_pool1d(
    self: jax.Array,
    kernel_size: Size,
    stride: Size = (),
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> jax.Array:
    return _avg_pool(1, self, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


def avg_pool2d(
    self: jax.Array,
    kernel_size: Size,
    stride: Size = (),
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> jax.Array:
    return _avg_pool(2, self, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def avg_pool3d(
    self: jax.Array,
    kernel_size: Size,
    stride: Size = (),
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> jax.Array:
    return _avg_pool(3, self, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def _windows(size: int, out: int) -> list[tuple[int, int]]:
    """Adaptive pooling's windows [start, end)."""
    return [(i * size // out, -((-(i + 1) * size) // out)) for i in range(out)]


def adaptive_avg_pool_channels_last(x: jax.Array, output_size: int | Sequence[int | None]) -> jax.Array:
    """Adaptive average pooling of [B, ..., C]."""
    return _adaptive(x.ndim - 2, x, output_size, jnp.mean, end=x.ndim - 1)


def _adaptive(
    rank: int,
    x: jax.Array,
    output_size: Any,
    reduce: Callable[..., jax.Array],
    end: int | None = None,
) -> jax.Array:
    end = x.ndim if end is None else end
    axes = range(end - rank, end)
    outs = per_dimension(output_size, rank)
    for axis, out in zip(axes, outs, strict=True):
        size = x.shape[axis]
        if out is None or out == size:
            continue
        if size % out == 0:
            split = x.reshape(*x.shape[:axis], out, size // out, *x.shape[axis + 1 :])
            x = reduce(split, axis=axis + 1)
        else:
            parts = [
                reduce(lax.slice_in_dim(x, a, b, axis=axis), axis=axis, keepdims=True)
                for a, b in _windows(size, out)
            ]
            x = jnp.concatenate(parts, axis=axis)
    return x


def adaptive_avg_pool1d(self: jax.Array, output_size: int | Sequence[int | None]) -> jax.Array:
    return _adaptive(1, self, output_size, jnp.mean)


def adaptive_avg_pool2d(self: jax.Array, output_size: int | Sequence[int | None]) -> jax.Array:
    return _adaptive(2, self, output_size, jnp.mean)


def _adaptive_avg_pool2d(self: jax.Array, output_size: int | Sequence[int | None]) -> jax.Array:
    return _adaptive(2, self, output_size, jnp.mean)


def adaptive_avg_pool3d(self: jax.Array, output_size: int | Sequence[int | None]) -> jax.Array:
    return _adaptive(3, self, output_size, jnp.mean)


def adaptive_max_pool1d(self: jax.Array, output_size: int | Sequence[int | None]) -> tuple[jax.Array, None]:
    return _adaptive(1, self, output_size, jnp.max), None


def adaptive_max_pool2d(self: jax.Array, output_size: int | Sequence[int | None]) -> tuple[jax.Array, None]:
    """The maxima; the indices are not computed."""
    return _adaptive(2, self, output_size, jnp.max), None
