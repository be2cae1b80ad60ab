"""What makes XLA's CPU backend faster. On accelerators nothing here does anything."""

from __future__ import annotations

import functools

import jax

from vtabjax.graph import Graph

_YNNPACK = "xla_cpu_experimental_ynn_fusion_type"  # "": what it would do falls to Eigen and oneDNN
_ATTENTION = frozenset({"scaled_dot_product_attention", "softmax", "matmul", "bmm"})


def compiler_options(graph: Graph) -> dict[str, str]:
    """Options for `jax.jit` of a model.

    XLA multiplies with YNNPACK by default. That is faster for transformers; convolutional networks are 5-15 % faster
    without it (benchmarks/extraction.py).
    """
    if jax.default_backend() != "cpu" or not _is_known(_YNNPACK):
        return {}
    attention = any(node.op.split(".")[1] in _ATTENTION for node in graph.nodes)
    return {} if attention else {_YNNPACK: ""}


@functools.cache
def _is_known(option: str) -> bool:
    """Whether this jaxlib has the option: it is experimental there."""
    try:
        jax.jit(lambda: 0, compiler_options={option: ""}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
