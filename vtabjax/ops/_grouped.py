"""Convolutions in groups of channels, on CPUs.

XLA's CPU backend convolves all groups at once at half the speed, or less, that it has with one of them. So there is a
loop over the groups, too. Which one is faster depends on processor and shapes: see `trials`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from vtabjax.ops import trials
from vtabjax.ops._sizes import LETTERS


def convolve(
    x: jax.Array,
    weight: jax.Array,
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
) -> jax.Array:
    """Convolution of x [B, ..., C] with ATen's weight [O, C / groups, ...] -> [B, ..., O]."""
    known = ways(stride, padding, dilation, groups)
    if groups == 1:
        return known["at_once"](x, weight)
    work = x.size // x.shape[-1] // math.prod(stride) * weight.size
    kernel = "x".join(map(str, weight.shape[2:]))
    kind = f"{trials.rounded(groups)}_groups_of_{trials.rounded(weight.shape[1])}_by_{kernel}"
    return trials.fastest(kind, known, x, weight, work)(x, weight)


def ways(
    stride: Sequence[int], padding: Sequence[tuple[int, int]], dilation: Sequence[int], groups: int
) -> dict[str, trials.Way]:
    """Ways to convolve: `at_once`, by XLA's convolution with groups; `one_by_one`, a loop over them."""

    def convolution(x: jax.Array, kernel: jax.Array, groups: int) -> jax.Array:
        letters = LETTERS[x.ndim - 2]
        numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
        return lax.conv_general_dilated(
            x, kernel, stride, padding, None, dilation, numbers, feature_group_count=groups
        )

    def one_by_one(x: jax.Array, kernels: jax.Array) -> jax.Array:
        inputs, outputs = kernels.shape[-2:]

        def one(group: int | jax.Array) -> jax.Array:
            part = lax.dynamic_slice_in_dim(x, group * inputs, inputs, x.ndim - 1)
            return convolution(part, lax.dynamic_index_in_dim(kernels, group, keepdims=False), 1)

        def with_next(group: jax.Array, out: jax.Array) -> jax.Array:
            return lax.dynamic_update_slice_in_dim(out, one(group), group * outputs, x.ndim - 1)

        shape = jax.eval_shape(one, 0).shape
        return lax.fori_loop(0, groups, with_next, jnp.zeros((*shape[:-1], groups * outputs), x.dtype))

    # XLA would reorder kernels itself, where `hoist` cannot see it.
    def together(weight: jax.Array) -> jax.Array:
        return jnp.moveaxis(weight, (0, 1), (-1, -2))

    def by_group(weight: jax.Array) -> jax.Array:
        return jnp.moveaxis(weight.reshape(groups, -1, *weight.shape[1:]), (1, 2), (-1, -2))

    return {
        "at_once": trials.Way(lambda x, kernel: convolution(x, kernel, groups), together),
        "one_by_one": trials.Way(one_by_one, by_group),
    }
