"""Selecting, gathering and scattering. The *_scatter functions are what in-place writes to views become."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

__all__ = [
    "select", "slice", "index", "index_put", "index_select", "gather", "take_along_dim", "take", "embedding",
    "scatter", "scatter_add", "select_scatter", "slice_scatter", "masked_select",
]  # fmt: skip


def select(self, dim, index):
    return lax.index_in_dim(self, index, axis=dim % self.ndim, keepdims=False)


def _slice(self, dim=0, start=None, end=None, step=1):
    """The slice object; bounds clip as Python's do."""
    start, stop, step = _builtin_slice(start, end, step).indices(self.shape[dim])
    return start, max(start, stop), step


_builtin_slice = slice


def slice(self, dim=0, start=None, end=None, step=1):
    start, stop, step = _slice(self, dim, start, end, step)
    return lax.slice_in_dim(self, start, stop, step, axis=dim % self.ndim)


def _at(self, dim, item):
    return self.at[(_builtin_slice(None),) * (dim % self.ndim) + (item,)]


def slice_scatter(self, src, dim=0, start=None, end=None, step=1):
    return _at(self, dim, _builtin_slice(*_slice(self, dim, start, end, step))).set(src)


def select_scatter(self, src, dim, index):
    return _at(self, dim, index).set(src)


def _indices(indices):
    return tuple(_builtin_slice(None) if i is None else i for i in indices)


def index(self, indices):
    return self[_indices(indices)]


def index_put(self, indices, values, accumulate=False):
    place = self.at[_indices(indices)]
    return place.add(values) if accumulate else place.set(values)


def index_select(self, dim, index):
    return jnp.take(self, index, axis=dim)


def take(self, index):
    return jnp.take(self.reshape(-1), index)


def gather(self, dim, index, *, sparse_grad=False):
    # torch lets `index` be smaller than `self` in the other dimensions.
    crop = tuple(
        _builtin_slice(None) if d == dim % self.ndim else _builtin_slice(n) for d, n in enumerate(index.shape)
    )
    return jnp.take_along_axis(self[crop], index, axis=dim)


def take_along_dim(self, indices, dim=None):
    return jnp.take_along_axis(self, indices, axis=dim)


def embedding(weight, indices, padding_idx=-1, scale_grad_by_freq=False, sparse=False):
    return jnp.take(weight, indices, axis=0)


def _places(self, dim, index):
    grid = list(jnp.meshgrid(*(jnp.arange(n) for n in index.shape), indexing="ij"))
    grid[dim % self.ndim] = index
    return self.at[tuple(grid)]


def scatter(self, dim, index, src):
    return _places(self, dim, index).set(src)


def scatter_add(self, dim, index, src):
    return _places(self, dim, index).add(src)


def masked_select(self, mask):
    """Only for masks that are constants: shapes may not depend on values."""
    return self[mask]
