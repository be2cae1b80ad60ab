"""Products."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

__all__ = [
    "linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "dot", "outer", "cdist", "mv",
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


def cdist(x1, x2, p=2, compute_mode=None):
    difference = jnp.abs(x1[..., :, None, :] - x2[..., None, :, :])
    return jnp.sum(difference**p, -1) ** (1 / p)
