"""Depthwise convolutions as sums over kernel positions of shifted products, and their gradients.

XLA's CPU backend has no fast kernel for them: written this way they are 10-40 times faster, with the same numbers.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp

from vtabjax.ops import _gradients, trials
from vtabjax.runtime import xla_cpu

_Ints = tuple[int, ...]
_Pads = tuple[tuple[int, int], ...]


def convolve(
    x: jax.Array,
    weight: jax.Array,
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> jax.Array:
    """Convolution of x [B, ..., C] with a weight [C * n, 1, ...] -> [B, ..., C * n]."""
    channels = x.shape[-1]
    repeat = weight.shape[0] // channels
    weight = jnp.moveaxis(weight[:, 0], 0, -1)
    stride, padding, dilation = tuple(stride), tuple((a, b) for a, b in padding), tuple(dilation)
    if repeat > 1:
        return _by_pixels(jnp.repeat(x, repeat, axis=-1), weight, stride, padding, dilation)
    if any(s != 1 for s in stride):
        return _by_pixels(x, weight, stride, padding, dilation)
    known = ways(x.shape[-2], padding, dilation)
    kernel = "x".join(map(str, weight.shape[:-1]))
    kind = f"depthwise_{trials.rounded(x.shape[-2])}_pixels_{trials.rounded(channels)}_channels_by_{kernel}"
    return trials.fastest(kind, known, x, weight, x.size * math.prod(weight.shape[:-1]))(x, weight)


def ways(pixels: int, padding: _Pads, dilation: _Ints) -> dict[str, trials.Way]:
    """Ways to convolve without a stride x [B, ..., pixels, C] with a weight [*kernel, C]."""

    def rows(weight: jax.Array) -> jax.Array:
        return _rows(weight, pixels + sum(padding[-1]) - dilation[-1] * (weight.shape[-2] - 1))

    return {
        "by_rows": trials.Way(lambda x, rows: _by_rows(x, rows, padding, dilation), rows),
        "by_pixels": trials.Way(
            lambda x, weight: _by_pixels(x, weight, (1,) * len(padding), padding, dilation)
        ),
    }


def _rows(weight: jax.Array, width: int) -> jax.Array:
    """The weight [..., C] of every tap, repeated for a row of pixels -> [..., width * C]."""
    shape = (*weight.shape[:-1], width, weight.shape[-1])
    return jnp.broadcast_to(weight[..., None, :], shape).reshape(*weight.shape[:-1], -1)


def _framed(x: jax.Array, padding: _Pads) -> jax.Array:
    """Channels-last x, padded with zeros by concatenation.

    XLA computes a padding together with what was before it and the reshape after it, which then costs divisions for
    every number: concatenated, a depthwise convolution of 5 x 5 takes half the time.
    """
    for axis, pads in enumerate(padding, 1):
        low, high = (jnp.zeros((*x.shape[:axis], p, *x.shape[axis + 1 :]), x.dtype) for p in pads)
        x = jnp.concatenate([low, x, high], axis)
    return x


def _outputs(sizes: Sequence[int], kernel: _Ints, stride: _Ints, padding: _Pads, dilation: _Ints) -> _Ints:
    dims = zip(sizes, kernel, stride, padding, dilation, strict=True)
    return tuple((n + sum(p) - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in dims)


def _taps(
    sizes: Sequence[int], kernel: _Ints, padding: _Pads, dilation: _Ints
) -> Iterator[tuple[_Ints, _Ints]]:
    """(position in the kernel, its first pixel in the padded image) of those that see more than padding."""
    for tap in itertools.product(*map(range, kernel)):
        starts = tuple(t * d for t, d in zip(tap, dilation, strict=True))
        dims = zip(starts, sizes, kernel, padding, dilation, strict=True)
        # Stride 1: from its first to its last pixel a tap moves by the number of outputs.
        if all(s < p[0] + n and s + n + sum(p) - d * (k - 1) > p[0] for s, n, k, p, d in dims):
            yield tap, starts


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _by_rows(x: jax.Array, rows: jax.Array, padding: _Pads, dilation: _Ints) -> jax.Array:
    """Without a stride, the last dimension and the channels are one row: long loops, up to twice as fast.

    Args:
      x: [B, ..., W, C]
      rows: [*kernel, outputs along W * C], see `_rows`.
      padding, dilation: by dimension.
    """
    kernel, channels = rows.shape[:-1], x.shape[-1]
    sizes = _outputs(x.shape[1:-1], kernel, (1,) * len(kernel), padding, dilation)
    framed = _framed(x, padding)
    framed = framed.reshape(*framed.shape[:-2], -1)
    out = None
    for tap, starts in _taps(x.shape[1:-1], kernel, padding, dilation):
        term = _row_window(framed, starts, sizes, channels) * rows[tap]
        out = term if out is None else out + term
    if out is None:
        return jnp.zeros((x.shape[0], *sizes, channels), x.dtype)
    return out.reshape(x.shape[0], *sizes, channels)


def _row_window(framed: jax.Array, starts: _Ints, sizes: _Ints, channels: int) -> jax.Array:
    """Of a padded image in rows [B, ..., W * C], the part that starts at a pixel."""
    begin = (*starts[:-1], starts[-1] * channels)
    lengths = (*sizes[:-1], sizes[-1] * channels)
    return framed[(slice(None), *(slice(b, b + n) for b, n in zip(begin, lengths, strict=True)))]


def _by_rows_forward(
    x: jax.Array, rows: jax.Array, padding: _Pads, dilation: _Ints
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    x = xla_cpu.materialise(x)
    return _by_rows(x, rows, padding, dilation), (x, rows)


def _by_rows_backward(
    padding: _Pads, dilation: _Ints, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, rows = saved
    kernel, channels, sizes = rows.shape[:-1], x.shape[-1], g.shape[1:-1]
    g = xla_cpu.materialise(g)
    flipped = jnp.flip(rows[..., :channels], tuple(range(len(kernel))))
    reach = tuple(d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
    pads = tuple((r - low, r - high) for r, (low, high) in zip(reach, padding, strict=True))
    if min(map(min, pads)) < 0:  # padding beyond the kernel's reach: some of the outputs see nothing of x
        g_seen = g[
            (slice(None), *(slice(max(-a, 0), n - max(-b, 0)) for (a, b), n in zip(pads, sizes, strict=True)))
        ]
        pads = tuple((max(a, 0), max(b, 0)) for a, b in pads)
    else:
        g_seen = g
    to_x = _by_rows(g_seen, _rows(flipped, x.shape[-2]), pads, dilation)
    framed = xla_cpu.materialise(_framed(x, padding))
    framed = framed.reshape(*framed.shape[:-2], -1)
    in_rows = g.reshape(*g.shape[:-2], -1)
    found = {
        tap: _sum_of_products(_row_window(framed, starts, sizes, channels), in_rows)
        for tap, starts in _taps(x.shape[1:-1], kernel, padding, dilation)
    }
    nothing = jnp.zeros(rows.shape[-1], rows.dtype)
    stacked = [found.get(tap, nothing) for tap in itertools.product(*map(range, kernel))]
    return to_x, jnp.stack(stacked).reshape(rows.shape).astype(rows.dtype)


def _sum_of_products(x: jax.Array, g: jax.Array) -> jax.Array:
    """Sum of ``x * g`` [B, ..., W] over all dimensions but the last -> [W]."""
    return _gradients.sum_to_channels(x * g)


_by_rows.defvjp(_by_rows_forward, _by_rows_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _by_pixels(x: jax.Array, weight: jax.Array, stride: _Ints, padding: _Pads, dilation: _Ints) -> jax.Array:
    """Any stride; x [B, ..., C], weight [*kernel, C]."""
    kernel = weight.shape[:-1]
    sizes = _outputs(x.shape[1:-1], kernel, stride, padding, dilation)
    padded = jnp.pad(x, [(0, 0), *padding, (0, 0)])
    out = None
    for tap in itertools.product(*map(range, kernel)):
        starts = [t * d for t, d in zip(tap, dilation, strict=True)]
        term = _gradients.windows(padded, starts, stride, sizes) * weight[tap]
        out = term if out is None else out + term
    assert out is not None  # a kernel has a pixel
    return out


def _by_pixels_forward(
    x: jax.Array, weight: jax.Array, stride: _Ints, padding: _Pads, dilation: _Ints
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    x = xla_cpu.materialise(x)
    return _by_pixels(x, weight, stride, padding, dilation), (x, weight)


def _by_pixels_backward(
    stride: _Ints, padding: _Pads, dilation: _Ints, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, weight = saved
    kernel, sizes = weight.shape[:-1], g.shape[1:-1]
    g = xla_cpu.materialise(g)
    low = [p for p, _ in padding]
    to_x = _gradients.scattered(lambda tap: g * weight[tap], kernel, stride, low, dilation, x.shape[1:-1])
    padded = xla_cpu.materialise(jnp.pad(x, [(0, 0), *padding, (0, 0)]))
    found = [
        _gradients.sum_to_channels(
            _gradients.windows(padded, [t * d for t, d in zip(tap, dilation, strict=True)], stride, sizes) * g
        )
        for tap in itertools.product(*map(range, kernel))
    ]
    return to_x, jnp.stack(found).reshape(weight.shape).astype(weight.dtype)


_by_pixels.defvjp(_by_pixels_forward, _by_pixels_backward)
