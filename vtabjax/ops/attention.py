"""Attention."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

__all__ = ["scaled_dot_product_attention"]


def scaled_dot_product_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    attn_mask: jax.Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> jax.Array:
    """softmax(Q K' / sqrt(d) + mask) V over the last two dimensions; the softmax is at least float32."""
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = jnp.repeat(key, groups, axis=-3), jnp.repeat(value, groups, axis=-3)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    logits = jnp.einsum("...qd,...kd->...qk", query * scale, key)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if is_causal:
        attn_mask = jnp.tril(jnp.ones(logits.shape[-2:], bool))
    if attn_mask is not None:
        if attn_mask.dtype == bool:
            logits = jnp.where(attn_mask, logits, -jnp.inf)
        else:
            logits = logits + attn_mask
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("...qk,...kd->...qd", weights, value)
