"""Tensors made from shapes and numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp

__all__ = [
    "zeros", "ones", "full", "empty", "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones",
    "new_full", "new_empty", "arange", "linspace", "eye", "scalar_tensor", "one_hot", "meshgrid", "tril", "triu",
]  # fmt: skip


def zeros(size, *, dtype=jnp.float32):
    return jnp.zeros(size, dtype)


empty = zeros


def ones(size, *, dtype=jnp.float32):
    return jnp.ones(size, dtype)


def full(size, fill_value, *, dtype=None):
    return jnp.full(size, fill_value, dtype)


def zeros_like(self, *, dtype=None):
    return jnp.zeros_like(self, dtype)


empty_like = zeros_like


def ones_like(self, *, dtype=None):
    return jnp.ones_like(self, dtype)


def full_like(self, fill_value, *, dtype=None):
    return jnp.full_like(self, fill_value, dtype)


def new_zeros(self, size, *, dtype=None):
    return jnp.zeros(size, dtype or self.dtype)


new_empty = new_zeros


def new_ones(self, size, *, dtype=None):
    return jnp.ones(size, dtype or self.dtype)


def new_full(self, size, fill_value, *, dtype=None):
    return jnp.full(size, fill_value, dtype or self.dtype)


def scalar_tensor(s, *, dtype=jnp.float32):
    return jnp.asarray(s, dtype)


def _arange_end(end, *, dtype=None):
    return jnp.arange(end, dtype=dtype)


def _arange_start(start, end, *, dtype=None):
    return jnp.arange(start, end, dtype=dtype)


def arange(start, end, step=1, *, dtype=None):
    return jnp.arange(start, end, step, dtype=dtype)


OVERLOADS = {"arange.default": _arange_end, "arange.start": _arange_start}


def linspace(start, end, steps, *, dtype=None):
    return jnp.linspace(start, end, steps, dtype=dtype or jnp.float32)


def eye(n, m=None, *, dtype=jnp.float32):
    return jnp.eye(n, m, dtype=dtype)


def one_hot(self, num_classes=-1):
    """`num_classes` must be given: shapes may not depend on values."""
    return jax.nn.one_hot(self, num_classes, dtype=jnp.int32)


def meshgrid(tensors, *, indexing="ij"):
    return tuple(jnp.meshgrid(*tensors, indexing=indexing))


def tril(self, diagonal=0):
    return jnp.tril(self, diagonal)


def triu(self, diagonal=0):
    return jnp.triu(self, diagonal)
