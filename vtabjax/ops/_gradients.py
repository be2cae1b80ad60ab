"""Gradients that XLA's CPU backend computes slowly when it derives them itself."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from vtabjax.runtime import xla_cpu


def wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def sum_to_channels(x: jax.Array) -> jax.Array:
    """The sum of x [B, ..., C] over all dimensions but the last -> [C].

    In two stages: XLA's CPU backend reduces to a vector number by number, in one thread, and computes anew for each
    what x is made of. Sums of every example are vectorised and shared among threads, five to ten times as fast.
    """
    x = wide(x)
    if x.ndim < 2 or jax.default_backend() != "cpu":
        return x.sum(tuple(range(x.ndim - 1)))
    rows = x.shape[0] if x.ndim > 2 else math.gcd(x.shape[0], 16)
    x = x.reshape(rows, -1, x.shape[-1])
    return xla_cpu.materialise(x.sum(1)).sum(0)


@jax.custom_vjp
def _by_channel(x: jax.Array, scale: jax.Array | None, shift: jax.Array | None) -> jax.Array:
    x = x if scale is None else x * scale
    return x if shift is None else x + shift


def _by_channel_forward(
    x: jax.Array, scale: jax.Array | None, shift: jax.Array | None
) -> tuple[jax.Array, tuple]:
    return _by_channel(x, scale, shift), (None if scale is None else x, scale, shift)


def _by_channel_backward(saved: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
    x, scale, shift = saved
    g = xla_cpu.materialise(g)
    to_scale = None if scale is None else sum_to_channels(g * x).astype(g.dtype)
    to_shift = None if shift is None else sum_to_channels(g).astype(g.dtype)
    return g if scale is None else g * scale, to_scale, to_shift


_by_channel.defvjp(_by_channel_forward, _by_channel_backward)


def scale_and_shift(x: jax.Array, scale: jax.Array | None, shift: jax.Array | None) -> jax.Array:
    """``x * scale + shift`` by channel; x [B, ..., C], the others [C] or None.

    Images [B, H, W, C] on CPUs have the gradient above. Transformers' tokens [B, N, C] are left to XLA: YNNPACK, with
    which they are compiled, sums them as fast.
    """
    vectors = [v for v in (scale, shift) if v is not None]
    if jax.default_backend() != "cpu" or x.ndim != 4 or any(v.shape != x.shape[-1:] for v in vectors):
        x = x if scale is None else x * scale
        return x if shift is None else x + shift
    dtype = jnp.result_type(x, *vectors)
    scale, shift = (None if v is None else v.astype(dtype) for v in (scale, shift))
    return _by_channel(x.astype(dtype), scale, shift)


@jax.custom_vjp
def normalised(
    x: jax.Array, weight: jax.Array, bias: jax.Array, eps: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Batch norm by the batch's own statistics.

    Args:
      x: [B, ..., C]
      weight, bias: [C]
      eps: what is added to the variance.

    Returns:
      (``(x - mean) / sqrt(var + eps) * weight + bias``, mean [C], biased variance [C]).
    """
    x = xla_cpu.materialise(x)
    count = x.size // x.shape[-1]
    mean = sum_to_channels(x) / count
    var = sum_to_channels(jnp.square(x - mean)) / count
    return (x - mean) * (lax.rsqrt(var + eps) * weight) + bias, mean, var


def _normalised_forward(
    x: jax.Array, weight: jax.Array, bias: jax.Array, eps: jax.Array
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple]:
    x = xla_cpu.materialise(x)
    out, mean, var = normalised(x, weight, bias, eps)
    return (out, mean, var), (x, weight, bias, eps, mean, var)


def _normalised_backward(saved: tuple, gradients: tuple[jax.Array, jax.Array, jax.Array]) -> tuple:
    """Ioffe and Szegedy, arXiv 1502.03167, section 3, with what comes from uses of mean and variance."""
    x, weight, bias, eps, mean, var = saved
    g, to_mean, to_var = gradients
    g = xla_cpu.materialise(g)
    count = x.size // x.shape[-1]
    inverse = lax.rsqrt(var + eps)
    to_bias = sum_to_channels(g)
    to_weight = sum_to_channels(g * (x - mean)) * inverse
    scale = inverse * weight
    slope = (2 * to_var - scale * inverse * to_weight) / count
    to_x = g * scale + (x - mean) * slope + (to_mean - scale * to_bias) / count
    to_x = xla_cpu.materialise(
        to_x
    )  # else it is computed once more in another order for a product of matrices
    return to_x, to_weight.astype(weight.dtype), to_bias.astype(bias.dtype), jnp.zeros_like(eps)


normalised.defvjp(_normalised_forward, _normalised_backward)


def windows(x: jax.Array, tap: Sequence[int], stride: Sequence[int], sizes: Sequence[int]) -> jax.Array:
    """Of x [B, ..., C], padded, the pixel at `tap` of every window -> [B, *sizes, C]."""
    limits = [t + s * (n - 1) + 1 for t, s, n in zip(tap, stride, sizes, strict=True)]
    return lax.slice(x, [0, *tap, 0], [x.shape[0], *limits, x.shape[-1]], [1, *stride, 1])


def scattered(
    part: Callable[[tuple[int, ...]], jax.Array],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    sizes: Sequence[int],
) -> jax.Array:
    """The transpose of `windows`: adds ``part(tap)`` [B, outputs..., C] to where each window's pixel came from.

    By the remainders of a pixel's coordinates by the stride: within one of these grids every tap is a shift, and their
    sum one loop. XLA would interleave each part with zeros first.

    Args:
      part: by position within the kernel.
      kernel, stride, dilation: by dimension.
      padding: before the first pixel.
      sizes: of the result's dimensions but the first and the last.
    """
    parts = {tap: part(tap) for tap in itertools.product(*map(range, kernel))}
    batch, *outputs, channels = next(iter(parts.values())).shape
    counts = [-(-n // s) for n, s in zip(sizes, stride, strict=True)]
    grids = []
    for corner in itertools.product(*map(range, stride)):
        total = None
        for tap, value in parts.items():
            dims = zip(corner, padding, tap, dilation, stride, strict=True)
            moves = [divmod(c + p - t * d, s) for c, p, t, d, s in dims]
            if any(remainder for _, remainder in moves):
                continue
            # pixel corner + stride * q takes part[q + move]
            edges = [(-m, m + q - n, 0) for (m, _), q, n in zip(moves, counts, outputs, strict=True)]
            here = lax.pad(value, jnp.zeros((), value.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
            total = here if total is None else total + here
        grids.append(
            jnp.zeros((batch, *counts, channels), next(iter(parts.values())).dtype)
            if total is None
            else total
        )
    if len(grids) == 1:
        return grids[0]
    rank = len(sizes)
    out = jnp.stack(grids).reshape(*stride, batch, *counts, channels)
    order = [rank, *itertools.chain(*((rank + 1 + i, i) for i in range(rank))), 2 * rank + 1]
    out = out.transpose(order).reshape(batch, *(c * s for c, s in zip(counts, stride, strict=True)), channels)
    return out[(slice(None), *(slice(n) for n in sizes))]
