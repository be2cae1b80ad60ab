"""Attention."""

from __future__ import annotations

import concurrent.futures
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from vtabjax.runtime import devices

__all__ = ["scaled_dot_product_attention"]

_Attention = Callable[[jax.Array, jax.Array, jax.Array, float], jax.Array]


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
    """Attention [B, H, N, D] by cuDNN, which keeps no map in memory."""
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    out = jax.nn.dot_product_attention(query, key, value, scale=scale, implementation="cudnn")
    return jnp.swapaxes(out, 1, 2)


def _flash_even(query: jax.Array, key: jax.Array, value: jax.Array, scale: float) -> jax.Array:
    """`_flash` with a token that does not count where their number is odd.

    cuDNN's gradients take an even number only, and most ViTs have a class token beside a square of them.
    """
    n, m = query.shape[2], key.shape[2]
    counts = [jnp.full(query.shape[0], t, jnp.int32) if n % 2 or m % 2 else None for t in (n, m)]
    query, key, value = (
        jnp.pad(jnp.swapaxes(x, 1, 2), ((0, 0), (0, x.shape[2] % 2), (0, 0), (0, 0)))
        for x in (query, key, value)
    )
    out = jax.nn.dot_product_attention(
        query,
        key,
        value,
        scale=scale,
        query_seq_lengths=counts[0],
        key_value_seq_lengths=counts[1],
        implementation="cudnn",
    )
    return jnp.swapaxes(out[:, :n], 1, 2)


def _flash_forward(query: jax.Array, key: jax.Array, value: jax.Array, scale: float) -> tuple:
    function = _flash_even if _has_kernel(_flash_even, query, key, value) else _by_products
    return jax.vjp(lambda q, k, v: function(q, k, v, scale), query, key, value)


_flash.defvjp(_flash_forward, lambda scale, backward, gradient: backward(gradient))


def _has_flash_kernel(query: jax.Array, key: jax.Array, value: jax.Array) -> bool:
    half = query.dtype in (jnp.bfloat16, jnp.float16) and query.dtype == key.dtype == value.dtype
    if not half or query.ndim != 4 or jax.default_backend() == "cpu":
        return False
    return _has_kernel(_flash, query, key, value)


def _has_kernel(function: _Attention, query: jax.Array, key: jax.Array, value: jax.Array) -> bool:
    return _is_right(function, query.shape[2:], key.shape[2:], value.shape[2:], str(query.dtype))


@functools.cache
def _is_right(
    function: _Attention, query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], dtype: str
) -> bool:
    """Whether cuDNN takes these shapes [N, D] here, and agrees with the products on one example.

    What it takes differs by GPU and version, so it is tried, in the way that `features.Extractor` will use it; of
    `_flash_even` the gradients are.
    """
    scale = 1 / math.sqrt(query[-1])

    def results(attention: _Attention, q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, ...]:
        if function is _flash:
            return (attention(q, k, v, scale),)
        out, backward = jax.vjp(lambda q, k, v: attention(q, k, v, scale), q, k, v)
        return (out, *backward(jnp.cos(jnp.arange(out.size)).reshape(out.shape).astype(out.dtype)))

    def attempt() -> bool:
        keys = jax.random.split(jax.random.key(0), 3)
        shapes = (query, key, value)
        inputs = [jax.random.normal(r, (1, 1, *s), dtype) for r, s in zip(keys, shapes, strict=True)]
        mesh, whole = devices.data_mesh(jax.local_devices()[:1]), PartitionSpec()
        ours = functools.partial(results, function)
        sharded = jax.shard_map(ours, mesh=mesh, in_specs=whole, out_specs=whole, check_vma=False)
        try:
            found = jax.jit(sharded)(*inputs)
        except Exception:
            return (
                False  # NotImplementedError, RuntimeError, JaxRuntimeError: in each case there is no kernel
            )
        q, k, v = (x.astype(jnp.float32) for x in inputs)
        pairs = zip(found, results(_by_products, q, k, v), strict=True)
        return all(
            bool(jnp.abs(f.astype(jnp.float32) - w).max() <= 0.02 * jnp.abs(w).max()) for f, w in pairs
        )

    # In a thread of its own: what is being traced here, with its mesh and precision, does not concern the attempt.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(attempt).result()
