"""An exported program as a module that `export.from_torch` takes like any other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from .archive import ProgramError

_HOW = (
    "torch.export.export(module, (torch.zeros(2, 3, H, W),), "
    'dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))'
)
_SAME = ("flatten", "view", "squeeze", "dropout")


class ProgramModule(NamedTuple):
    """A program as a module.

    Attributes:
      module: returns a dict with "features" and perhaps "logits"; parameters have the names they were exported with.
      input_size: [C, H, W]; H and W are None where the program takes any.
      features: where these come from, in words.
    """

    module: nn.Module
    input_size: list[int | None]
    features: str


def as_module(program: torch.export.ExportedProgram, path: str, *, output: bool = False) -> ProgramModule:
    """Turns a program of images [B, 3, H, W] into a module.

    Args:
      program: with one input, and as output a tensor, or a dict with "features" and perhaps "logits".
      path: its file, for messages.
      output: the features are what it returns, also where that comes straight from a linear layer.

    Raises:
      ProgramError: it takes or returns something else, or takes no batch of any size.
    """
    size = _input_size(program, path)
    packed: Any = program.call_spec.out_spec
    names = list(packed.context) if packed.type is dict else None
    module: Any = program.module(check_guards=False)
    for name in (
        "train",
        "eval",
    ):  # refuse to be called, as a program has no modes; `export` sets and resets them
        module.__dict__.pop(name, None)
    node = next(n for n in module.graph.nodes if n.op == "output")
    found = list(node.args[0]) if isinstance(node.args[0], tuple | list) else [node.args[0]]
    if names is None and len(found) == 1:
        outputs, text = _of_tensor(found[0], output)
    elif names is not None and "features" in names:
        outputs = {k: v for k, v in zip(names, found, strict=True) if k in ("features", "logits")}
        text = "the program's own 'features'"
    else:
        what = f"a dict with {', '.join(map(str, names))}" if names else f"{len(found)} tensors"
        raise ProgramError(
            f'{path}: the program returns {what}; export a module that returns a tensor, or a dict with "features" and '
            'perhaps "logits"'
        )
    node.args = (outputs,)
    module.graph.set_codegen(fx.graph.CodeGen())
    module.recompile()
    return ProgramModule(module, size, text)


def _input_size(program: torch.export.ExportedProgram, path: str) -> list[int | None]:
    inputs = program.graph_signature.user_inputs
    values = {n.name: n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder"}
    image = values.get(inputs[0]) if len(inputs) == 1 and isinstance(inputs[0], str) else None
    if not isinstance(image, torch.Tensor) or image.ndim != 4 or image.shape[1] != 3:
        shapes = [list(v.shape) if isinstance(v := values.get(str(i)), torch.Tensor) else i for i in inputs]
        raise ProgramError(
            f"{path}: the program takes {shapes}; it has to take one batch of images [B, 3, H, W]"
        )
    if image.dtype != torch.float32:
        raise ProgramError(f"{path}: the program takes images in {image.dtype}; export the module in float32")
    if isinstance(image.shape[0], int):
        raise ProgramError(
            f"{path}: the program takes batches of {image.shape[0]} images and no others; export it with {_HOW}"
        )
    return [3, *(n if isinstance(n, int) else None for n in image.shape[2:])]


def _of_tensor(output: fx.Node, as_features: bool) -> tuple[Mapping[str, fx.Node], str]:
    node: Any = output
    while isinstance(node, fx.Node) and _operator(node) in _SAME:
        node = node.args[0]
    shape = output.meta["val"].shape
    if as_features or not isinstance(node, fx.Node) or _operator(node) != "linear" or len(shape) != 2:
        return {"features": output}, "the program's output"
    before: Any = node.args[0]
    width, classes = before.meta["val"].shape[-1], shape[1]
    text = f"input of the last linear layer ({width}); its output ({classes}) is the logits"
    return {"features": before, "logits": output}, text


def _operator(node: fx.Node) -> str:
    return str(node.target).split(".")[1] if str(node.target).startswith("aten.") else ""
