"""LoRA (Hu et al., arXiv 2106.09685) on any graph: a weight W becomes W + alpha/rank B A; only A and B are trained.

A takes the layer's inputs to `rank` numbers, B takes those to its outputs: for a convolution A is one of the same
kernel, stride and padding with `rank` outputs, and B a 1 x 1 convolution, as in peft. B starts at zero, so that the
model starts as it came.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vtabjax.graph import Graph, Node, Ref, Variable, map_refs
from vtabjax.protocols.finetune.scopes import WEIGHTS, ScopeError, Use, uses

_A, _B = ".lora_A", ".lora_B"  # behind the weight's name


def layers(graph: Graph, pattern: str = "") -> list[str]:
    """Names of the weights that get an adapter.

    Args:
      graph: what computes the features.
      pattern: globs for names of weights, comma-separated; the ending ``.weight`` may be left out. "" chooses the
        linear layers where they hold most of the weights, as in transformers, and otherwise the convolutions as well,
        except grouped ones.

    Raises:
      ScopeError: there are none, or a glob fits none.
    """
    found = _matrices(graph)
    if not pattern:
        return _usual(graph, found)
    fits = {
        glob.strip(): [name for name in found if _fits(name, glob.strip())] for glob in pattern.split(",")
    }
    for glob, names in fits.items():
        if not names:
            raise ScopeError(
                f"config.finetune.lora_layers={pattern!r}: {glob!r} fits none of the model's {len(found)} linear "
                f"layers and convolutions, such as {', '.join(list(found)[:3])}"
            )
    return [name for name in found if any(name in names for names in fits.values())]


def _usual(graph: Graph, found: Mapping[str, list[Use]]) -> list[str]:
    """The linear layers, and the convolutions that are not grouped where these hold more weights."""
    linear = [name for name in found if len(graph.variables[name].shape) == 2]
    convolutions = [
        name
        for name, where in found.items()
        if len(graph.variables[name].shape) > 2 and all(_groups(graph, use) == 1 for use in where)
    ]
    size = {
        kind: sum(math.prod(graph.variables[name].shape) for name in names)
        for kind, names in (("linear", linear), ("convolutions", convolutions))
    }
    chosen = set(linear) if size["linear"] > size["convolutions"] else {*linear, *convolutions}
    if not chosen:
        raise ScopeError(
            "config.finetune.scope='lora': this model has no linear layers or convolutions to adapt; choose all or "
            "head, or leave the model out"
        )
    return [name for name in found if name in chosen]


def adapted(
    graph: Graph, chosen: Iterable[str], *, rank: int, alpha: float
) -> tuple[Graph, dict[str, np.ndarray]]:
    """A graph with adapters, and the adapters' initial values, {name: float64 array}.

    A ~ U(-1/sqrt(fan_in), 1/sqrt(fan_in)), as torch initialises a layer; it depends on the weight's name alone.

    Args:
      graph: the model's.
      chosen: names of weights, of `layers`.
      rank: width of the adapters.
      alpha: the product is multiplied by alpha / rank.
    """
    where = _matrices(graph)
    nodes, variables = list(graph.nodes), dict(graph.variables)
    initial: dict[str, np.ndarray] = {}
    for name in chosen:
        out, *rest = graph.variables[name].shape
        a, b = (rank, *rest), (out, rank, *(1 for _ in rest[1:]))
        bound = 1 / math.sqrt(math.prod(rest))
        initial[name + _A] = np.random.default_rng(zlib.crc32(name.encode())).uniform(-bound, bound, a)
        initial[name + _B] = np.zeros(b)
        for adapter, shape in ((name + _A, a), (name + _B, b)):
            variables[adapter] = Variable(shape, graph.variables[name].dtype, "parameter")
        if all(use.direct and use.op == "linear" for use in where[name]):
            by_node = {use.node for use in where[name]}
            nodes = [
                new
                for node in nodes
                for new in (_beside(node, name, alpha / rank) if node.name in by_node else (node,))
            ]
        else:
            nodes = _on_the_weight(nodes, name, (out, *rest), rank, alpha / rank)
    return dataclasses.replace(graph, nodes=tuple(nodes), variables=variables), initial


def merged(
    variables: Mapping[str, np.ndarray], adapters: Mapping[str, np.ndarray], alpha: float
) -> dict[str, np.ndarray]:
    """The weights that adapters belong to, with the adapters in them, {name: float64 array}.

    Args:
      variables: of the model as it came.
      adapters: trained A and B, by `adapted`'s names.
      alpha: see `adapted`.
    """
    found = {}
    for name_of_a, value in adapters.items():
        if name_of_a.endswith(_A):
            name = name_of_a.removesuffix(_A)
            a, b = (np.asarray(x, np.float64) for x in (value, adapters[name + _B]))
            weight, rank = np.asarray(variables[name], np.float64), len(a)
            product = b.reshape(-1, rank) @ a.reshape(rank, -1)
            found[name] = weight + alpha / rank * product.reshape(weight.shape)
    return found


def weight_of(adapter: str) -> str:
    """The name of the weight that an A or a B belongs to."""
    return adapter.removesuffix(_A).removesuffix(_B)


def _beside(node: Node, name: str, scale: float) -> tuple[Node, ...]:
    """A linear layer, its adapter, and their sum under the layer's name.

    With many more tokens than `rank` this saves the gradient of the whole weight, a third of the products of a step.
    """
    base, narrow, scaled, wide = (f"{node.name}.{part}" for part in ("base", "lora_A", "scaled", "lora_B"))
    a, b = (Ref("variable", name + part) for part in (_A, _B))

    def value(of: str) -> Ref:
        return Ref("value", of)

    return (
        node._replace(name=base),
        Node(narrow, node.op, (node.args[0], a), {}, node.module),
        Node(scaled, "aten.mul.Tensor", (value(narrow), scale), {}, node.module),
        Node(wide, node.op, (value(scaled), b), {}, node.module),
        Node(node.name, "aten.add.Tensor", (value(base), value(wide)), {}, node.module),
    )


def _on_the_weight(
    nodes: Iterable[Node], name: str, shape: tuple[int, ...], rank: int, scale: float
) -> list[Node]:
    """Nodes that use W + scale * B A instead of W: of convolutions, and where W is sliced or reshaped before its use.

    For convolutions the sum of the weights is cheaper than two more convolutions.
    """
    a, b, product, scaled, delta, total = (
        f"{name}.{part}" for part in ("flat_A", "flat_B", "product", "scaled", "delta", "adapted")
    )

    def value(of: str) -> Ref:
        return Ref("value", of)

    new = (
        Node(a, "aten.reshape.default", (Ref("variable", name + _A), (rank, -1)), {}),
        Node(b, "aten.reshape.default", (Ref("variable", name + _B), (-1, rank)), {}),
        Node(product, "aten.matmul.default", (value(b), value(a)), {}),
        Node(scaled, "aten.mul.Tensor", (value(product), scale), {}),
        Node(delta, "aten.reshape.default", (value(scaled), shape), {}),
        Node(total, "aten.add.Tensor", (Ref("variable", name), value(delta)), {}),
    )

    def instead(ref: Any) -> Any:
        return value(total) if ref == Ref("variable", name) else ref

    return [
        *new,
        *(
            node._replace(args=map_refs(node.args, instead), kwargs=map_refs(node.kwargs, instead))
            for node in nodes
        ),
    ]


def _matrices(graph: Graph) -> dict[str, list[Use]]:
    """The weights of linear layers and convolutions, and where they are used, in the state_dict's order."""
    found = uses(graph)
    return {
        name: found[name]
        for name, variable in graph.variables.items()
        if variable.kind == "parameter"
        and sum(size > 1 for size in variable.shape) >= 2  # a gain of a standardised weight is a vector
        and found.get(name)
        and all((use.op, use.position) in WEIGHTS for use in found[name])
    }


def _groups(graph: Graph, use: Use) -> int:
    if not use.op.startswith("conv"):
        return 1
    node = next(node for node in graph.nodes if node.name == use.node)
    return int(node.args[6]) if len(node.args) > 6 else 1


def _fits(name: str, glob: str) -> bool:
    return any(fnmatch.fnmatchcase(n, glob) for n in (name, name.removesuffix(".weight")))
