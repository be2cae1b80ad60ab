"""The graph of a converted model as plain data, and its JSON form.

A graph is a list of operator calls in execution order. Operators are ATen's (``aten.conv2d.default``),
called with ATen's own arguments; ``vtabjax.ops`` has the functions, ``vtabjax.model.apply`` runs them.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

FORMAT = 1


class Ref(NamedTuple):
    """A use of something that has a name.

    Attributes:
      kind: "value" (output of a node, or "input"), "variable" (a state_dict entry) or "constant".
      name: its name within the kind.
    """

    kind: str
    name: str


class DType(NamedTuple):
    """A dtype argument, by numpy's name. The graph's own dtype stands for "the dtype of the inputs"."""

    name: str


class Node(NamedTuple):
    """One operator call. `args` and `kwargs` hold Refs, DTypes, numbers, strings, None and tuples of them."""

    name: str
    op: str
    args: tuple
    kwargs: Mapping[str, Any]
    module: str = ""  # path of the torch module it was traced in, for messages


class Variable(NamedTuple):
    """A state_dict entry. `kind`: "parameter", "batch_stat" (updated under train=True) or "buffer"."""

    shape: tuple[int, ...]
    dtype: str
    kind: str


@dataclasses.dataclass(frozen=True, eq=False)  # by identity: a static argument of jit is hashed
class Graph:
    """A model's computation.

    Attributes:
      nodes: operator calls in execution order.
      outputs: "features" [B, D] and, where the source has a classifier, "logits" [B, K].
      variables: the state_dict's entries, in its order.
      constants: arrays that depend on neither inputs nor variables.
      input_size: (channels, height, width) the graph was traced at.
      dtype: floating dtype it was traced in.
      choices: what can be made outputs besides: features of other blocks, pooled in other ways, by names such as
        "features:layer=9+pool=avg". `select` does that; nothing computes them before.
    """

    nodes: tuple[Node, ...]
    outputs: Mapping[str, Ref]
    variables: Mapping[str, Variable]
    constants: Mapping[str, np.ndarray]
    input_size: tuple[int, int, int]
    dtype: str = "float32"
    choices: Mapping[str, Ref] = dataclasses.field(default_factory=dict)

    def select(self, outputs: Mapping[str, str]) -> Graph:
        """The part of the graph that computes some outputs.

        Args:
          outputs: {name: which of this graph's outputs or choices it is}.

        Raises:
          KeyError: there is no such output.
        """
        there = {**self.outputs, **self.choices}
        chosen = {name: there[which] for name, which in outputs.items()}
        nodes = _computing(self.nodes, chosen.values())
        used = {ref for node in nodes for ref in node_refs(node)} | set(chosen.values())
        variables = {ref.name for ref in used if ref.kind == "variable"}
        # Beside each running mean there is a counter that no operator reads.
        variables |= {n.removesuffix("running_mean") + "num_batches_tracked" for n in variables}
        return dataclasses.replace(
            self,
            nodes=nodes,
            outputs=chosen,
            choices={},
            variables={k: v for k, v in self.variables.items() if k in variables},
            constants={k: v for k, v in self.constants.items() if Ref("constant", k) in used},
        )

    @functools.cached_property
    def live(self) -> frozenset[str]:
        """Names of the nodes that the outputs need; the others serve `choices`."""
        return frozenset(node.name for node in _computing(self.nodes, self.outputs.values()))

    def to_json(self) -> str:
        """The graph as JSON text, one node a line."""
        nodes = ",\n  ".join(
            json.dumps(
                {
                    "name": n.name,
                    "op": n.op,
                    "args": [_encode(a) for a in n.args],
                    **({"kwargs": {k: _encode(v) for k, v in n.kwargs.items()}} if n.kwargs else {}),
                    **({"module": n.module} if n.module else {}),
                }
            )
            for n in self.nodes
        )
        variables = ",\n  ".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in self.variables.items())
        constants = ",\n  ".join(
            f"{json.dumps(k)}: {json.dumps(_encode_array(v))}" for k, v in self.constants.items()
        )
        outputs = json.dumps({k: _encode(v) for k, v in self.outputs.items()})
        if self.choices:
            outputs += f',\n"choices": {json.dumps({k: _encode(v) for k, v in self.choices.items()})}'
        return (
            f'{{"format": {FORMAT},\n"input_size": {json.dumps(list(self.input_size))},\n'
            f'"dtype": "{self.dtype}",\n"outputs": {outputs},\n"nodes": [\n  {nodes}\n],\n'
            f'"variables": {{\n  {variables}\n}},\n"constants": {{\n  {constants}\n}}}}\n'
        )

    @classmethod
    def from_json(cls, text: str) -> Graph:
        """Reads `to_json`'s text. Raises ValueError for another format."""
        data = json.loads(text)
        if data.get("format") != FORMAT:
            raise ValueError(
                f"graph format {data.get('format')!r} is not {FORMAT}, the one this version reads; "
                "convert the model again"
            )
        return cls(
            nodes=tuple(
                Node(
                    n["name"],
                    n["op"],
                    tuple(_decode(a) for a in n["args"]),
                    {k: _decode(v) for k, v in n.get("kwargs", {}).items()},
                    n.get("module", ""),
                )
                for n in data["nodes"]
            ),
            outputs={k: _decode(v) for k, v in data["outputs"].items()},
            choices={k: _decode(v) for k, v in data.get("choices", {}).items()},
            variables={k: Variable(tuple(s), d, kind) for k, (s, d, kind) in data["variables"].items()},
            constants={k: _decode_array(v) for k, v in data["constants"].items()},
            input_size=tuple(data["input_size"]),
            dtype=data["dtype"],
        )

    def operators(self) -> list[str]:
        """The distinct operator names, sorted."""
        return sorted({n.op for n in self.nodes})


def _computing(nodes: tuple[Node, ...], outputs: Iterable[Ref]) -> tuple[Node, ...]:
    """The nodes that some values need, in their order."""
    wanted = {ref.name for ref in outputs if ref.kind == "value"}
    kept = []
    for node in reversed(nodes):
        if node.name in wanted:
            kept.append(node)
            wanted.update(ref.name for ref in node_refs(node) if ref.kind == "value")
    return tuple(reversed(kept))


def refs(tree: Any) -> Iterator[Ref]:
    """All Refs within a node's argument or tuple of arguments."""
    if isinstance(tree, Ref):
        yield tree
    elif isinstance(tree, DType):
        return
    elif isinstance(tree, Mapping):
        for item in tree.values():
            yield from refs(item)
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from refs(item)


def node_refs(node: Node) -> Iterator[Ref]:
    """All Refs a node uses."""
    yield from refs(node.args)
    yield from refs(node.kwargs)


def map_refs(tree: Any, function: Callable[[Ref | DType], Any]) -> Any:
    """`tree` with every Ref and DType replaced by ``function(it)``."""
    if isinstance(tree, (Ref, DType)):
        return function(tree)
    if isinstance(tree, Mapping):
        return {k: map_refs(v, function) for k, v in tree.items()}
    if isinstance(tree, (tuple, list)):
        return tuple(map_refs(item, function) for item in tree)
    return tree


_REF_KEYS = {"value": "ref", "variable": "var", "constant": "const"}
_REF_KINDS = {v: k for k, v in _REF_KEYS.items()}


def _encode(arg: Any) -> Any:
    if isinstance(arg, Ref):
        return {_REF_KEYS[arg.kind]: arg.name}
    if isinstance(arg, DType):
        return {"dtype": arg.name}
    if isinstance(arg, (tuple, list)):
        return [_encode(a) for a in arg]
    if isinstance(arg, float) and not math.isfinite(arg):
        return {"float": repr(arg)}  # JSON has no infinities
    if arg is None or isinstance(arg, (bool, int, float, str)):
        return arg
    raise TypeError(f"cannot write {arg!r} of type {type(arg).__name__} into a graph")


def _decode(arg: Any) -> Any:
    if isinstance(arg, list):
        return tuple(_decode(a) for a in arg)
    if isinstance(arg, dict):
        ((key, value),) = arg.items()
        if key == "dtype":
            return DType(value)
        if key == "float":
            return float(value)
        return Ref(_REF_KINDS[key], value)
    return arg


def _encode_array(array: np.ndarray) -> dict[str, Any]:
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "base64": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode(),
    }


def _decode_array(data: Mapping[str, Any]) -> np.ndarray:
    raw = np.frombuffer(base64.b64decode(data["base64"]), dtype=data["dtype"])
    return raw.reshape(data["shape"])
