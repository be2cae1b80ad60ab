"""Which weights of a graph a scope trains: told by the operators that use them, whatever they are called.

bias: BitFit (Ben Zaken et al., arXiv 2106.10199). norm: scales and offsets of normalisation layers (Frankle et al.,
arXiv 2003.00152).
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from typing import NamedTuple

from vtabjax.graph import Graph, Node, Ref, node_refs, refs


class ScopeError(ValueError):
    """A model has nothing that the scope would train."""


class Use(NamedTuple):
    """Where a weight meets the images.

    Attributes:
      op: the operator's name, such as "linear".
      position: which of its arguments the weight is.
      node: name of the node.
      direct: whether the argument is the weight itself, not something computed from it (a slice, standardised).
    """

    op: str
    position: int
    node: str
    direct: bool


_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
_LAYERS = ("linear", *_CONVOLUTIONS)
# (operator, position of the argument) by ATen's signatures.
WEIGHTS = frozenset({("addmm", 2), ("mm", 1), ("matmul", 1), *((op, 1) for op in _LAYERS)})
_NORMS = frozenset(
    {("batch_norm", 1), ("instance_norm", 1), ("layer_norm", 2), ("group_norm", 2), ("rms_norm", 2)}
    | {("batch_norm", 2), ("instance_norm", 2), ("layer_norm", 3), ("group_norm", 3)}
)
_BIASES = frozenset(
    {("batch_norm", 2), ("instance_norm", 2), ("layer_norm", 3), ("group_norm", 3)}
    | {("addmm", 0), ("addcmul", 0), ("conv_transpose2d", 2), *((op, 2) for op in _LAYERS)}
)
SHAPES_ONLY = ("sym_size", "sym_numel")  # of the images, not what is in them
_ROOTS = frozenset({"rsqrt", "sqrt", "linalg_vector_norm", "std"})
# What may stand between a root and the product of the normalised value and its scale.
_BETWEEN = frozenset(
    "mul div reciprocal add clamp clamp_min maximum expand expand_as unsqueeze view reshape to _to_copy type_as".split()
)


def uses(graph: Graph) -> dict[str, list[Use]]:
    """Where each of a graph's variables meets what was computed from the images.

    A weight may be sliced, joined with others or standardised first: what counts is where the outcome is used. Layers
    that compute something from other weights, such as a position bias, count as well.
    """
    from_images = {"input"}
    made_of: dict[str, set[str]] = collections.defaultdict(
        set
    )  # the variables that a value was computed from alone
    found: dict[str, list[Use]] = collections.defaultdict(list)
    for node in graph.nodes:
        op = operator(node)
        if node.name not in graph.live or op in SHAPES_ONLY:
            continue
        sees_images = any(ref.kind == "value" and ref.name in from_images for ref in node_refs(node))
        if sees_images:
            from_images.add(node.name)
        positions = [*enumerate(node.args), *((-1, argument) for argument in node.kwargs.values())]
        for position, argument in positions:
            for ref in refs(argument):
                names = {ref.name} if ref.kind == "variable" else made_of.get(ref.name, set())
                if sees_images or op in _LAYERS:
                    use = Use(op, position, node.name, isinstance(argument, Ref) and ref.kind == "variable")
                    for name in names:
                        found[name].append(use)
                if not sees_images:
                    made_of[node.name] |= names
    return dict(found)


def biases(graph: Graph) -> list[str]:
    """What is added: biases of linear layers and convolutions, offsets of norms, vectors that are added to maps."""
    return _chosen(
        graph,
        lambda use, rank: (use.op, use.position) in _BIASES or (rank == 1 and use.op in ("add", "lstm")),
    )


def norms(graph: Graph) -> list[str]:
    """Scales and offsets of normalisation layers, also of those that are written out in products and roots."""
    by_name = {node.name: node for node in graph.nodes}

    def given(use: Use) -> list[str]:
        return [ref.name for ref in node_refs(by_name[use.node]) if ref.kind == "value"]

    scaled = {
        use.node
        for name, found in uses(graph).items()
        for use in found
        if len(graph.variables[name].shape) == 1
        and use.op in ("mul", "addcmul")
        and any(_normalised(value, by_name) for value in given(use))
    }
    return _chosen(
        graph,
        lambda use, rank: (
            (use.op, use.position) in _NORMS
            or (rank == 1 and (use.node in scaled or (use.op == "add" and not scaled.isdisjoint(given(use)))))
        ),
    )


def trained(graph: Graph, scope: str) -> list[str]:
    """Names of a graph's biases or norms, in the state_dict's order.

    Args:
      graph: what computes the features.
      scope: "bias" or "norm".

    Raises:
      ScopeError: it has none of that kind.
    """
    found = biases(graph) if scope == "bias" else norms(graph)
    if not found:
        what = "biases" if scope == "bias" else "normalisation layers with weights"
        raise ScopeError(
            f"config.finetune.scope={scope!r}: this model has no {what}; choose all, head or lora, or leave the "
            "model out"
        )
    return found


def _chosen(graph: Graph, wanted: Callable[[Use, int], bool]) -> list[str]:
    by_variable = uses(graph)
    return [
        name
        for name, variable in graph.variables.items()
        if variable.kind == "parameter"
        and any(wanted(use, len(variable.shape)) for use in by_variable.get(name, ()))
    ]


def _normalised(name: str, by_name: Mapping[str, Node], depth: int = 5) -> bool:
    """Whether a value is a product or quotient with a root of itself, as in x * rsqrt(mean(x^2) + eps)."""
    node = by_name.get(name)
    if node is None or depth == 0:
        return False
    if operator(node) in _ROOTS or (operator(node) == "pow" and len(node.args) > 1 and node.args[1] == -0.5):
        return True
    if operator(node) not in _BETWEEN:
        return False
    given = [ref.name for ref in node_refs(node) if ref.kind == "value"]
    if operator(node) == "add" and len(given) > 1:  # only the epsilon
        return False
    return any(_normalised(v, by_name, depth - 1) for v in given)


def operator(node: Node) -> str:
    """The operator's name without overload: "add" for aten.add.Tensor and aten.add_.Tensor."""
    return node.op.split(".")[1].rstrip("_")
