"""Products."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

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
    return out if bias is None else out + bias


def matmul(self, other):
    return jnp.matmul(self, other)


mm = matmul
mv = matmul
dot = matmul


def bmm(self, mat2):
    return jnp.matmul(self, mat2)


def addmm(self, mat1, mat2, *, beta=1, alpha=1):
    return beta * self + alpha * jnp.matmul(mat1, mat2)


def baddbmm(self, batch1, batch2, *, beta=1, alpha=1):
    return beta * self + alpha * jnp.matmul(batch1, batch2)


def einsum(equation, tensors, *, path=None):
    return jnp.einsum(equation.replace(" ", ""), *tensors)


def outer(self, vec2):
    return jnp.outer(self, vec2)


def linalg_cross(self, other, *, dim=-1):
    return jnp.cross(self, other, axis=dim)


def cross(self, other, dim=None):
    if dim is None:  # the first one of size 3
        dim = np.broadcast_shapes(self.shape, other.shape).index(3)
    return linalg_cross(self, other, dim=dim)


def cdist(x1, x2, p=2, compute_mode=None):
    difference = jnp.abs(x1[..., :, None, :] - x2[..., None, :, :])
    return linalg_vector_norm(difference, p, [-1])
