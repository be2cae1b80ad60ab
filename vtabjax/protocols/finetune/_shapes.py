"""Shapes of a graph's values, one node at a time; nothing is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from vtabjax import ops
from vtabjax.graph import DType, Graph, Node, Ref, map_refs

BATCH = 10_007  # a prime that no other size is: shapes only, nothing is computed


def image(graph: Graph) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((BATCH, *graph.input_size), np.float32)


def evaluated(
    node: Node, graph: Graph, shapes: Mapping[str, Any], more: Mapping[str, tuple[int, ...]] | None = None
) -> Any:
    """The shape of a node's value: a jax.ShapeDtypeStruct, a tuple of them or an int."""
    name, _ = ops.split_name(node.op)
    if name in ops.STATEFUL:
        return shapes[node.args[0].name]

    def resolve(item: Ref | DType) -> Any:
        if isinstance(item, DType):
            return jax.dtypes.canonicalize_dtype(item.name)
        if item.kind == "value":
            return shapes[item.name]
        if item.kind == "constant":
            constant = np.asarray(graph.constants[item.name])
            return constant.astype(jax.dtypes.canonicalize_dtype(constant.dtype))
        if more and item.name in more:
            return jax.ShapeDtypeStruct(more[item.name], np.float32)
        variable = graph.variables[item.name]
        return jax.ShapeDtypeStruct(variable.shape, jax.dtypes.canonicalize_dtype(variable.dtype))

    function: Callable = ops.lookup(node.op, node.module)
    args, kwargs = map_refs(node.args, resolve), map_refs(node.kwargs, resolve)
    leaves, tree = jax.tree.flatten((args, kwargs), is_leaf=lambda x: isinstance(x, jax.ShapeDtypeStruct))
    abstract = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.ShapeDtypeStruct)]

    def call(*arrays: jax.Array) -> Any:
        filled = list(leaves)
        for i, array in zip(abstract, arrays, strict=True):
            filled[i] = array
        given, named = jax.tree.unflatten(tree, filled)
        found = function(*given, **named)
        ints.append(found if isinstance(found, int) else None)
        return None if isinstance(found, int) else found

    ints: list[int | None] = []
    found = jax.eval_shape(call, *(leaves[i] for i in abstract))
    return ints[-1] if ints[-1] is not None else found
