"""torch.export's graph -> Graph.

torch.export's training IR keeps what the graph needs to train (batch_norm, dropout), and in-place operators with
it. Here it becomes a functional list of operator calls: writes into a tensor become new values, what depends on
neither input nor variables is computed once and stored, no-ops, repetitions and unused outputs go.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx, nn

from vtabjax import ops
from vtabjax.graph import DType, Graph, Node, Ref, Variable, node_refs, refs

from .fx_nodes import ExportError, as_list, dtype_of, is_used_after, module_path, op_name, to_numpy
from .outputs import LAST_LINEAR

_INPLACE_EXCEPTIONS = {"copy_": "copy", "fill_": "full_like", "zero_": "zeros_like"}


# Operators whose output is their first argument, unchanged as far as values go.
_IDENTITIES = {
    "alias", "clone", "contiguous", "lift_fresh_copy", "lift_fresh", "detach_", "alias_copy", "to_dense",
}  # fmt: skip


_CHECKS = {
    "_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range_for_size",
    "sym_constrain_range",
}  # fmt: skip


_VIEWS = {
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "t",
    "swapaxes", "movedim", "expand", "expand_as", "select", "slice", "narrow", "chunk", "split", "split_with_sizes",
    "unbind", "detach", "view_as", "diagonal", "unfold", "numpy_T", "tensor_split", "broadcast_to",
}  # fmt: skip


_DROPPED_KWARGS = {"device", "layout", "memory_format", "pin_memory", "non_blocking", "copy", "requires_grad"}


_RANDOM = {"dropout", "feature_dropout", "stochastic_depth"}


class Builder:
    """Walks torch.export's graph and writes ours.

    `env` holds for every fx node what it stands for: a Ref, a torch tensor (a constant, not yet part of the graph),
    a number, or a tuple of those.
    """

    def __init__(self, program: torch.export.ExportedProgram, dtype: torch.dtype):
        self.program = program
        self.dtype = dtype
        self.env: dict[fx.Node, Any] = {}
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self.stored: dict[tuple, str] = {}  # content of a constant -> its name
        self.seen: dict[str, Any] = {}  # call -> Ref of the node that makes it
        self.names: set[str] = {"input"}
        self.base: dict[fx.Node, fx.Node] = {}  # view -> what it looks at

    def build(self, module: nn.Module, features_from: str, input_size: tuple[int, int, int]) -> Graph:
        """The graph of `module`, of which `program` was exported; `features_from` as in `Outputs`."""
        gm = self.program.graph_module
        self._placeholders(gm)
        outputs = self._run(gm)
        refs_out = {k: self._ref(v) for k, v in outputs.items() if v is not None}
        choices = {k: refs_out.pop(k) for k in list(refs_out) if k.startswith("features:")}
        if features_from == LAST_LINEAR:
            refs_out = self._features_before_last_linear(refs_out["logits"])
        refs_out = {k: refs_out[k] for k in ("features", "logits") if k in refs_out}
        nodes = self._live({**refs_out, **choices})
        used = {r.name for n in nodes for r in node_refs(n) if r.kind == "constant"}
        used |= {r.name for r in (*refs_out.values(), *choices.values()) if r.kind == "constant"}
        return Graph(
            nodes=tuple(nodes),
            outputs=refs_out,
            choices=choices,
            variables=_variables(module, nodes),
            constants={k: v for k, v in self.constants.items() if k in used},
            input_size=input_size,
            dtype=str(self.dtype).removeprefix("torch."),
        )

    # What goes in.

    def _placeholders(self, gm: fx.GraphModule) -> None:
        signature = self.program.graph_signature
        named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        lifted = signature.inputs_to_lifted_tensor_constants
        state = self.program.state_dict
        for node in gm.graph.nodes:
            if node.op != "placeholder":
                continue
            if node.name in named:
                target = named[node.name]
                if target in signature.non_persistent_buffers:
                    self.env[node] = self.program.constants[target]
                elif target in state:
                    self.env[node] = Ref("variable", target.removeprefix("module."))
                else:
                    raise ExportError(f"{target} is not in the state_dict")
            elif node.name in lifted:
                self.env[node] = self.program.constants[lifted[node.name]]
            else:
                self.env[node] = Ref("value", "input")

    # The walk.

    def _run(self, gm: fx.GraphModule) -> Any:
        """Runs the nodes of a graph module whose placeholders are in `env`; returns its output's values."""
        for node in gm.graph.nodes:
            if node.op == "placeholder":
                continue
            if node.op == "output":
                values = list(self._values(node.args[0]))
                names = self._output_names() if gm is self.program.graph_module else None
                return dict(zip(names, values, strict=True)) if names else values
            if node.op == "get_attr":
                target = gm
                for part in node.target.split("."):
                    target = getattr(target, part)
                self.env[node] = target
            elif node.op == "call_function":
                self.env[node] = self._call(node)
            else:
                raise ExportError(f"unexpected {node.op} node {node.format_node()}")
        raise ExportError("the exported graph has no output")

    def _output_names(self) -> list[str]:
        spec = self.program.call_spec.out_spec
        return list(spec.context)

    def _call(self, node: fx.Node) -> Any:
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            return self._inline(node)
        op, name = op_name(node.target)
        if name in _CHECKS:
            return None
        args = self._values(node.args)
        kwargs = {k: v for k, v in self._values(node.kwargs).items() if k not in _DROPPED_KWARGS}
        if name == "operator.getitem" and not isinstance(args[0], Ref):
            self._view_of(node)
            return args[0][args[1]]
        if name in ("contiguous", "clone") and isinstance(args[0], torch.Tensor):
            if name == "contiguous":
                self._view_of(node)
            return self._evaluate(node, args, self._values(node.kwargs))  # a later view needs its strides
        if name in _IDENTITIES or self._is_identity(node, name, args):
            if name not in ("clone", "lift_fresh_copy", "alias_copy"):
                self._view_of(node)
            elif isinstance(args[0], torch.Tensor):
                return args[0].clone()
            return args[0]
        if name in _VIEWS:
            self._view_of(node)
        inplace = name.endswith("_") and not name.endswith("__") and not op.startswith("operator.")
        if not any(True for _ in refs((args, kwargs))):
            return self._evaluate(node, args, self._values(node.kwargs))
        if inplace:
            return self._write(node, op, name, args, kwargs)
        return self._emit(node, op, args, kwargs)

    def _values(self, tree: Any) -> Any:
        if isinstance(tree, fx.Node):
            return self.env[tree]
        if isinstance(tree, dict):
            return {k: self._values(v) for k, v in tree.items()}
        if isinstance(tree, (tuple, list)):
            return tuple(self._values(v) for v in tree)
        return tree

    def _inline(self, node: fx.Node) -> Any:
        """wrap_with_set_grad_enabled and the like: (setting, sub-graph, *arguments)."""
        if "wrap_with_set_grad_enabled" not in str(node.target) and "wrap_with_autocast" not in str(
            node.target
        ):
            raise ExportError(
                f"higher-order operator {node.target} in {module_path(node)!r} is not supported"
            )
        position, sub = next(
            (i, self.env[a])
            for i, a in enumerate(node.args)
            if isinstance(a, fx.Node) and isinstance(self.env[a], fx.GraphModule)
        )
        values = node.args[position + 1 :]
        places = [n for n in sub.graph.nodes if n.op == "placeholder"]
        for place, value in zip(places, values, strict=True):
            self.env[place] = self._values(value)
            if isinstance(value, fx.Node):
                self.base[place] = value
        return tuple(self._run(sub))

    def _evaluate(self, node: fx.Node, args: tuple, kwargs: dict) -> Any:
        """Constants only: run for real. In-place operators then do what they do."""
        args = tuple(as_list(a) for a in args)
        operator: Any = node.target
        with torch.no_grad():
            result = operator(*args, **{k: as_list(v) for k, v in kwargs.items()})
        return tuple(result) if isinstance(result, (list, tuple)) else result

    def _is_identity(self, node: fx.Node, name: str, args: tuple) -> bool:
        if name in ("dropout", "feature_dropout", "dropout_", "feature_dropout_"):
            return args[1] == 0
        if name in ("to", "_to_copy", "type_as"):
            return isinstance(node.args[0], fx.Node) and dtype_of(node) == dtype_of(node.args[0])
        if name == "stochastic_depth":
            return args[1] == 0
        return False

    # Views and writes.

    def _view_of(self, node: fx.Node) -> None:
        if node.args and isinstance(node.args[0], fx.Node):
            self.base[node] = node.args[0]

    def _write(self, node: fx.Node, op: str, name: str, args: tuple, kwargs: dict) -> Any:
        """An in-place operator: a new value takes the written one's place, and its bases' places."""
        target: Any = node.args[0]
        pure = name.removesuffix("_")
        namespace, _, overload = op.split(".")
        if name in _INPLACE_EXCEPTIONS:
            pure = _INPLACE_EXCEPTIONS[name]
            if name == "copy_":
                args = args[:2]  # the third says non_blocking
            overload = "default"
        new_op = f"{namespace}.{pure}.{overload}"
        result = self._emit(node, new_op, args, kwargs)
        self._replace(target, result, node)
        self.base[node] = target
        return result

    def _replace(self, target: fx.Node, value: Any, writer: fx.Node) -> None:
        """`target`, just written by `writer`, has `value` from here on; so have the tensors it is a view of."""
        self._refuse_stale_views(target, writer)
        self.env[target] = value
        base = self.base.get(target)
        if base is None or not isinstance(self.env.get(base), (Ref, torch.Tensor)):
            return
        op, name = op_name(target.target) if target.op == "call_function" else ("", "identity")
        whole, args = self.env[base], self._values(target.args)
        if name in ("slice", "select"):
            updated = self._emit(writer, f"aten.{name}_scatter.default", (whole, value, *args[1:]), {})
        elif name in ("view", "reshape", "flatten", "squeeze", "unsqueeze", "_unsafe_view", "unflatten"):
            updated = self._emit(writer, "aten.view_as.default", (value, whole), {})
        elif name == "permute":
            inverse = tuple(int(i) for i in np.argsort([d % len(args[1]) for d in args[1]]))
            updated = self._emit(writer, "aten.permute.default", (value, inverse), {})
        elif name == "transpose":
            updated = self._emit(writer, "aten.transpose.int", (value, *args[1:]), {})
        elif name == "identity" or name in _IDENTITIES | _RANDOM or name.endswith("_") or name == "to":
            updated = value
        elif not is_used_after(base, writer):
            return
        else:
            raise ExportError(
                f"{writer.format_node()} in {module_path(writer)!r} writes through a {name} view; "
                "converters/graph_builder.py has no inverse for it"
            )
        self._replace(base, updated, writer)

    def _refuse_stale_views(self, target: fx.Node, writer: fx.Node) -> None:
        """Other views of a written tensor would show the write in PyTorch, but hold the old value here."""
        chain = {target}
        node = target
        while node in self.base:
            node = self.base[node]
            chain.add(node)
        for view, base in self.base.items():
            if base is not target or view in chain or view is writer:
                continue
            if self._on_the_way(view, writer):
                continue
            if is_used_after(view, writer):
                raise ExportError(
                    f"{writer.format_node()} in {module_path(writer)!r} writes to a tensor of which the view "
                    f"{view.name} is used later; converters/graph_builder.py does not follow that"
                )

    def _on_the_way(self, view: fx.Node, writer: fx.Node) -> bool:
        """Whether `view` is what the writer wrote to, or lies between that and the base."""
        node: Any = writer.args[0]
        while node is not None:
            if node is view:
                return True
            node = self.base.get(node)
        return False

    # What comes out.

    def _ref(self, value: Any) -> Any:
        """`value` as a node's argument: tensors become named constants, dtypes DTypes."""
        if isinstance(value, torch.Tensor):
            return self._store(value)
        if isinstance(value, torch.dtype):
            return DType(str(value).removeprefix("torch."))
        if isinstance(value, (Ref, DType)):
            return value
        if isinstance(value, dict):
            return {k: self._ref(v) for k, v in value.items()}
        if isinstance(value, (tuple, list)):
            return tuple(self._ref(v) for v in value)
        if isinstance(value, (torch.device, torch.layout, torch.memory_format)):
            return None
        return value

    def _store(self, tensor: torch.Tensor) -> Ref:
        array = to_numpy(tensor)
        content = (array.dtype.name, array.shape, array.tobytes())
        if content not in self.stored:
            name = f"constant_{len(self.stored)}"
            self.stored[content] = name
            self.constants[name] = array
        return Ref("constant", self.stored[content])

    def _emit(self, node: fx.Node, op: str, args: tuple, kwargs: dict) -> Any:
        name = ops.split_name(op)[0]
        if name in ("to", "_to_copy", "type_as"):
            op, args, kwargs = "aten._to_copy.default", args[:1], {"dtype": dtype_of(node)}
        args, kwargs = self._ref(args), self._ref(kwargs)
        while args and args[-1] is None and name in ("arange", "zeros", "ones", "full", "empty"):
            args = args[:-1]
        key = repr((op, args, sorted(kwargs.items())))
        if name not in _RANDOM and key in self.seen:
            return self.seen[key]
        unique = node.name
        while unique in self.names:
            unique += "_"
        self.names.add(unique)
        self.nodes.append(Node(unique, op, args, kwargs, module_path(node)))
        ref = Ref("value", unique)
        self.seen[key] = ref
        return ref

    def _features_before_last_linear(self, logits: Ref) -> dict[str, Ref]:
        made = {n.name: n for n in self.nodes}
        node = made.get(logits.name)
        while node is not None and ops.split_name(node.op)[0] in ("flatten", "view", "squeeze", "dropout"):
            node = made.get(node.args[0].name)
        if node is None or ops.split_name(node.op)[0] != "linear":
            return {"features": logits}
        return {"features": node.args[0], "logits": logits}

    def _live(self, outputs: dict[str, Ref]) -> list[Node]:
        needed = {r.name for r in outputs.values() if r.kind == "value"}
        kept = []
        for node in reversed(self.nodes):
            if node.name in needed:
                kept.append(node)
                needed.update(r.name for r in node_refs(node) if r.kind == "value")
        return kept[::-1]


def _variables(module: nn.Module, nodes: list[Node]) -> dict[str, Variable]:
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    statistics = set()
    for node in nodes:
        if ops.split_name(node.op)[0] == "batch_norm" and isinstance(node.args[3], Ref):
            mean = node.args[3].name
            statistics |= {mean, node.args[4].name, mean.removesuffix("running_mean") + "num_batches_tracked"}
    result = {}
    for name, tensor in module.state_dict().items():
        kind = "parameter" if name in parameters else "batch_stat" if name in statistics else "buffer"
        result[name] = Variable(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), kind)
    return result
