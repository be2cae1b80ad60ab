"""What lies below the first trained weight: the same at every step, so that it is computed once for each example."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from vtabjax.graph import Graph, Node, Ref, node_refs
from vtabjax.model import flops
from vtabjax.model.running import run
from vtabjax.protocols.finetune._shapes import BATCH
from vtabjax.protocols.finetune.scopes import SHAPES_ONLY, operator

LEAST_SHARE = 0.1  # of a pass's operations: below, a batch of images is less to read than what would be kept


class Stem(NamedTuple):
    """The part of a graph that no trained weight takes part in.

    Attributes:
      values: names of the nodes whose values the rest of the graph starts from; each has the examples as its first
        axis.
      share: of the operations of a pass that it takes, 0 to 1.
      example_bytes: that these values take for one example.
    """

    values: tuple[str, ...]
    share: float
    example_bytes: int


def find(graph: Graph, trained: Collection[str], dtype: Any) -> Stem | None:
    """What need not be computed anew at every step, or None where that is little or nothing.

    Args:
      graph: what computes the features, batch norm with its running statistics.
      trained: names of its trained weights.
      dtype: that it computes in.
    """
    nodes = [node for node in graph.nodes if node.name in graph.live]
    shapes = _shapes(graph, dtype)
    from_images, above = {"input"}, set[str]()  # `above`: computed at every step
    for node in nodes:
        given = _values(node)
        if not from_images.isdisjoint(given) and operator(node) not in SHAPES_ONLY:
            from_images.add(node.name)
        variables = {ref.name for ref in node_refs(node) if ref.kind == "variable"}
        if not above.isdisjoint(given) or not variables.isdisjoint(trained):
            above.add(node.name)
    values = _border(nodes, above, from_images)
    for node in reversed(nodes):  # values without an axis of examples, such as windows, are not kept
        if node.name in values and not _by_example(shapes.get(node.name)):
            above.add(node.name)
            values = _border(nodes, above, from_images)
    inputs = {node.name: _values(node) & from_images for node in nodes if operator(node) not in flops.COUNTED}
    for name in sorted(values):  # nor are cheap functions of others that are
        between = _between(name, values - {name}, inputs)
        if between is not None:
            above |= between
            values = _border(nodes, above, from_images)
    if not values or "input" in values:
        return None
    ordered = tuple(node.name for node in nodes if node.name in values)
    share = flops.count(_with_outputs(graph, ordered)) / max(flops.count(graph), 1)
    if share < LEAST_SHARE:
        return None
    leaves = jax.tree.leaves([shapes[name] for name in ordered])
    size = sum(math.prod(leaf.shape[1:]) * leaf.dtype.itemsize for leaf in leaves)
    return Stem(ordered, share, size)


def lower(graph: Graph, stem: Stem) -> Graph:
    """The graph with the stem's values as its outputs, under their names."""
    return _with_outputs(graph, stem.values)


def _with_outputs(graph: Graph, values: Iterable[str]) -> Graph:
    return dataclasses.replace(graph, outputs={name: Ref("value", name) for name in values})


def _values(node: Node) -> set[str]:
    return {ref.name for ref in node_refs(node) if ref.kind == "value"}


def _between(name: str, kept: Collection[str], inputs: Mapping[str, set[str]]) -> set[str] | None:
    """The cheap nodes that lead from kept values to one, itself among them, or None where costly ones do, too."""
    found, waiting = set[str](), {name}
    while waiting:
        node = waiting.pop()
        if node not in inputs:
            return None
        found.add(node)
        waiting |= inputs[node] - found - set(kept)
    return found


def _border(nodes: Iterable[Node], above: Collection[str], from_images: Collection[str]) -> set[str]:
    """What is used above and is not computed there."""
    used = {
        ref.name for node in nodes if node.name in above for ref in node_refs(node) if ref.kind == "value"
    }
    return {name for name in used if name in from_images and name not in above}


def _shapes(graph: Graph, dtype: Any) -> dict[str, Any]:
    """Every node's value for `BATCH` images, by shape alone; those that are no arrays are left out."""
    found: dict[str, Any] = {}

    def observe(node: Node, args: tuple, kwargs: Mapping[str, Any], value: Any) -> None:
        leaves = jax.tree.leaves(value)
        if leaves and all(isinstance(leaf, jax.Array) for leaf in leaves):
            found[node.name] = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), value)

    channels, height, width = graph.input_size
    images = jax.ShapeDtypeStruct((BATCH, height, width, channels), np.dtype(dtype))
    variables = {k: _variable(v.shape, v.dtype, dtype) for k, v in graph.variables.items()}
    jax.eval_shape(lambda v, x: run(graph, v, x, observe=observe)[0], variables, images)
    return found


def _variable(shape: tuple[int, ...], own: str, dtype: Any) -> jax.ShapeDtypeStruct:
    floating = jax.numpy.issubdtype(np.dtype(own), jax.numpy.floating)
    return jax.ShapeDtypeStruct(shape, np.dtype(dtype) if floating else jax.dtypes.canonicalize_dtype(own))


def _by_example(shapes: Any) -> bool:
    """Whether the examples are the first axis of a value, and no part of another."""
    leaves = jax.tree.leaves(shapes)
    return bool(leaves) and all(
        leaf.shape[:1] == (BATCH,) and all(n % BATCH for n in leaf.shape[1:]) for leaf in leaves
    )
