"""Recurrent layers."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["lstm"]


def _direction(
    x: jax.Array, h: jax.Array, c: jax.Array, weights: Sequence[jax.Array], reverse: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One layer in one direction; x is [T, B, I]."""
    w_in, w_hidden, *biases = weights
    gates_in = jnp.einsum("tbi,gi->tbg", x, w_in)
    for bias in biases:
        gates_in = gates_in + bias

    def step(
        carry: tuple[jax.Array, jax.Array], gate: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        h, c = carry
        i, f, g, o = jnp.split(gate + h @ w_hidden.T, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    (h, c), out = lax.scan(step, (h, c), gates_in, reverse=reverse)
    return out, h, c


def lstm(
    input: jax.Array,
    hx: Sequence[jax.Array],
    params: Sequence[jax.Array],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """LSTM. `params` holds, by layer and direction, w_ih [4H, I], w_hh [4H, H] and, with biases, b_ih and b_hh [4H]."""
    x = jnp.swapaxes(input, 0, 1) if batch_first else input
    per, directions = (4 if has_biases else 2), (2 if bidirectional else 1)
    h0, c0 = hx
    hs, cs = [], []
    for layer in range(num_layers):
        outs = []
        for direction in range(directions):
            i = layer * directions + direction
            out, h, c = _direction(x, h0[i], c0[i], params[i * per : (i + 1) * per], direction == 1)
            outs.append(out)
            hs.append(h)
            cs.append(c)
        x = jnp.concatenate(outs, axis=-1)
    out = jnp.swapaxes(x, 0, 1) if batch_first else x
    return out, jnp.stack(hs), jnp.stack(cs)


OVERLOADS = {"lstm.input": lstm}
