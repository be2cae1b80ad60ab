"""Floating-point operations of a model for one image, counted on its graph by shapes alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from vtabjax import ops
from vtabjax.graph import Graph, Node, node_refs
from vtabjax.model.running import run
from vtabjax.ops import attention, channels_last, conv, linear_algebra, recurrent

_CONVOLUTIONS = frozenset(conv.__all__)
_PRODUCTS = frozenset({*linear_algebra.__all__, *attention.__all__, *recurrent.__all__})
COUNTED = _CONVOLUTIONS | _PRODUCTS  # operators whose operations are counted


def count(graph: Graph) -> int:
    """The FLOPs of convolutions and products of matrices for one image; nothing is computed.

    A multiplication and the addition after it are two, as `torch.utils.flop_counter` counts them (papers that say
    "FLOPs" and mean multiply-adds have half of it). Normalisations, activations, pooling and biases are counted neither
    there nor here. All of the graph's outputs are, the classifier among them; what none of them needs is not.

    Raises:
      vtabjax.ops.UnknownOperatorError: the graph has an operator that is not in vtabjax.ops.
    """
    return count_with_shapes(graph)[0]


def count_with_shapes(graph: Graph) -> tuple[int, dict[str, tuple[int, ...]]]:
    """`count`, and the shapes of the outputs for one image, from a single trace."""
    needed = _needed(graph)
    total = 0

    def observe(node: Node, args: tuple, kwargs: Mapping[str, Any], value: Any) -> None:
        nonlocal total
        name, _ = ops.split_name(node.op)
        if node.name not in needed:
            return
        if name in _CONVOLUTIONS:
            total += _of_convolution(name, args, kwargs, value)
        elif name in _PRODUCTS:
            total += _of_products(ops.lookup(node.op), args, kwargs)

    channels, height, width = graph.input_size
    image = jax.ShapeDtypeStruct((1, height, width, channels), np.dtype(graph.dtype))
    variables = {k: jax.ShapeDtypeStruct(v.shape, np.dtype(v.dtype)) for k, v in graph.variables.items()}
    outputs = jax.eval_shape(
        lambda v, x: channels_last.plain(run(graph, v, x, observe=observe)[0]), variables, image
    )
    return total, {name: value.shape for name, value in outputs.items()}


def gflops(graph: Graph) -> float:
    """`count` in thousand millions: what model.json calls "gflops"."""
    return count(graph) / 1e9


def _needed(graph: Graph) -> set[str]:
    """Names of the nodes that the outputs depend on."""
    needed = {ref.name for ref in graph.outputs.values()}
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(ref.name for ref in node_refs(node) if ref.kind == "value")
    return needed


def _of_convolution(name: str, args: tuple, kwargs: Mapping[str, Any], value: Any) -> int:
    """The kernel [out, in / groups, ...] is applied at every place of the output, a transposed one of the input."""
    given = dict(
        zip(("input", "weight", "bias", "stride", "padding", "dilation", "transposed"), args, strict=False)
    )
    given |= kwargs
    transposed = "transpose" in name or (name == "convolution" and given.get("transposed"))
    images, _, *places = (given["input"] if transposed else value).shape  # several images: heads, windows
    return 2 * images * math.prod(places) * math.prod(given["weight"].shape)


def _of_products(function: Callable[..., Any], args: tuple, kwargs: Mapping[str, Any]) -> int:
    """Of the products of matrices that an operator consists of."""
    leaves, structure = jax.tree.flatten((channels_last.plain(args), channels_last.plain(kwargs)))
    places = [i for i, leaf in enumerate(leaves) if hasattr(leaf, "shape")]

    def of_arrays(*arrays: jax.Array) -> Any:
        filled = list(leaves)
        for i, array in zip(places, arrays, strict=True):
            filled[i] = array
        own_args, own_kwargs = jax.tree.unflatten(structure, filled)
        return function(*own_args, **own_kwargs)

    shapes = [jax.ShapeDtypeStruct(leaves[i].shape, leaves[i].dtype) for i in places]
    return sum(_of_equations(jax.make_jaxpr(of_arrays)(*shapes).jaxpr))


def _of_equations(jaxpr: Any, times: int = 1) -> Iterator[int]:
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            left = eqn.invars[0].aval.shape
            yield times * 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
        for inner in jax.tree.leaves(eqn.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")):
            if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                repeated = eqn.params["length"] if eqn.primitive.name == "scan" else 1
                yield from _of_equations(getattr(inner, "jaxpr", inner), times * repeated)
