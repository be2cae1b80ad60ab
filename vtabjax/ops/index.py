"""Selecting, gathering and scattering. The *_scatter functions are what in-place writes to views become."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

__all__ = [
    "select", "slice", "index", "index_put", "index_select", "gather", "take_along_dim", "take", "embedding",
    "scatter", "scatter_add", "select_scatter", "slice_scatter", "masked_select",
]  # fmt: skip


def select(self: jax.Array, dim: int, index: int) -> jax.Array:
    return lax.index_in_dim(self, index, axis=dim % self.ndim, keepdims=False)


def _slice(
    self: jax.Array, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> tuple[int, int, int]:
    """The slice object; bounds clip as Python's do."""
    start, stop, step = _builtin_slice(start, end, step).indices(self.shape[dim])
    return start, max(start, stop), step


_builtin_slice = slice


def slice(
    self: jax.Array, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> jax.Array:
    start, stop, step = _slice(self, dim, start, end, step)
    return lax.slice_in_dim(self, start, stop, step, axis=dim % self.ndim)


def _at(self: jax.Array, dim: int, item: Any) -> Any:
    return self.at[(_builtin_slice(None),) * (dim % self.ndim) + (item,)]


def slice_scatter(
    self: jax.Array,
    src: jax.Array,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> jax.Array:
    return _at(self, dim, _builtin_slice(*_slice(self, dim, start, end, step))).set(src)


def select_scatter(self: jax.Array, src: jax.Array, dim: int, index: int) -> jax.Array:
    return _at(self, dim, index).set(src)


def _indices(indices: Sequence[jax.Array | None]) -> tuple:
    return tuple(_builtin_slice(None) if i is None else i for i in indices)


def index(self: jax.Array, indices: Sequence[jax.Array | None]) -> jax.Array:
    return self[_indices(indices)]


def index_put(
    self: jax.Array, indices: Sequence[jax.Array | None], values: jax.Array, accumulate: bool = False
) -> jax.Array:
    place = self.at[_indices(indices)]
    return place.add(values) if accumulate else place.set(values)


def index_select(self: jax.Array, dim: int, index: jax.Array) -> jax.Array:
    return jnp.take(self, index, axis=dim)


def take(self: jax.Array, index: jax.Array) -> jax.Array:
    return jnp.take(self.reshape(-1), index)


def gather(self: jax.Array, dim: int, index: jax.Array, *, sparse_grad: bool = False) -> jax.Array:
    # torch lets `index` be smaller than `self` in the other dimensions.
    crop = tuple(
        _builtin_slice(None) if d == dim % self.ndim else _builtin_slice(n) for d, n in enumerate(index.shape)
    )
    return jnp.take_along_axis(self[crop], index, axis=dim)


def take_along_dim(self: jax.Array, indices: jax.Array, dim: int | None = None) -> jax.Array:
    return jnp.take_along_axis(self, indices, axis=dim)


def embedding(
    weight: jax.Array,
    indices: jax.Array,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> jax.Array:
    return jnp.take(weight, indices, axis=0)


def _places(self: jax.Array, dim: int, index: jax.Array) -> Any:
    grid = list(jnp.meshgrid(*(jnp.arange(n) for n in index.shape), indexing="ij"))
    grid[dim % self.ndim] = index
    return self.at[tuple(grid)]


def scatter(self: jax.Array, dim: int, index: jax.Array, src: jax.Array) -> jax.Array:
    return _places(self, dim, index).set(src)


def scatter_add(self: jax.Array, dim: int, index: jax.Array, src: jax.Array) -> jax.Array:
    return _places(self, dim, index).add(src)


def masked_select(self: jax.Array, mask: jax.Array) -> jax.Array:
    """Only for masks that are constants: shapes may not depend on values."""
    return self[mask]
