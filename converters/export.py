"""nn.Module -> (Graph, variables), by way of torch.export."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from vtabjax import ops
from vtabjax.graph import Graph

from . import stochastic_depth
from .blocks import Structure
from .fx_nodes import ExportError, to_numpy
from .graph_builder import Builder
from .outputs import Outputs, evaluating
from .outputs import structure as find_structure

_MAX_BATCH = 1 << 20


def from_torch(
    module: nn.Module,
    input_size: tuple[int, int, int] = (3, 224, 224),
    *,
    structure: Structure | None = None,
) -> tuple[Graph, dict[str, np.ndarray]]:
    """Turns a torch module into a graph and its variables.

    Args:
      module: a timm model, a torchvision classifier, or any module that maps images [B, C, H, W] to features (or to
        a dict with "features" and perhaps "logits"). It is traced in evaluation mode; its mode, parameters and
        buffers are left as they are. The graph has the dtype of its parameters.
      input_size: (channels, height, width) of the images. The batch size stays symbolic.
      structure: what `converters.outputs.structure` finds; by default it is looked for here.

    Returns:
      (graph, variables): variables are the state_dict's entries, {name: array}.

    Raises:
      ExportError: torch.export refuses the module, or it writes to memory in a way that is not understood.
      vtabjax.ops.UnknownOperatorError: it uses an operator that vtabjax.ops does not have.
    """
    channels, height, width = input_size
    dtype = next((t.dtype for t in _tensors(module) if t.is_floating_point()), torch.float32)
    try:
        wrapper = Outputs(module, find_structure(module, input_size) if structure is None else structure)
        with evaluating(wrapper), _ready(module), torch.enable_grad():
            program = torch.export.export(
                wrapper,
                (torch.zeros(2, channels, height, width, dtype=dtype),),
                dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=_MAX_BATCH)},),
            )
    except Exception as e:
        raise ExportError(f"torch.export cannot trace {type(module).__name__} at {input_size}: {e}") from e
    graph = Builder(program, dtype).build(module, wrapper.features_from, input_size)
    for node in graph.nodes:
        if not ops.is_known(node.op):
            ops.lookup(node.op, node.module)  # raises, with the way out
    return graph, {k: to_numpy(v) for k, v in module.state_dict().items()}


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


@contextlib.contextmanager
def _ready(module: nn.Module) -> Iterator[None]:
    """Keeps stochastic depth in the graph, and attention biases live."""
    with stochastic_depth.traced(module):
        for m in module.modules():
            # LeViT and EfficientFormerV2 read a cache of gathered biases unless they train; the cache is made from
            # the parameters, outside the graph.
            if hasattr(m, "attention_bias_cache"):
                m.training = True
        yield
