"""How a graph's program is compiled on CPUs."""

from __future__ import annotations

import functools

import jax

from vtabjax.graph import Graph

_BARRIERS = "xla_disable_hlo_passes"  # "cse_barrier_expander" takes barriers away before XLA fuses


_YNNPACK = "xla_cpu_experimental_ynn_fusion_type"  # "": what it would do falls to Eigen and oneDNN


_ATTENTION = frozenset({"scaled_dot_product_attention", "softmax", "matmul", "bmm"})


def compiler_options(graph: Graph) -> dict[str, str]:
    """Options for `jax.jit` of a model.

    XLA multiplies with YNNPACK by default. That is faster for transformers; convolutional networks are 5-15 % faster
    without it (benchmarks/extraction.py). And barriers, see `xla_cpu.materialise`, have to last until operators are
    fused.
    """
    if jax.default_backend() != "cpu":
        return {}
    options = {_BARRIERS: "cse_barrier_expander"}
    if not any(node.op.split(".")[1] in _ATTENTION for node in graph.nodes):
        options[_YNNPACK] = ""
    return {name: value for name, value in options.items() if _is_known(name, value)}


@functools.cache
def _is_known(option: str, value: str) -> bool:
    """Whether this jaxlib has the option: some are experimental there."""
    try:
        jax.jit(lambda: 0, compiler_options={option: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
