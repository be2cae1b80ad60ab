"""Runs a graph: `apply`, a pure function on a flat dict of arrays."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtabjax import ops
from vtabjax.graph import DType, Graph, Node, Ref, map_refs, node_refs
from vtabjax.ops import channels_last
from vtabjax.runtime import xla_cpu

Array = jax.Array | np.ndarray


_KEPT = frozenset({*channels_last.ELEMENTWISE, "batch_norm", "conv2d", "linear", "layer_norm", "group_norm"})


def apply(
    graph: Graph,
    variables: Mapping[str, Array],
    inputs: Array,
    *,
    train: bool = False,
    rng: jax.Array | None = None,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Runs a graph. A pure function: jit it, differentiate it, shard it.

    It computes in the dtype of `inputs`: float64 where jax's x64 mode is on, bfloat16 when the variables are
    bfloat16 too.

    Args:
      graph: the computation.
      variables: {state_dict name: array}.
      inputs: images [B, H, W, C], already normalised.
      train: batch norm normalises with the batch's statistics (under jit with a sharded batch: the global
        batch's), and the new running statistics come back.
      rng: a key that turns dropout and stochastic depth on under `train`; without one they are off.

    Returns:
      (outputs, updates): outputs has "features" [B, D] and, where the source has a classifier, "logits" [B, K];
      updates has the new value of every running statistic under `train`, nothing otherwise.

    Raises:
      ValueError: `inputs` has another size than the graph was made for, or a variable is missing.
      vtabjax.ops.UnknownOperatorError: the graph has an operator that is not in vtabjax.ops.
    """
    outputs, updates = run(graph, variables, inputs, train=train, rng=rng)
    return {name: channels_last.plain(value) for name, value in outputs.items()}, updates


def run(
    graph: Graph,
    variables: Mapping[str, Array],
    inputs: Array,
    *,
    train: bool = False,
    rng: jax.Array | None = None,
    observe: Callable[[Node, tuple, Mapping[str, Any], Any], None] | None = None,
    known: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, jax.Array]]:
    """`apply` with values as the operators left them, channels-last ones among them.

    `observe` is called after each node with the node, its arguments, its keyword arguments and its value. Nodes whose
    values are `known` are not run; what only they need is left to the compiler to drop.
    """
    channels, height, width = graph.input_size
    if inputs.ndim != 4 or inputs.shape[1:] != (height, width, channels):
        raise ValueError(
            f"inputs have shape {tuple(inputs.shape)}; this graph takes [B, {height}, {width}, {channels}] "
            "(for another image size convert the model again with that input_size)"
        )
    dtype = jnp.dtype(inputs.dtype)
    values: dict[str, Any] = {"input": channels_last.ChannelsLast(jnp.asarray(inputs))}
    updates: dict[str, jax.Array] = {}
    shared = _shared(graph)

    def resolve(item: Ref | DType) -> Any:
        if isinstance(item, DType):
            return dtype if item.name == graph.dtype else jax.dtypes.canonicalize_dtype(item.name)
        if item.kind == "value":
            return values[item.name]
        if item.kind == "constant":
            constant = graph.constants[item.name]
            return jnp.asarray(constant, dtype if constant.dtype.name == graph.dtype else None)
        try:
            return updates.get(item.name, variables[item.name])
        except KeyError:
            raise ValueError(f"variables lack {item.name!r}, which the graph uses") from None

    for number, node in enumerate(graph.nodes):
        if node.name not in graph.live:
            continue
        if known and node.name in known:
            values[node.name] = known[node.name]
            continue
        args = map_refs(node.args, resolve)
        kwargs = map_refs(node.kwargs, resolve)
        name, _ = ops.split_name(node.op)
        with jax.named_scope(node.module or name):
            if name == "batch_norm":
                values[node.name], new = _batch_norm(node, args, train)
                updates.update(new)
                if new:
                    _count_batch(node, graph, variables, updates)
            elif name in ops.STATEFUL:
                key = jax.random.fold_in(rng, number) if train and rng is not None else None
                values[node.name] = _drop(name, args, key)
            else:
                function = ops.lookup(node.op, node.module)
                values[node.name] = channels_last.call(name, function, args, kwargs)
        if observe is not None:
            observe(node, args, kwargs, values[node.name])
        if node.name in shared:
            values[node.name] = jax.tree.map(xla_cpu.materialise, values[node.name])
    return {name: resolve(ref) for name, ref in graph.outputs.items()}, updates


def _shared(graph: Graph) -> frozenset[str]:
    """Names of the nodes whose values are used more than once and are worth keeping: they are not mere views."""
    nodes = [node for node in graph.nodes if node.name in graph.live]
    uses = collections.Counter(ref for node in nodes for ref in node_refs(node) if ref.kind == "value")
    return frozenset(
        node.name
        for node in nodes
        if uses[Ref("value", node.name)] > 1 and ops.split_name(node.op)[0] in _KEPT
    )


def _batch_norm(node: Node, args: tuple, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
    x, weight, bias, mean, var, training, momentum, eps = args[:8]
    # Recorded as training without running statistics: weight standardisation, always by its own statistics.
    out, new_mean, new_var = channels_last.batch_norm(
        x, weight, bias, mean, var, training or train, momentum, eps
    )
    if new_mean is None or new_var is None:
        return out, {}
    return out, {node.args[3].name: new_mean, node.args[4].name: new_var}


def _count_batch(
    node: Node, graph: Graph, variables: Mapping[str, Array], updates: dict[str, jax.Array]
) -> None:
    name = node.args[3].name.removesuffix("running_mean") + "num_batches_tracked"
    if name in graph.variables and name in variables:
        # A layer that is used twice counts twice.
        updates[name] = jnp.asarray(updates.get(name, variables[name])) + 1


def _drop(name: str, args: tuple, key: jax.Array | None) -> jax.Array:
    """Dropout, channel dropout and stochastic depth (row: an example at a time; batch: all at once)."""
    x, p = args[:2]
    if key is None or p == 0:
        return x
    x = channels_last.plain(x)
    scale = True
    if name == "dropout":
        shape = x.shape
    elif name == "feature_dropout":
        shape = x.shape[:2] + (1,) * (x.ndim - 2)
    else:
        mode, scale = args[2:4]
        shape = ((x.shape[0] if mode == "row" else 1),) + (1,) * (x.ndim - 1)
    keep = jax.random.bernoulli(key, 1 - p, shape)
    # Divided and multiplied apart: a mask of 0 and 1/(1-p) in bfloat16 would round.
    kept = x / (1 - p) if scale and p < 1 else x
    return jnp.where(keep, kept, jnp.zeros((), x.dtype))


def normalise(images: Array, info: Mapping[str, Any]) -> jax.Array:
    """Images [B, H, W, C] in [0, 1] less the model's mean, over its standard deviation. ValueError for integers."""
    images = jnp.asarray(images)
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images are {images.dtype}; divide by 255, so that they are numbers from 0 to 1")
    mean = jnp.asarray(info["mean"], images.dtype)
    return (images - mean) / jnp.asarray(info["std"], images.dtype)
