"""What makes XLA's CPU backend faster. On accelerators nothing here does anything."""

from __future__ import annotations

import jax


def quick_compilation() -> dict[str, int]:
    """Options for `jax.jit` of what runs once, where compiling is most of its time."""
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}


def materialise(x: jax.Array) -> jax.Array:
    """`x`, computed a single time on CPUs, under `compiler_options`.

    XLA's CPU backend fuses what is cheap by the number into each of its uses. So it computes the input of layer norm
    for the mean, the variance and the result, even where it is a depthwise convolution; and it computes the sum of a
    residual block anew in every later block, from that block's and all earlier ones' convolutions.
    """
    return jax.lax.optimization_barrier(x) if jax.default_backend() == "cpu" else x
