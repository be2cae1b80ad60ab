"""Products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from vtabjax.ops import _gradients
from vtabjax.ops.reduce import linalg_vector_norm

__all__ = [
    "linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "dot", "outer", "cross", "linalg_cross", "cdist",
    "mv",
]  # fmt: skip


def linear(input: jax.Array, weight: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """input @ weight' + bias."""
    dtype = jnp.promote_types(input.dtype, weight.dtype)
    out = lax.dot_general(
        input.astype(dtype), weight.astype(dtype), (((input.ndim - 1,), (weight.ndim - 1,)), ((), ()))
    )
    return out if bias is None else _gradients.scale_and_shift(out, None, bias)


def matmul(self: jax.Array, other: ArrayLike) -> jax.Array:
    return jnp.matmul(self, other)


mm = matmul
mv = matmul
dot = matmul


def bmm(self: jax.Array, mat2: jax.Array) -> jax.Array:
    return jnp.matmul(self, mat2)


def addmm(
    self: jax.Array, mat1: jax.Array, mat2: jax.Array, *, beta: float = 1, alpha: float = 1
) -> jax.Array:
    return beta * self + alpha * jnp.matmul(mat1, mat2)


def baddbmm(
    self: jax.Array, batch1: jax.Array, batch2: jax.Array, *, beta: float = 1, alpha: float = 1
) -> jax.Array:
    return beta * self + alpha * jnp.matmul(batch1, batch2)


def einsum(equation: str, tensors: Sequence[jax.Array], *, path: Any = None) -> jax.Array:
    return jnp.einsum(equation.replace(" ", ""), *tensors)


def outer(self: jax.Array, vec2: jax.Array) -> jax.Array:
    return jnp.outer(self, vec2)


def linalg_cross(self: jax.Array, other: jax.Array, *, dim: int = -1) -> jax.Array:
    return jnp.cross(self, other, axis=dim)


def cross(self: jax.Array, other: jax.Array, dim: int | None = None) -> jax.Array:
    if dim is None:  # the first one of size 3
        dim = np.broadcast_shapes(self.shape, other.shape).index(3)
    return linalg_cross(self, other, dim=dim)


def cdist(x1: jax.Array, x2: jax.Array, p: float = 2, compute_mode: int | None = None) -> jax.Array:
    difference = jnp.abs(x1[..., :, None, :] - x2[..., None, :, :])
    return linalg_vector_norm(difference, p, [-1])
