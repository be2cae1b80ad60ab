"""What the nodes of torch.fx's graphs say: operator, module, dtype, uses."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import torch
from torch import fx


class ExportError(RuntimeError):
    """A module that cannot be turned into a graph."""


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A copy of a tensor's values; NumPy has bfloat16 from ml_dtypes."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16).copy()
    return np.array(tensor.numpy(), copy=True, order="C")


def op_name(target: Any) -> tuple[str, str]:
    """("aten.max.dim", "max") for an ATen operator, ("operator.mul", "operator.mul") for a Python one."""
    if isinstance(target, torch._ops.OpOverload):
        namespace, name = target._schema.name.split("::")
        return f"{namespace}.{name}.{target._overloadname}", name
    names = {math.floor: "operator.floor", math.ceil: "operator.ceil"}
    if target in names:
        return names[target], names[target]
    name = getattr(target, "__name__", str(target))
    if getattr(operator, name, None) is target:
        return f"operator.{name}", f"operator.{name}"
    if name in ("sym_max", "sym_min", "sym_int", "sym_float", "sym_not"):
        return f"aten.{name}.default", name
    raise ExportError(f"the exported graph calls {target}, which is not an ATen operator")


def module_path(node: fx.Node) -> str:
    """Path of the torch module a node was traced in; "" for the module itself."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    path = paths[-1] if paths else ""
    path = path.replace("L['self'].", "").removeprefix("L__self__").lstrip(".")
    return path.removeprefix("module").lstrip(".") if path.startswith("module") else path


def dtype_of(node: fx.Node) -> torch.dtype:
    """The dtype of what a node computes."""
    return node.meta["val"].dtype


def is_used_after(node: fx.Node, writer: fx.Node) -> bool:
    """Whether something after `writer` reads `node`; true where that cannot be told."""
    if node.graph is not writer.graph:
        return True
    return any(user > writer for user in node.users)


def as_list(value: Any) -> Any:
    """Tuples, nested ones too, as the lists that operators take."""
    return [as_list(v) for v in value] if isinstance(value, tuple) else value
