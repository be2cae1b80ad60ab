"""Activation functions."""

from __future__ import annotations

import jax
import jax.numpy as jnp

__all__ = [
    "relu", "relu6", "gelu", "silu", "sigmoid", "tanh", "hardswish", "hardsigmoid", "hardtanh", "leaky_relu", "elu",
    "celu", "selu", "prelu", "softplus", "mish", "softmax", "log_softmax", "_softmax", "_log_softmax", "log_sigmoid",
    "softsign", "glu",
]  # fmt: skip


def relu(self: jax.Array) -> jax.Array:
    return jax.nn.relu(self)


def relu6(self: jax.Array) -> jax.Array:
    return jnp.clip(self, 0, 6)


def gelu(self: jax.Array, *, approximate: str = "none") -> jax.Array:
    return jax.nn.gelu(self, approximate=approximate == "tanh")


def silu(self: jax.Array) -> jax.Array:
    return jax.nn.silu(self)


def sigmoid(self: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(self)


def log_sigmoid(self: jax.Array) -> jax.Array:
    return jax.nn.log_sigmoid(self)


def tanh(self: jax.Array) -> jax.Array:
    return jnp.tanh(self)


def hardsigmoid(self: jax.Array) -> jax.Array:
    return jnp.clip(self + 3, 0, 6) / 6


def hardswish(self: jax.Array) -> jax.Array:
    return self * hardsigmoid(self)


def hardtanh(self: jax.Array, min_val: float = -1, max_val: float = 1) -> jax.Array:
    return jnp.clip(self, min_val, max_val)


def leaky_relu(self: jax.Array, negative_slope: float = 0.01) -> jax.Array:
    return jax.nn.leaky_relu(self, negative_slope)


def elu(self: jax.Array, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> jax.Array:
    # The untaken branch must not overflow: its gradient would be NaN.
    negative = jnp.minimum(self, 0) * input_scale
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


def softsign(self: jax.Array) -> jax.Array:
    return self / (1 + jnp.abs(self))


def glu(self: jax.Array, dim: int = -1) -> jax.Array:
    a, b = jnp.split(self, 2, axis=dim)
    return a * jax.nn.sigmoid(b)


def softmax(self: jax.Array, dim: int, dtype=None) -> jax.Array:
    return jax.nn.softmax(self if dtype is None else self.astype(dtype), axis=dim)


def log_softmax(self: jax.Array, dim: int, dtype=None) -> jax.Array:
    return jax.nn.log_softmax(self if dtype is None else self.astype(dtype), axis=dim)


def _softmax(self: jax.Array, dim: int, half_to_float: bool) -> jax.Array:
    return softmax(self, dim, jnp.float32 if half_to_float else None)


def _log_softmax(self: jax.Array, dim: int, half_to_float: bool) -> jax.Array:
    return log_softmax(self, dim, jnp.float32 if half_to_float else None)
