"""How many layers lie between a weight and the head: what layer-wise decay of the learning rate goes by.

As in BEiT (arXiv 2106.08254) and timm's ``param_groups_layer_decay``: the stem is the lowest layer, every block is one,
what follows the last block belongs to it, and the head, with a norm of its own, is the highest. Blocks are those whose
features can be chosen (`Graph.choices`), so that no names of layers are needed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from vtabjax.graph import Graph, Node, node_refs

_BLOCK = re.compile(r"features:layer=(\d+)\+pool=(?:avg|token)")
_HEADS = ("head", "fc_norm", "classifier")  # modules of the head that may hold a norm
_PER_LAYER = 12  # weights that make a layer where there are no blocks, as timm has it


def layers_above(graph: Graph, output: str = "features") -> dict[str, int]:
    """{name of a parameter: the number of layers above it, 0 for the head's own}.

    Args:
      graph: a converted model.
      output: the features below the head, one of the graph's outputs and choices.

    Without blocks the parameters of the model are cut, in their order, into layers of twelve, as timm does.
    """
    names = [k for k, v in graph.variables.items() if v.kind == "parameter"]
    blocks = _blocks(graph, output)
    trunk = [name for name in names if not _of_the_head(name)]
    if not blocks:
        count = -(len(trunk) // -_PER_LAYER)
        depths = {name: i // _PER_LAYER for i, name in enumerate(trunk)}
        return {name: count - depths[name] if name in depths else 0 for name in names}
    found: dict[str, int] = {}
    for number, nodes in enumerate(blocks, 1):
        for name in _variables(nodes):
            found.setdefault(name, number)
    first = _first_block(blocks)
    found |= {name: 0 for name in _variables(blocks[0]) if first and not name.startswith(f"{first}.")}
    top = len(blocks) + 1
    return {n: 0 if _of_the_head(n) and n not in found else top - found.get(n, top - 1) for n in names}


def describe(found: Mapping[str, int]) -> str:
    """What was taken for layers, in a line."""
    by_layer: dict[int, list[str]] = {}
    for name, above in found.items():
        by_layer.setdefault(above, []).append(name)
    with_head = by_layer.pop(0, [])
    layers = [f"{names[0]} ({len(names)})" for _, names in sorted(by_layer.items(), reverse=True)]
    text = f"{len(layers)} layers below the head, by first weight and number of weights: {', '.join(layers)}"
    return text + (f"; as fast as the head: {', '.join(with_head)}" if with_head else "")


def _of_the_head(name: str) -> bool:
    return name.partition(".")[0] in _HEADS


def _blocks(graph: Graph, output: str) -> list[list[Node]]:
    """For each block the nodes that both its output and the features depend on."""
    made_by = {node.name: node for node in graph.nodes}
    features = graph.select({"features": output})
    own = {node.name for node in features.nodes}
    ends = {int(m[1]): ref for name, ref in graph.choices.items() if (m := _BLOCK.fullmatch(name))}
    blocks: list[list[Node]] = []
    for number in sorted(ends):
        needed, waiting = set(), [ends[number].name]
        while waiting:
            name = waiting.pop()
            if name in made_by and name not in needed:
                needed.add(name)
                waiting += [ref.name for ref in node_refs(made_by[name]) if ref.kind == "value"]
        inside = [node for node in features.nodes if node.name in needed & own]
        if blocks and set(_variables(inside)) <= set(_variables(blocks[-1])):
            break  # the features are those of an earlier block
        blocks.append(inside)
    return blocks


def _variables(nodes: Iterable[Node]) -> list[str]:
    return [ref.name for node in nodes for ref in node_refs(node) if ref.kind == "variable"]


def _first_block(blocks: list[list[Node]]) -> str:
    """Path of the first block's module: what comes before it is the stem.

    It looks like that of the second block (``layer1.1``: ``layer1.0``); the last that looks so is the block.
    """
    if len(blocks) < 2:
        paths = [_parents(node.module) for node in blocks[0] if re.search(r"\d", node.module)]
        return next((p for parents in reversed(paths) for p in parents), "")
    before = {node.name for node in blocks[0]}
    second = [name.split(".")[:-1] for name in _variables(n for n in blocks[1] if n.name not in before)]
    # A final norm may be among them, and a token: their paths have no number.
    numbered = [path for path in second if any(re.search(r"\d", part) for part in path)]
    common = os.path.commonprefix(numbered) if numbered else []
    while common and not re.search(r"\d", common[-1]):
        common = common[:-1]
    pattern = re.compile("[.]".join(re.sub(r"\d+", r"\\d+", re.escape(part)) for part in common))
    matches = [m[0] for name in _variables(blocks[0]) if (m := pattern.match(name))]
    return matches[-1] if matches else ""


def _parents(path: str) -> list[str]:
    """The shortest beginnings of a path that end in a number first."""
    parts = path.split(".")
    return [".".join(parts[: i + 1]) for i, part in enumerate(parts) if re.search(r"\d", part)]
