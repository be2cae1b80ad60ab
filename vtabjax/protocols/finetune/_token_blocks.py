"""The blocks of a graph through which an image's tokens pass one after the other."""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from vtabjax.graph import Graph, Node, node_refs
from vtabjax.protocols.finetune._shapes import BATCH
from vtabjax.protocols.finetune.scopes import WEIGHTS, operator, uses


class Refusal(Exception):
    """Why tokens cannot be added."""


class Blocks(NamedTuple):
    nodes: list[list[Node]]
    given: list[str]  # the value that enters each block
    made: str  # the value that leaves the last one


def find(graph: Graph, shapes: Mapping[str, Any]) -> Blocks:
    """The outermost modules with numbered names that form a chain on tokens [B, N, D] and are most of the model."""
    live = [node for node in graph.nodes if node.name in graph.live]
    numbered: dict[tuple[str, ...], dict[str, list[Node]]] = collections.defaultdict(dict)
    for node in live:
        path = node.module.split(".")
        for i, part in enumerate(path):
            if any(c.isdigit() for c in part):
                numbered[*path[:i], re.sub(r"\d+", "*", part)].setdefault(part, []).append(node)
    matrices = _matrices(graph)[1:]  # the first layer may be wide in a small model
    reasons = []
    for stem in sorted(numbered, key=lambda stem: (len(stem), -sum(map(len, numbered[stem].values())))):
        groups = list(numbered[stem].values())
        inside = {node.name for group in groups for node in group}
        outside = sum(size for node, size in matrices if node not in inside)
        if len(groups) < 2 or 2 * outside > sum(size for _, size in matrices):
            continue
        try:
            return _chain(graph, live, groups, shapes)
        except Refusal as why:
            reasons.append(str(why))
    raise Refusal(reasons[0] if reasons else "it is not a chain of blocks")


def _chain(
    graph: Graph, live: Sequence[Node], groups: Sequence[list[Node]], shapes: Mapping[str, Any]
) -> Blocks:
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
        raise Refusal("its blocks are not a chain in which each one feeds only the next")
    given, made = [next(iter(names)) for names in enters], next(iter(leaves))
    sizes = [getattr(shapes[name], "shape", ()) for name in (*given, made)]
    if len(set(sizes)) > 1 or len(sizes[0]) != 3 or BATCH not in sizes[0][:2]:
        raise Refusal("its blocks do not pass on one number of tokens of one width")
    if [block_of.get(name) for name in (*given, made)] != [None, *range(len(groups))]:
        raise Refusal("its blocks are not a chain in which each one feeds only the next")
    return Blocks(list(groups), given, made)


def _matrices(graph: Graph) -> list[tuple[str, int]]:
    """(node, size of the weight) of linear layers and convolutions, in the order in which they run."""
    order = {node.name: i for i, node in enumerate(graph.nodes)}
    found = {
        (order[use.node], use.node, math.prod(graph.variables[name].shape))
        for name, where in uses(graph).items()
        for use in where
        if (use.op, use.position) in WEIGHTS
    }
    return [(node, size) for _, node, size in sorted(found)]


def weights_of(nodes: Iterable[Node]) -> list[str]:
    return [ref.name for node in nodes for ref in node_refs(node) if ref.kind == "variable"]


def _from_images(nodes: Sequence[Node]) -> set[str]:
    """Names of the values that depend on what is in the images."""
    found = {"input"}
    for node in nodes:
        if operator(node) != "sym_size" and any(
            ref.kind == "value" and ref.name in found for ref in node_refs(node)
        ):
            found.add(node.name)
    return found


def patch_size(graph: Graph) -> int:
    """How many numbers the first layer sees at once: those of a patch."""
    first = _matrices(graph)[0][0]
    node = next(node for node in graph.nodes if node.name == first)
    names = [ref.name for ref in node_refs(node) if ref.kind == "variable"]
    return max(math.prod(graph.variables[name].shape[1:]) for name in names)
