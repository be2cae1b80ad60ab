"""Activation functions."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

__all__ = [
    "relu", "relu6", "gelu", "silu", "sigmoid", "tanh", "hardswish", "hardsigmoid", "hardtanh", "leaky_relu", "elu",
    "celu", "selu", "prelu", "softplus", "mish", "softmax", "log_softmax", "_softmax", "_log_softmax", "log_sigmoid",
    "glu",
]  # fmt: skip


def relu(self: jax.Array) -> jax.Array:
    return jax.nn.relu(self)


def relu6(self: jax.Array) -> jax.Array:
    return hardtanh(self, 0, 6)


def gelu(self: jax.Array, *, approximate: str = "none") -> jax.Array:
    if approximate == "none" and jax.default_backend() == "gpu":
        # By erf, as PyTorch has it, for which GPUs have a function; JAX's erfc takes twice PyTorch's time there.
        x = self.astype(jnp.promote_types(self.dtype, jnp.float32))
        return (0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))).astype(self.dtype)
    return jax.nn.gelu(self, approximate=approximate == "tanh")


def silu(self: jax.Array) -> jax.Array:
    return jax.nn.silu(self)


def sigmoid(self: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(self)


def log_sigmoid(self: jax.Array) -> jax.Array:
    return jax.nn.log_sigmoid(self)


def tanh(self: jax.Array) -> jax.Array:
    return jnp.tanh(self)


@jax.custom_jvp
def hardsigmoid(self: jax.Array) -> jax.Array:
    return jnp.clip(self + 3, 0, 6) / 6


@hardsigmoid.defjvp
def _hardsigmoid_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (t,) = primals, tangents
    # ATen's derivative: 1/6 rounded to float32, in float64 too, and none at the kinks.
    slope = jnp.where((x > -3) & (x < 3), np.float32(1 / 6).item(), 0.0).astype(x.dtype)
    return hardsigmoid(x), slope * t


# `where` rather than clip in what follows: at the kinks clip has half a derivative, ATen none or a whole one.


def hardswish(self: jax.Array) -> jax.Array:
    return jnp.where(self <= -3, 0, jnp.where(self < 3, self * (self + 3) / 6, self)).astype(self.dtype)


def hardtanh(self: jax.Array, min_val: float = -1, max_val: float = 1) -> jax.Array:
    return jnp.where(self <= min_val, min_val, jnp.where(self >= max_val, max_val, self)).astype(self.dtype)


def leaky_relu(self: jax.Array, negative_slope: float = 0.01) -> jax.Array:
    return jnp.where(self > 0, self, negative_slope * self)


def elu(self: jax.Array, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> jax.Array:
    # The untaken branch must not overflow: its gradient would be NaN.
    negative = jnp.where(self > 0, 0, self) * input_scale
    return jnp.where(self > 0, self * scale, alpha * scale * jnp.expm1(negative))


def celu(self: jax.Array, alpha: float = 1.0) -> jax.Array:
    return elu(self, alpha, 1, 1 / alpha)


def selu(self: jax.Array) -> jax.Array:
    return jax.nn.selu(self)


def prelu(self: jax.Array, weight: jax.Array) -> jax.Array:
    if weight.ndim == 1 and self.ndim > 1:
        weight = weight.reshape((1, -1) + (1,) * (self.ndim - 2))
    return jnp.where(self > 0, self, weight * self)


def softplus(self: jax.Array, beta: float = 1, threshold: float = 20) -> jax.Array:
    scaled = self * beta
    return jnp.where(scaled > threshold, self, jax.nn.softplus(scaled) / beta)


def mish(self: jax.Array) -> jax.Array:
    return self * jnp.tanh(jax.nn.softplus(self))


def glu(self: jax.Array, dim: int = -1) -> jax.Array:
    a, b = jnp.split(self, 2, axis=dim)
    return a * jax.nn.sigmoid(b)


def softmax(self: jax.Array, dim: int, dtype: DTypeLike | None = None) -> jax.Array:
    return jax.nn.softmax(self if dtype is None else self.astype(dtype), axis=dim)


def log_softmax(self: jax.Array, dim: int, dtype: DTypeLike | None = None) -> jax.Array:
    return jax.nn.log_softmax(self if dtype is None else self.astype(dtype), axis=dim)


def _softmax(self: jax.Array, dim: int, half_to_float: bool) -> jax.Array:
    return softmax(self, dim, jnp.float32 if half_to_float else None)


def _log_softmax(self: jax.Array, dim: int, half_to_float: bool) -> jax.Array:
    return log_softmax(self, dim, jnp.float32 if half_to_float else None)
