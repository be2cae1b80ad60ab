"""From a flat graph to a tree of modules: which nodes belong to which call of which module.

The graph remembers for each node in which torch module it was traced. A module that has variables becomes a `Module`
with the statements of its call; one that has none (an activation, a pooling) is written out where it is called. So is a
module that is called twice, or whose nodes are not together.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vtabjax.graph import DType, Graph, Node, Ref, map_refs, node_refs, refs
from vtabjax.model import running
from vtabjax.ops import channels_last, split_name

_RESHAPES = ("view", "reshape", "_unsafe_view")
# In evaluation mode.
_IDENTITIES = ("dropout", "feature_dropout", "stochastic_depth", "detach", "contiguous")
# Several values, each of which is one of the node's items.
MULTIPLE = ("unbind", "split", "split_with_sizes", "chunk")


class EjectError(ValueError):
    """A model that cannot be written as source; the message says what of it."""


@dataclasses.dataclass(eq=False)
class Statement:
    """A line of a call: an operator, or the call of a child.

    Attributes:
      op: the operator, such as "aten.mean.dim"; "" for a call.
      args: its arguments; values, variables and constants are `Ref`s. Of a call: the values that go in.
      kwargs: its keyword arguments.
      outputs: names of the values that it makes; None for an item that nobody uses.
      child: what is called.
    """

    op: str
    args: tuple
    kwargs: Mapping[str, Any]
    outputs: list[str | None]
    child: Module | None = None

    def used(self) -> Iterator[Ref]:
        """What it reads."""
        return node_refs(Node("", "", self.args, self.kwargs))


@dataclasses.dataclass(eq=False)
class Module:
    """A module that has variables.

    Attributes:
      path: where it is in the model, such as "layer1.0.conv1"; "" for the model itself.
      statements: what its call does.
      inputs: the values that its call takes: `Ref`s to values, or to variables that belong to others.
      outputs: names of the values that its call gives.
      variables: path below it -> kind ("parameter", "batch_stat", "buffer", "constant").
      children: path below it -> module, such as "0.conv1".
    """

    path: str
    statements: list[Statement] = dataclasses.field(default_factory=list)
    inputs: list[Ref] = dataclasses.field(default_factory=list)
    outputs: list[str] = dataclasses.field(default_factory=list)
    variables: dict[str, str] = dataclasses.field(default_factory=dict)
    children: dict[str, Module] = dataclasses.field(default_factory=dict)

    def below(self, name: str) -> str | None:
        """The path below this module of what has that path in the model; None if it is elsewhere."""
        if not self.path:
            return name
        return name.removeprefix(self.path + ".") if name.startswith(self.path + ".") else None


def modules(graph: Graph) -> tuple[Module, dict[str, str]]:
    """The tree of a `simplified` graph's modules.

    Returns:
      (the model itself, {path of a constant in the tree: its name in the graph}).
    """
    builder = _Builder(graph)
    root = builder.build(
        "", list(graph.nodes), [ref.name for ref in graph.outputs.values() if ref.kind == "value"]
    )
    for name, variable in graph.variables.items():
        owner = root
        while (child := _containing(owner, name)) is not None:
            owner = child
        owner.variables.setdefault(str(owner.below(name)), variable.kind)
    constants: dict[str, str] = {}
    _place_constants(root, constants)
    return root, constants


def _containing(module: Module, name: str) -> Module | None:
    return next((child for child in module.children.values() if child.below(name) is not None), None)


# Sizes.


def simplified(graph: Graph) -> Graph:
    """The graph with shapes as numbers, -1 for what depends on the size of the batch, and without what does nothing."""
    shapes = _shapes(graph)
    same: dict[str, Any] = {}

    def followed(ref: Ref | DType) -> Any:
        return same.get(ref.name, ref) if isinstance(ref, Ref) and ref.kind == "value" else ref

    nodes = []
    for node in graph.nodes:
        if node.name not in graph.live:
            continue
        name = split_name(node.op)[0]
        node = node._replace(args=map_refs(node.args, followed), kwargs=map_refs(node.kwargs, followed))
        if name in _IDENTITIES or (name == "pad" and not any(node.args[1])):
            same[node.name] = node.args[0]
            continue
        if name in _RESHAPES and (shape := shapes.get(node.name)) is not None and any(refs(node.args[1:])):
            node = node._replace(args=(node.args[0], shape), kwargs={})
        elif name == "expand" and (shape := shapes.get(node.name)) is not None:
            sizes = tuple(n if size == -1 else size for n, size in zip(shape, node.args[1], strict=True))
            node = node._replace(args=(node.args[0], sizes), kwargs={})
        nodes.append(node)
    outputs = {name: followed(ref) for name, ref in graph.outputs.items()}
    whole = dataclasses.replace(graph, nodes=tuple(nodes), outputs=outputs, choices={})
    return dataclasses.replace(whole.select({name: name for name in outputs}), variables=graph.variables)


def _shapes(graph: Graph) -> dict[str, tuple[int, ...]]:
    """Shapes of what is reshaped or expanded, -1 in the dimension that depends on the size of the batch."""
    channels, height, width = graph.input_size
    dtype = jnp.dtype(graph.dtype)
    variables = {
        name: jax.ShapeDtypeStruct(v.shape, jnp.dtype(v.dtype)) for name, v in graph.variables.items()
    }
    found: list[dict[str, tuple[int, ...]]] = []
    for batch in (2, 3):
        shapes: dict[str, tuple[int, ...]] = {}

        def observe(node: Node, args: tuple, kwargs: Any, value: Any, shapes: dict = shapes) -> None:
            if split_name(node.op)[0] in (*_RESHAPES, "expand"):
                shapes[node.name] = channels_last.plain(value).shape

        images = jax.ShapeDtypeStruct((batch, height, width, channels), dtype)
        jax.eval_shape(
            lambda v, x, see=observe: running.run(graph, v, x, observe=see)[0]["features"], variables, images
        )
        found.append(shapes)
    merged = {}
    for name, of_two in found[0].items():
        shape = tuple(a if a == b else -1 for a, b in zip(of_two, found[1][name], strict=True))
        if shape.count(-1) > 1:
            raise EjectError(
                f"a shape depends on the size of the batch in several dimensions: {of_two} of {name}"
            )
        merged[name] = shape
    return merged


# Nodes to modules.


class _Builder:
    def __init__(self, graph: Graph):
        self.paths = {node.name: self._path(node.module) for node in graph.nodes}
        self.owners = {name.rpartition(".")[0] for name in graph.variables}
        self.variables = graph.variables

    @staticmethod
    def _path(module: str) -> str:
        return "" if module.startswith("_empty_nn_module_stack") else module

    def build(self, path: str, nodes: Sequence[Node], wanted: Iterable[str]) -> Module:
        """The module at `path`, whose call is `nodes` and gives what of `wanted` they make."""
        module = Module(path)
        runs = [
            (key, list(run))
            for key, run in itertools.groupby(nodes, lambda node: self._child(path, self.paths[node.name]))
        ]
        once = [key for key, _ in runs if key]
        split = {key for key in once if once.count(key) > 1 or not self._has_variables(path, key)}
        pending = [(key if key not in split else "", run) for key, run in runs]
        uses = [{ref.name for node in run for ref in node_refs(node)} for _, run in pending]
        wanted = list(wanted)
        for i, (key, run) in enumerate(pending):
            if not key:
                module.statements += _own(run)
                continue
            later = set(wanted).union(*uses[i + 1 :])
            child = self.build(
                f"{path}.{key}" if path else key, run, [n.name for n in run if n.name in later]
            )
            module.children[key] = child
            module.statements.append(Statement("", tuple(child.inputs), {}, list(child.outputs), child))
        made = {name for s in module.statements for name in s.outputs}
        module.outputs = [name for name in dict.fromkeys(wanted) if name in made]
        read = dict.fromkeys(ref for s in module.statements for ref in s.used())
        module.inputs = [ref for ref in read if self._from_outside(module, ref, made)]
        for ref in read:
            if ref.kind == "variable" and (name := module.below(ref.name)) is not None:
                if _containing(module, ref.name) is None:
                    module.variables[name] = self.variables[ref.name].kind
        return module

    @staticmethod
    def _from_outside(module: Module, ref: Ref, made: set[str | None]) -> bool:
        if ref.kind == "variable":
            return module.below(ref.name) is None
        return ref.kind == "value" and ref.name not in made

    @staticmethod
    def _child(path: str, module: str) -> str:
        """Path below `path` of the child that a node of `module` belongs to, "" for itself: numbers name no class of
        their own, so that "layer1.0.conv1" belongs to the child "layer1.0"."""
        below = module.removeprefix(path).removeprefix(".") if path else module
        parts = below.split(".") if module != path and below else []
        n = min(1, len(parts))
        while n < len(parts) and parts[n].isdecimal():
            n += 1
        return ".".join(parts[:n])

    def _has_variables(self, path: str, key: str) -> bool:
        full = f"{path}.{key}" if path else key
        return any(owner == full or owner.startswith(full + ".") for owner in self.owners)


def _own(run: Sequence[Node]) -> list[Statement]:
    """The statements of nodes; items of what has several become its outputs."""
    names = {node.name: split_name(node.op)[0] for node in run}
    items: dict[str, dict[int, str]] = {}
    for node in run:
        if names[node.name] == "operator.getitem" and names.get(node.args[0].name) in MULTIPLE:
            items.setdefault(node.args[0].name, {})[node.args[1]] = node.name
    statements = []
    for node in run:
        name = names[node.name]
        outputs: list[str | None] = [node.name]
        if name == "operator.getitem" and node.args[0].name in items:
            continue
        if node.name in items:
            found = items[node.name]
            outputs = [found.get(i) for i in range(max(found) + 1)]
        statements.append(Statement(node.op, node.args, node.kwargs, outputs))
    return statements


def _place_constants(module: Module, found: dict[str, str]) -> None:
    """Constants become variables of the modules that read them: equal ones of two modules are stored twice."""
    names: dict[str, str] = {}

    def placed(ref: Ref | DType) -> Ref | DType:
        if not isinstance(ref, Ref) or ref.kind != "constant":
            return ref
        name = names.setdefault(ref.name, f"constant_{len(names)}" if names else "constant")
        path = f"{module.path}.{name}" if module.path else name
        found[path] = ref.name
        module.variables[name] = "constant"
        return Ref("variable", path)

    for statement in module.statements:
        statement.args = map_refs(statement.args, placed)
        statement.kwargs = map_refs(statement.kwargs, placed)
    for child in module.children.values():
        _place_constants(child, found)
