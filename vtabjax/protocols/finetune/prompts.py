"""Prompt tokens (Jia et al., arXiv 2203.12119): trained tokens beside an image's own, the model itself frozen.

They are put behind the tokens that enter the first block (shallow), or in each block in place of the ones before
(deep), and taken away after the last block. Their place among the tokens does not matter: models whose attention knows
places, by rotations or relative positions, do not fit and are refused.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from vtabjax import ops
from vtabjax.graph import DType, Graph, Node, Ref, Variable, map_refs, node_refs
from vtabjax.protocols.finetune.scopes import WEIGHTS, ScopeError, operator, uses

_NAME = "prompt_tokens"
_BATCH = 10_007  # a prime that no other size is: shapes only, nothing is computed
_END = 2**63 - 1

# Operators that do the same for each token, or for each pair of tokens, whatever their number.
_ANY_NUMBER = frozenset(
    "linear layer_norm rms_norm add sub mul div neg pow sqrt rsqrt exp gelu relu silu sigmoid tanh softmax matmul bmm "
    "scaled_dot_product_attention transpose permute t contiguous clone detach alias dropout stochastic_depth to "
    "_to_copy type_as float unsqueeze squeeze getitem sym_size identity _softmax masked_fill where baddbmm".split()
)
_RESHAPES = frozenset({"reshape", "view", "_unsafe_view", "expand"})
_ALONG = {
    "unbind": 1,
    "select": 1,
    "slice": 1,
    "split": 2,
    "split_with_sizes": 2,
    "chunk": 2,
    "mean": 1,
    "sum": 1,
}


class _Refusal(Exception):
    """Why tokens cannot be added."""


class _Blocks(NamedTuple):
    nodes: list[list[Node]]
    given: list[str]  # the value that enters each block
    made: str  # the value that leaves the last one


def inserted(graph: Graph, count: int, *, deep: bool) -> tuple[Graph, dict[str, np.ndarray]]:
    """A graph with prompt tokens, and their initial values, {name: float64 [1, count, D]}.

    They are uniform within +-sqrt(6 / (size of a patch + D)), as in the released code.

    Args:
      graph: the model's.
      count: number of tokens P.
      deep: whether each block has tokens of its own.

    Raises:
      ScopeError: the model is not a chain of blocks on tokens, or knows the places of its tokens.
    """
    shapes: dict[str, Any] = {"input": _image(graph)}
    for node in graph.nodes:
        if node.name in graph.live:
            shapes[node.name] = _evaluated(node, graph, shapes)
    try:
        return _inserted(graph, shapes, count, deep)
    except _Refusal as why:
        scope = "prompt_deep" if deep else "prompt"
        raise ScopeError(
            f"config.finetune.scope={scope!r}: this model cannot be given prompt tokens: {why}; choose lora, bias, "
            "norm, all or head, or leave the model out"
        ) from None


def _inserted(
    graph: Graph, shapes: Mapping[str, Any], count: int, deep: bool
) -> tuple[Graph, dict[str, np.ndarray]]:
    blocks = _blocks(graph, shapes)
    first = shapes[blocks.given[0]].shape
    axis = 1 - first.index(_BATCH)
    tokens, width = first[axis], first[2]
    bound = math.sqrt(6 / (_patch(graph) + width))
    rng = np.random.default_rng(0)
    initial = {
        f"{_NAME}.{i}": rng.uniform(-bound, bound, (1, count, width))
        for i in range(len(blocks.nodes) if deep else 1)
    }
    batch = Node(f"{_NAME}.batch", "aten.sym_size.int", (Ref("value", "input"), 0), {})
    new: dict[str, Any] = dict(shapes)  # what the values' shapes become
    new[batch.name] = _BATCH
    rewritten: dict[str, tuple[Node, ...]] = {}
    renamed: dict[str, str] = {}
    inside = {node.name for block in blocks.nodes for node in block}
    for i, block in enumerate(blocks.nodes):
        before: tuple[Node, ...] = ()
        if i == 0 or deep:
            before = _joined(i, renamed.get(blocks.given[i], blocks.given[i]), axis, tokens, batch.name)
            for node in before:
                new[node.name] = _evaluated(node, graph, new, {f"{_NAME}.{i}": (1, count, width)})
            renamed[blocks.given[i]] = before[-1].name
        for node in block:
            changed = _renamed(node, renamed)
            changed = _with_more_tokens(changed, graph, shapes, new, node, (tokens, tokens + count))
            rewritten[node.name] = (*before, changed)
            before = ()
    after = Node(f"{_NAME}.removed", "aten.slice.Tensor", (Ref("value", blocks.made), axis, 0, tokens), {})
    nodes = [batch]
    for node in graph.nodes:
        if node.name in inside:
            nodes += rewritten[node.name]
        else:
            nodes.append(_renamed(node, {blocks.made: after.name}))
        if node.name == blocks.made:
            nodes.append(after)
    variables = {
        **graph.variables,
        **{name: Variable(value.shape, graph.dtype, "parameter") for name, value in initial.items()},
    }
    return dataclasses.replace(graph, nodes=tuple(nodes), variables=variables, choices={}), initial


def _joined(number: int, value: str, axis: int, tokens: int, batch: str) -> tuple[Node, ...]:
    """The tokens that enter a block, without those of the block before, and the block's own behind them."""
    name = f"{_NAME}.{number}"
    own = Node(
        f"{name}.own", "aten.expand.default", (Ref("variable", name), (Ref("value", batch), -1, -1)), {}
    )
    turned = (
        (Node(f"{name}.turned", "aten.transpose.int", (Ref("value", own.name), 0, 1), {}),)
        if axis == 0
        else ()
    )
    given = Node(f"{name}.given", "aten.slice.Tensor", (Ref("value", value), axis, 0, tokens), {})
    parts = (Ref("value", given.name), Ref("value", (own, *turned)[-1].name))
    return own, *turned, given, Node(f"{name}.joined", "aten.cat.default", (parts, axis), {})


def _with_more_tokens(
    node: Node,
    graph: Graph,
    old: Mapping[str, Any],
    new: dict[str, Any],
    original: Node,
    numbers: tuple[int, int],
) -> Node:
    """The node for the new number of tokens; records in `new` what its shape becomes."""
    values = [ref.name for ref in node_refs(node) if ref.kind == "value"]
    was = [ref.name for ref in node_refs(original) if ref.kind == "value"]
    grown = [_grown(old[a], new[b]) for a, b in zip(was, values, strict=True)]
    if any(grown):
        op = operator(node)
        if op in _RESHAPES:
            if grown[0]:
                node = _reshaped(
                    node, old[was[0]].shape, new[values[0]].shape, old[node.name].shape, numbers[1]
                )
        elif op in _ALONG:
            _check_along(node, op, grown[0], len(old[was[0]].shape), numbers[0])
        elif op not in _ANY_NUMBER:
            raise _Refusal(f"operator {op} in {node.module or 'a block'} works across its tokens")
    try:
        new[node.name] = _evaluated(node, graph, new)
    except Exception:  # whatever an operator says about shapes that do not fit
        raise _Refusal(f"{operator(node)} in {node.module or 'a block'} knows the number of tokens") from None
    for a, b in zip(jax.tree.leaves(old[node.name]), jax.tree.leaves(new[node.name]), strict=False):
        shapes = [getattr(x, "shape", (x,)) for x in (a, b)]
        if len(shapes[0]) != len(shapes[1]) or any(
            x != y and (x, y) != numbers for x, y in zip(*shapes, strict=True)
        ):
            raise _Refusal(
                f"{operator(node)} in {node.module or 'a block'} mixes tokens and other dimensions"
            )
    return node


def _grown(old: Any, new: Any) -> set[int]:
    """The axes along which a value has more tokens than before."""
    pairs = zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
    return {
        axis
        for a, b in pairs
        if hasattr(a, "shape")
        for axis, (x, y) in enumerate(zip(a.shape, b.shape, strict=True))
        if x != y
    }


def _check_along(node: Node, op: str, grown: set[int], rank: int, tokens: int) -> None:
    """Refuses cuts and means along the tokens, except for the first few of them."""
    position = _ALONG[op]
    given = node.args[position] if len(node.args) > position else 0
    along = {d % rank for d in (given if isinstance(given, tuple) else (given,))}
    if not along & grown:
        return
    if op == "select" and 0 <= node.args[2] < tokens:
        return
    if op == "slice":
        start, end = (node.args[2:4] + (None, None))[:2]
        if 0 <= (start or 0) and (end is None or end == _END or 0 <= end < tokens):
            return
    raise _Refusal(f"{op} in {node.module or 'a block'} cuts or averages its tokens")


def _reshaped(node: Node, old: Sequence[int], new: Sequence[int], out: Sequence[int], tokens: int) -> Node:
    """A reshape or expansion to the new number of tokens."""
    target = list(node.args[1])
    if operator(node) == "expand":
        axes = {
            axis + len(out) - len(old) for axis, (a, b) in enumerate(zip(old, new, strict=True)) if a != b
        }
    else:
        axes = set()
        for ins, outs in _segments(old, out):
            if any(old[i] != new[i] for i in ins):
                if len(ins) > 1 or len(outs) > 1:
                    raise _Refusal(f"a reshape in {node.module or 'a block'} splits or joins its tokens")
                axes.add(outs[0])
    for axis in axes:
        if isinstance(target[axis], int) and target[axis] != -1:
            target[axis] = tokens
    return node._replace(args=(node.args[0], tuple(target), *node.args[2:]))


def _segments(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Which axes of a reshape's input become which of its output, axes of size 1 left out."""

    def ends(shape: Sequence[int]) -> list[tuple[int, int]]:
        axes = [axis for axis, size in enumerate(shape) if size != 1]
        return list(
            zip(axes, itertools.accumulate((shape[a] for a in axes), lambda p, n: p * n), strict=True)
        )

    olds, news = ends(old), ends(new)
    shared = sorted({end for _, end in olds} & {end for _, end in news})
    return [
        (
            [axis for axis, end in olds if low < end <= high],
            [axis for axis, end in news if low < end <= high],
        )
        for low, high in itertools.pairwise([0, *shared])
    ]


# The blocks.


def _blocks(graph: Graph, shapes: Mapping[str, Any]) -> _Blocks:
    """The outermost modules with numbered names that form a chain on tokens [B, N, D] and are most of the model."""
    live = [node for node in graph.nodes if node.name in graph.live]
    numbered: dict[tuple[str, ...], dict[str, list[Node]]] = collections.defaultdict(dict)
    for node in live:
        path = node.module.split(".")
        for i, part in enumerate(path):
            if part.isdigit():
                numbered[tuple(path[:i])].setdefault(part, []).append(node)
    total = _parameters(graph, live)
    reasons = []
    for stem in sorted(numbered, key=lambda stem: (len(stem), -sum(map(len, numbered[stem].values())))):
        groups = list(numbered[stem].values())
        if len(groups) < 2 or 2 * _parameters(graph, itertools.chain(*groups)) < total:
            continue
        try:
            return _chain(graph, live, groups, shapes)
        except _Refusal as why:
            reasons.append(str(why))
    raise _Refusal(reasons[0] if reasons else "it is not a chain of blocks")


def _chain(
    graph: Graph, live: Sequence[Node], groups: Sequence[list[Node]], shapes: Mapping[str, Any]
) -> _Blocks:
    block_of = {node.name: i for i, group in enumerate(groups) for node in group}
    sees = _from_images(live)
    enters: list[set[str]] = [set() for _ in groups]
    leaves: set[str] = {ref.name for ref in graph.outputs.values() if ref.name in block_of}
    for node in live:
        here = block_of.get(node.name)
        for ref in node_refs(node):
            if ref.kind != "value" or ref.name not in sees or block_of.get(ref.name) == here:
                continue
            if here is not None:
                enters[here].add(ref.name)
            elif ref.name in block_of:
                leaves.add(ref.name)
    if any(len(names) != 1 for names in (*enters, leaves)):
        raise _Refusal("its blocks are not a chain in which each one feeds only the next")
    given, made = [next(iter(names)) for names in enters], next(iter(leaves))
    sizes = [getattr(shapes[name], "shape", ()) for name in (*given, made)]
    if len(set(sizes)) > 1 or len(sizes[0]) != 3 or _BATCH not in sizes[0][:2]:
        raise _Refusal("its blocks do not pass on one number of tokens of one width")
    if [block_of.get(name) for name in (*given, made)] != [None, *range(len(groups))]:
        raise _Refusal("its blocks are not a chain in which each one feeds only the next")
    return _Blocks(list(groups), given, made)


def _parameters(graph: Graph, nodes: Iterable[Node]) -> int:
    """How many numbers the nodes' weights have together."""
    names = {ref.name for node in nodes for ref in node_refs(node) if ref.kind == "variable"}
    return sum(math.prod(graph.variables[name].shape) for name in names)


def _from_images(nodes: Sequence[Node]) -> set[str]:
    """Names of the values that depend on what is in the images."""
    found = {"input"}
    for node in nodes:
        if operator(node) != "sym_size" and any(
            ref.kind == "value" and ref.name in found for ref in node_refs(node)
        ):
            found.add(node.name)
    return found


def _patch(graph: Graph) -> int:
    """How many numbers the first layer sees at once: those of a patch."""
    order = {node.name: i for i, node in enumerate(graph.nodes)}
    layers = [
        (order[use.node], math.prod(graph.variables[name].shape[1:]))
        for name, found in uses(graph).items()
        for use in found
        if (use.op, use.position) in WEIGHTS
    ]
    return min(layers)[1] if layers else 0


# Shapes.


def _image(graph: Graph) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((_BATCH, *graph.input_size), np.float32)


def _evaluated(
    node: Node, graph: Graph, shapes: Mapping[str, Any], more: Mapping[str, tuple[int, ...]] | None = None
) -> Any:
    """The shape of a node's value: a jax.ShapeDtypeStruct, a tuple of them or an int."""
    name, _ = ops.split_name(node.op)
    if name in ops.STATEFUL:
        return shapes[node.args[0].name]

    def resolve(item: Ref | DType) -> Any:
        if isinstance(item, DType):
            return np.dtype("float32") if item.name == graph.dtype else np.dtype(item.name)
        if item.kind == "value":
            return shapes[item.name]
        if item.kind == "constant":
            return np.asarray(graph.constants[item.name])
        shape = (more or {}).get(item.name) or graph.variables[item.name].shape
        return jax.ShapeDtypeStruct(shape, np.float32)

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


def _renamed(node: Node, names: Mapping[str, str]) -> Node:
    def rename(ref: Any) -> Any:
        return (
            Ref("value", names[ref.name])
            if isinstance(ref, Ref) and ref.kind == "value" and ref.name in names
            else ref
        )

    return node._replace(args=map_refs(node.args, rename), kwargs=map_refs(node.kwargs, rename))
