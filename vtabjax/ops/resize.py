"""Interpolation. Linear and cubic kinds are products with one small matrix per dimension, built at trace time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
    "upsample_nearest1d", "upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_linear1d",
    "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
    "grid_sampler", "grid_sampler_2d",
]  # fmt: skip


# Output over input by dimension, None where the sizes decide.
_Factors = Sequence[Any] | None


def _sizes_and_scales(
    x: jax.Array, output_size: Sequence[int] | None, factors: _Factors, rank: int
) -> tuple[tuple[int, ...], list[float]]:
    """Output sizes and input pixels per output pixel; a given factor wins over the ratio of sizes, as in ATen."""
    inputs = x.shape[-rank:]
    if output_size is None:
        output_size = [math.floor(n * f) for n, f in zip(inputs, factors or (), strict=True)]
    scales = []
    for i, (n, out) in enumerate(zip(inputs, output_size, strict=True)):
        factor = factors[i] if factors else None
        scales.append(1 / factor if factor else n / out)
    return tuple(output_size), scales


def _nearest(
    x: jax.Array, output_size: Sequence[int] | None, factors: _Factors, rank: int, offset: float
) -> jax.Array:
    sizes, scales = _sizes_and_scales(x, output_size, factors, rank)
    for axis, out, scale in zip(range(x.ndim - rank, x.ndim), sizes, scales, strict=True):
        # float32, as ATen computes it: the floor must fall on the same side.
        position = np.floor((np.arange(out, dtype=np.float32) + np.float32(offset)) * np.float32(scale))
        x = jnp.take(x, np.minimum(position.astype(np.int32), x.shape[axis] - 1), axis=axis)
    return x


def _factors(scales_h: float | None, scales_w: float | None) -> _Factors:
    return None if scales_h is None and scales_w is None else (scales_h, scales_w)


def _nearest1d_vec(
    input: jax.Array, output_size: Sequence[int] | None, scale_factors: _Factors = None
) -> jax.Array:
    return _nearest(input, output_size, scale_factors, 1, 0)


def upsample_nearest1d(
    self: jax.Array, output_size: Sequence[int] | None, scales: float | None = None
) -> jax.Array:
    return _nearest(self, output_size, None if scales is None else (scales,), 1, 0)


def _nearest2d_vec(
    input: jax.Array, output_size: Sequence[int] | None, scale_factors: _Factors = None
) -> jax.Array:
    return _nearest(input, output_size, scale_factors, 2, 0)


def upsample_nearest2d(
    self: jax.Array,
    output_size: Sequence[int] | None,
    scales_h: float | None = None,
    scales_w: float | None = None,
) -> jax.Array:
    return _nearest(self, output_size, _factors(scales_h, scales_w), 2, 0)


def _nearest_exact2d_vec(
    input: jax.Array, output_size: Sequence[int] | None, scale_factors: _Factors = None
) -> jax.Array:
    return _nearest(input, output_size, scale_factors, 2, 0.5)


def _upsample_nearest_exact2d(
    self: jax.Array,
    output_size: Sequence[int] | None,
    scales_h: float | None = None,
    scales_w: float | None = None,
) -> jax.Array:
    return _nearest(self, output_size, _factors(scales_h, scales_w), 2, 0.5)


def _cubic(t: np.ndarray, a: float) -> np.ndarray:
    """Keys's cubic convolution kernel."""
    t = np.abs(t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((t - 5) * t + 8) * t * a - 4 * a
    return np.where(t < 1, near, np.where(t < 2, far, 0))


def _triangle(t: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(t), 0)


def _matrix(n: int, out: int, scale: float, kind: str, align_corners: bool, antialias: bool) -> np.ndarray:
    """[out, n] interpolation weights in float64."""
    if align_corners:
        scale = (n - 1) / (out - 1) if out > 1 else 0.0
        centre = np.arange(out) * scale
    else:
        centre = (np.arange(out) + 0.5) * scale - 0.5
    matrix = np.zeros((out, n))
    if antialias:
        kernel = _triangle if kind == "linear" else lambda t: _cubic(t, -0.5)
        stretch = max(scale, 1.0)
        support = (1 if kind == "linear" else 2) * stretch
        for i, c in enumerate(centre + 0.5):
            low = max(int(c - support + 0.5), 0)
            high = min(int(c + support + 0.5), n)
            weights = kernel((np.arange(low, high) + 0.5 - c) / stretch)
            matrix[i, low:high] = weights / weights.sum()
        return matrix
    if kind == "linear":
        centre = np.maximum(centre, 0)
        taps, kernel = range(0, 2), _triangle
    else:
        taps, kernel = range(-1, 3), lambda t: _cubic(t, -0.75)
    base = np.floor(centre)
    if kind == "linear":
        base = np.minimum(base, n - 1)
    for tap in taps:
        weights = kernel(base + tap - centre)
        columns = np.clip(base + tap, 0, n - 1).astype(int)
        np.add.at(matrix, (np.arange(out), columns), weights)
    return matrix


def _interpolate(
    x: jax.Array,
    output_size: Sequence[int] | None,
    factors: _Factors,
    kind: str,
    align_corners: bool,
    antialias: bool = False,
    rank: int = 2,
) -> jax.Array:
    sizes, scales = _sizes_and_scales(x, output_size, factors, rank)
    dtype = x.dtype
    x = x.astype(jnp.promote_types(dtype, jnp.float32))
    for axis, out, scale in zip(range(x.ndim - rank, x.ndim), sizes, scales, strict=True):
        if x.shape[axis] == out and (scale == 1 or align_corners):
            continue
        matrix = _matrix(x.shape[axis], out, scale, kind, align_corners, antialias)
        x = jnp.moveaxis(jnp.tensordot(x, jnp.asarray(matrix, x.dtype), ((axis,), (1,))), -1, axis)
    return x.astype(dtype)


def _linear1d_vec(
    input: jax.Array, output_size: Sequence[int] | None, align_corners: bool, scale_factors: _Factors = None
) -> jax.Array:
    return _interpolate(input, output_size, scale_factors, "linear", align_corners, rank=1)


def upsample_linear1d(
    self: jax.Array, output_size: Sequence[int] | None, align_corners: bool, scales: float | None = None
) -> jax.Array:
    return _linear1d_vec(self, output_size, align_corners, None if scales is None else (scales,))


def _bilinear_vec(
    input: jax.Array, output_size: Sequence[int] | None, align_corners: bool, scale_factors: _Factors = None
) -> jax.Array:
    return _interpolate(input, output_size, scale_factors, "linear", align_corners)


def upsample_bilinear2d(
    self: jax.Array,
    output_size: Sequence[int] | None,
    align_corners: bool,
    scales_h: float | None = None,
    scales_w: float | None = None,
) -> jax.Array:
    return _interpolate(self, output_size, _factors(scales_h, scales_w), "linear", align_corners)


def _bicubic_vec(
    input: jax.Array, output_size: Sequence[int] | None, align_corners: bool, scale_factors: _Factors = None
) -> jax.Array:
    return _interpolate(input, output_size, scale_factors, "cubic", align_corners)


def upsample_bicubic2d(
    self: jax.Array,
    output_size: Sequence[int] | None,
    align_corners: bool,
    scales_h: float | None = None,
    scales_w: float | None = None,
) -> jax.Array:
    return _interpolate(self, output_size, _factors(scales_h, scales_w), "cubic", align_corners)


def _bilinear_aa_vec(
    input: jax.Array, output_size: Sequence[int] | None, align_corners: bool, scale_factors: _Factors = None
) -> jax.Array:
    return _interpolate(input, output_size, scale_factors, "linear", align_corners, True)


def _upsample_bilinear2d_aa(
    self: jax.Array,
    output_size: Sequence[int] | None,
    align_corners: bool,
    scales_h: float | None = None,
    scales_w: float | None = None,
) -> jax.Array:
    return _interpolate(self, output_size, _factors(scales_h, scales_w), "linear", align_corners, True)


def _bicubic_aa_vec(
    input: jax.Array, output_size: Sequence[int] | None, align_corners: bool, scale_factors: _Factors = None
) -> jax.Array:
    return _interpolate(input, output_size, scale_factors, "cubic", align_corners, True)


def _upsample_bicubic2d_aa(
    self: jax.Array,
    output_size: Sequence[int] | None,
    align_corners: bool,
    scales_h: float | None = None,
    scales_w: float | None = None,
) -> jax.Array:
    return _interpolate(self, output_size, _factors(scales_h, scales_w), "cubic", align_corners, True)


def grid_sampler(
    input: jax.Array, grid: jax.Array, interpolation_mode: int, padding_mode: int, align_corners: bool
) -> jax.Array:
    """Samples [B, C, H, W] at [B, h, w, (x, y)] in [-1, 1]; bilinear (0) or nearest (1), zero or border padding."""
    if interpolation_mode not in (0, 1) or padding_mode not in (0, 1):
        raise NotImplementedError(
            f"grid_sampler with interpolation_mode {interpolation_mode} and padding_mode {padding_mode}: "
            "vtabjax/ops/resize.py has modes 0 and 1 of each"
        )
    h, w = input.shape[2:]

    def unnormalise(g: jax.Array, n: int) -> jax.Array:
        g = (g + 1) / 2 * (n - 1) if align_corners else ((g + 1) * n - 1) / 2
        return jnp.clip(g, 0, n - 1) if padding_mode == 1 else g

    x, y = unnormalise(grid[..., 0], w), unnormalise(grid[..., 1], h)

    def fetch(row: jax.Array, column: jax.Array) -> jax.Array:
        inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
        row = jnp.clip(row, 0, h - 1).astype(jnp.int32)
        column = jnp.clip(column, 0, w - 1).astype(jnp.int32)
        values = jax.vmap(lambda image, r, c: image[:, r, c])(input, row, column)
        return values * inside[:, None]

    if interpolation_mode == 1:
        return fetch(jnp.round(y), jnp.round(x))
    out: Any = 0
    for row, wy in ((jnp.floor(y), 1), (jnp.floor(y) + 1, 0)):
        for column, wx in ((jnp.floor(x), 1), (jnp.floor(x) + 1, 0)):
            fy = 1 - (y - jnp.floor(y)) if wy else y - jnp.floor(y)
            fx = 1 - (x - jnp.floor(x)) if wx else x - jnp.floor(x)
            out = out + fetch(row, column) * (fy * fx)[:, None]
    return out


grid_sampler_2d = grid_sampler

OVERLOADS = {
    "upsample_nearest1d.vec": _nearest1d_vec,
    "upsample_nearest2d.vec": _nearest2d_vec,
    "_upsample_nearest_exact2d.vec": _nearest_exact2d_vec,
    "upsample_linear1d.vec": _linear1d_vec,
    "upsample_bilinear2d.vec": _bilinear_vec,
    "upsample_bicubic2d.vec": _bicubic_vec,
    "_upsample_bilinear2d_aa.vec": _bilinear_aa_vec,
    "_upsample_bicubic2d_aa.vec": _bicubic_aa_vec,
}
