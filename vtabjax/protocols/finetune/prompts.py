"""Prompt tokens (Jia et al., arXiv 2203.12119): trained tokens beside an image's own, the model itself frozen.

They are put behind the tokens that enter the first block (shallow), or in each block in place of the ones before
(deep), and taken away after the last block. Their place among the tokens does not matter: models whose attention knows
places, by rotations or relative positions, do not fit and are refused.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vtabjax.graph import Graph, Node, Ref, Variable, map_refs, node_refs
from vtabjax.ops import channels_last
from vtabjax.protocols.finetune._shapes import BATCH, evaluated, image
from vtabjax.protocols.finetune._token_blocks import Refusal, find, patch_size, weights_of
from vtabjax.protocols.finetune.scopes import ScopeError, operator

_NAME = "prompt_tokens"
_END = 2**63 - 1

# Operators that do the same for each token, or for each pair of tokens, whatever their number.
_ANY_NUMBER = frozenset(channels_last.ELEMENTWISE) | frozenset(
    "linear layer_norm rms_norm softmax matmul bmm baddbmm scaled_dot_product_attention transpose permute t contiguous "
    "clone alias dropout stochastic_depth float unsqueeze squeeze getitem sym_size".split()
)
_RESHAPES = frozenset({"reshape", "view", "_unsafe_view", "expand"})
_VIEWS = frozenset({*_RESHAPES, "unsqueeze", "to", "_to_copy", "clone", "alias"})
_ALONG = {
    "unbind": 1,
    "unflatten": 1,
    "select": 1,
    "slice": 1,
    "split": 2,
    "split_with_sizes": 2,
    "chunk": 2,
    "mean": 1,
    "sum": 1,
}

Inserted = tuple[Graph, dict[str, np.ndarray], dict[str, str]]


def inserted(graph: Graph, count: int, *, deep: bool) -> Inserted:
    """A graph with prompt tokens.

    They begin uniform within +-sqrt(6 / (size of a patch + D)), as in the released code.

    Args:
      graph: the model's.
      count: number of tokens P.
      deep: whether each block has tokens of its own.

    Returns:
      (graph, initial values {name: float64 [1, P, D]}, {name: the first weight of the block that the tokens enter}).

    Raises:
      ScopeError: the model is not a chain of blocks on tokens, or knows the places of its tokens.
    """
    shapes: dict[str, Any] = {"input": image(graph)}
    for node in graph.nodes:
        if node.name in graph.live:
            shapes[node.name] = evaluated(node, graph, shapes)
    try:
        return _inserted(graph, shapes, count, deep)
    except Refusal as why:
        scope = "prompt_deep" if deep else "prompt"
        raise ScopeError(
            f"config.finetune.scope={scope!r}: this model cannot be given prompt tokens: {why}; choose lora, bias, "
            "norm, all or head, or leave the model out"
        ) from None


def _inserted(graph: Graph, shapes: Mapping[str, Any], count: int, deep: bool) -> Inserted:
    blocks = find(graph, shapes)
    first = shapes[blocks.given[0]].shape
    axis = 1 - first.index(BATCH)
    tokens, width = first[axis], first[2]
    bound = math.sqrt(6 / (patch_size(graph) + width))
    rng = np.random.default_rng(0)
    initial = {
        f"{_NAME}.{i}": rng.uniform(-bound, bound, (1, count, width))
        for i in range(len(blocks.nodes) if deep else 1)
    }
    batch = Node(f"{_NAME}.batch", "aten.sym_size.int", (Ref("value", "input"), 0), {})
    new: dict[str, Any] = dict(shapes)  # what the values' shapes become
    new[batch.name] = BATCH
    rewritten: dict[str, tuple[Node, ...]] = {}
    renamed: dict[str, str] = {}
    inside = {node.name for block in blocks.nodes for node in block}
    for i, block in enumerate(blocks.nodes):
        before: tuple[Node, ...] = ()
        if i == 0 or deep:
            before = _joined(i, renamed.get(blocks.given[i], blocks.given[i]), axis, tokens, batch.name)
            for node in before:
                new[node.name] = evaluated(node, graph, new, {f"{_NAME}.{i}": (1, count, width)})
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
    beside = {name: weights_of(block)[0] for name, block in zip(initial, blocks.nodes, strict=False)}
    return dataclasses.replace(graph, nodes=tuple(nodes), variables=variables, choices={}), initial, beside


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
        if op == "scaled_dot_product_attention" and _masks_nothing(node, graph):
            node = node._replace(args=(*node.args[:3], None, *node.args[4:]))
        if op in _RESHAPES:
            if grown[0]:
                node = _reshaped(node, old[was[0]].shape, new[values[0]].shape, old[node.name].shape, numbers)
        elif op in _ALONG:
            _check_along(node, op, grown[0], len(old[was[0]].shape), numbers[0])
        elif op not in _ANY_NUMBER:
            raise Refusal(f"operator {op} in {node.module or 'a block'} works across its tokens")
    try:
        new[node.name] = evaluated(node, graph, new)
    except Exception:  # whatever an operator says about shapes that do not fit
        raise Refusal(f"{operator(node)} in {node.module or 'a block'} knows the number of tokens") from None
    grown_sizes = (numbers, tuple(n * BATCH for n in numbers))
    for a, b in zip(jax.tree.leaves(old[node.name]), jax.tree.leaves(new[node.name]), strict=False):
        shapes = [getattr(x, "shape", (x,)) for x in (a, b)]
        if len(shapes[0]) != len(shapes[1]) or any(
            x != y and (x, y) not in grown_sizes for x, y in zip(*shapes, strict=True)
        ):
            raise Refusal(f"{operator(node)} in {node.module or 'a block'} mixes tokens and other dimensions")
    return node


def _masks_nothing(node: Node, graph: Graph) -> bool:
    """Whether the mask of an attention is a constant that lets everything pass."""
    made_by = {n.name: n for n in graph.nodes}
    mask = node.args[3] if len(node.args) > 3 else None
    while isinstance(mask, Ref) and mask.kind == "value" and operator(made_by[mask.name]) in _VIEWS:
        mask = made_by[mask.name].args[0]
    if not isinstance(mask, Ref) or mask.kind != "constant":
        return False
    constant = graph.constants[mask.name]
    return bool(constant.all() if constant.dtype == bool else not constant.any())


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
    raise Refusal(f"{op} in {node.module or 'a block'} cuts or averages its tokens")


def _reshaped(
    node: Node, old: Sequence[int], new: Sequence[int], out: Sequence[int], numbers: tuple[int, int]
) -> Node:
    """A reshape or expansion to the new number of tokens, which it may join with the images of the batch."""
    target = list(node.args[1])
    sizes = {numbers[0], BATCH, numbers[0] * BATCH}
    if operator(node) == "expand":
        axes = {
            axis + len(out) - len(old) for axis, (a, b) in enumerate(zip(old, new, strict=True)) if a != b
        }
    else:
        axes = set()
        for ins, outs in _segments(old, out):
            if any(old[i] != new[i] for i in ins):
                if (len(ins) > 1 and len(outs) > 1) or not {out[o] for o in outs} <= sizes:
                    raise Refusal(f"a reshape in {node.module or 'a block'} splits or joins its tokens")
                axes |= {o for o in outs if out[o] != BATCH}
    for axis in axes:
        if out[axis] == numbers[0] * BATCH and -1 not in target:
            target[axis] = -1
        elif isinstance(target[axis], int) and target[axis] != -1:
            target[axis] = numbers[1]
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


def _renamed(node: Node, names: Mapping[str, str]) -> Node:
    def rename(ref: Any) -> Any:
        return (
            Ref("value", names[ref.name])
            if isinstance(ref, Ref) and ref.kind == "value" and ref.name in names
            else ref
        )

    return node._replace(args=map_refs(node.args, rename), kwargs=map_refs(node.kwargs, rename))
