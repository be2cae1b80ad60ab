"""Tensors made from shapes and numbers."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

__all__ = [
    "zeros", "ones", "full", "empty", "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones",
    "new_full", "new_empty", "arange", "linspace", "eye", "scalar_tensor", "one_hot", "meshgrid", "tril", "triu",
]  # fmt: skip


def zeros(size: Sequence[int], *, dtype: DTypeLike = jnp.float32) -> jax.Array:
    return jnp.zeros(size, dtype)


empty = zeros


def ones(size: Sequence[int], *, dtype: DTypeLike = jnp.float32) -> jax.Array:
    return jnp.ones(size, dtype)


def full(size: Sequence[int], fill_value: float, *, dtype: DTypeLike | None = None) -> jax.Array:
    return jnp.full(size, fill_value, dtype)


def zeros_like(self: jax.Array, *, dtype: DTypeLike | None = None) -> jax.Array:
    return jnp.zeros_like(self, dtype)


empty_like = zeros_like


def ones_like(self: jax.Array, *, dtype: DTypeLike | None = None) -> jax.Array:
    return jnp.ones_like(self, dtype)


def full_like(self: jax.Array, fill_value: float, *, dtype: DTypeLike | None = None) -> jax.Array:
    return jnp.full_like(self, fill_value, dtype)


def new_zeros(self: jax.Array, size: Sequence[int], *, dtype: DTypeLike | None = None) -> jax.Array:
    return jnp.zeros(size, dtype or self.dtype)


new_empty = new_zeros


def new_ones(self: jax.Array, size: Sequence[int], *, dtype: DTypeLike | None = None) -> jax.Array:
    return jnp.ones(size, dtype or self.dtype)


def new_full(
    self: jax.Array, size: Sequence[int], fill_value: float, *, dtype: DTypeLike | None = None
) -> jax.Array:
    return jnp.full(size, fill_value, dtype or self.dtype)


def scalar_tensor(s: float, *, dtype: DTypeLike = jnp.float32) -> jax.Array:
    return jnp.asarray(s, dtype)


def _arange_end(end: float, *, dtype: DTypeLike | None = None) -> jax.Array:
    return jnp.arange(end, dtype=dtype)


def _arange_start(start: float, end: float, *, dtype: DTypeLike | None = None) -> jax.Array:
    return jnp.arange(start, end, dtype=dtype)


def arange(start: float, end: float, step: float = 1, *, dtype: DTypeLike | None = None) -> jax.Array:
    return jnp.arange(start, end, step, dtype=dtype)


OVERLOADS = {"arange.default": _arange_end, "arange.start": _arange_start}


def linspace(start: float, end: float, steps: int, *, dtype: DTypeLike | None = None) -> jax.Array:
    return jnp.linspace(start, end, steps, dtype=dtype or jnp.float32)


def eye(n: int, m: int | None = None, *, dtype: DTypeLike = jnp.float32) -> jax.Array:
    return jnp.eye(n, m, dtype=dtype)


def one_hot(self: jax.Array, num_classes: int = -1) -> jax.Array:
    """`num_classes` must be given: shapes may not depend on values."""
    return jax.nn.one_hot(self, num_classes, dtype=jnp.int32)


def meshgrid(tensors: Sequence[jax.Array], *, indexing: str = "ij") -> tuple[jax.Array, ...]:
    return tuple(jnp.meshgrid(*tensors, indexing=indexing))


def tril(self: jax.Array, diagonal: int = 0) -> jax.Array:
    return jnp.tril(self, diagonal)


def triu(self: jax.Array, diagonal: int = 0) -> jax.Array:
    return jnp.triu(self, diagonal)
