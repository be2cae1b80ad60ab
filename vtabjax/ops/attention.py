"""Attention."""

from __future__ import annotations

import concurrent.futures
import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from vtabjax.runtime import devices

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
    if attn_mask is None and not is_causal and _has_flash_kernel(query, key, value):
        return _flash(query, key, value, scale)
    return _by_products(query, key, value, scale, attn_mask, is_causal)


def _by_products(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    scale: float,
    attn_mask: jax.Array | None = None,
    is_causal: bool = False,
) -> jax.Array:
    """Attention as two products, with the map in memory between them."""
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _flash(query: jax.Array, key: jax.Array, value: jax.Array, scale: float) -> jax.Array:
    """Attention [B, H, N, D] by cuDNN, which keeps no map in memory.

    Gradients go through the products: cuDNN's take an even number of tokens only, and most ViTs have a class token
    beside a square of them.
    """
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    out = jax.nn.dot_product_attention(query, key, value, scale=scale, implementation="cudnn")
    return jnp.swapaxes(out, 1, 2)


def _flash_forward(query: jax.Array, key: jax.Array, value: jax.Array, scale: float) -> tuple:
    return jax.vjp(lambda q, k, v: _by_products(q, k, v, scale), query, key, value)


_flash.defvjp(_flash_forward, lambda scale, backward, gradient: backward(gradient))


def _has_flash_kernel(query: jax.Array, key: jax.Array, value: jax.Array) -> bool:
    half = query.dtype in (jnp.bfloat16, jnp.float16) and query.dtype == key.dtype == value.dtype
    if not half or query.ndim != 4 or jax.default_backend() == "cpu":
        return False
    return _flash_is_right(query.shape[2:], key.shape[2:], value.shape[2:], str(query.dtype))


@functools.cache
def _flash_is_right(query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], dtype: str) -> bool:
    """Whether cuDNN takes these shapes [N, D] here, and agrees with the products on one example.

    What it takes differs by GPU and version, so it is tried, in the way that `features.Extractor` will use it.
    """

    def attempt() -> bool:
        keys = jax.random.split(jax.random.key(0), 3)
        shapes = (query, key, value)
        inputs = [jax.random.normal(r, (1, 1, *s), dtype) for r, s in zip(keys, shapes, strict=True)]
        scale, whole = 1 / math.sqrt(query[-1]), PartitionSpec()
        mesh = devices.data_mesh(jax.local_devices()[:1])

        def function(*inputs: jax.Array) -> jax.Array:
            return _flash(*inputs, scale)

        sharded = jax.shard_map(function, mesh=mesh, in_specs=whole, out_specs=whole, check_vma=False)
        try:
            found = jax.jit(sharded)(*inputs).astype(jnp.float32)
        except (
            Exception
        ):  # NotImplementedError, RuntimeError, JaxRuntimeError: in each case there is no kernel
            return False
        q, k, v = (x.astype(jnp.float32) for x in inputs)
        wanted = _by_products(q, k, v, scale)
        return bool(jnp.abs(found - wanted).max() <= 0.02 * jnp.abs(wanted).max())

    # In a thread of its own: what is being traced here, with its mesh and precision, does not concern the attempt.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(attempt).result()
