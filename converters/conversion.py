"""Model spec -> artefact on disk."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vtabjax import __version__, specs
from vtabjax.graph import Graph
from vtabjax.model import flops, save
from vtabjax.specs import pooling, weight_files

if TYPE_CHECKING:
    from torch import nn

_LISTED = 50  # names of tensors that were left out; "checkpoint" has their number
_PACKAGES = ("torch", "torchvision", "timm")
_LOADED = {
    "transformers": "transformers",
    "open_clip": "open_clip_torch",
}  # recorded where the model needed them


def convert(
    spec: str, out_dir: str | os.PathLike, *, input_size: int | None = None, verify: bool = True
) -> Path:
    """Builds the torch model of a spec, turns it into a Flax model, compares the two and saves the latter.

    Args:
      spec: a model spec, such as ``timm/resnet50.a1_in1k``. One conversion serves all its ``#pool=`` and ``#layer=``.
      out_dir: the artefact is a folder in there, named after the spec and the input size.
      input_size: height and width of the images; None for the size the weights were made for.
      verify: compare with the torch model first.

    Returns:
      The artefact's path.

    Raises:
      vtabjax.specs.SpecError: the spec names nothing, its weights cannot be had, or it asks for features that the
        model does not have.
      converters.ExportError, vtabjax.ops.UnknownOperatorError: the model cannot be turned into a graph.
      converters.ParityError: the Flax model differs from the torch model; nothing is saved.
    """
    from . import sanity, sources
    from .export import from_torch
    from .outputs import structure as find_structure
    from .verify import verify as measure

    asked, spec = specs.parse(spec), str(specs.parse(spec).base)
    source = sources.build(spec, input_size)
    stem = specs.file_stem(spec, Path(out_dir) / weight_files.STORE)
    path = Path(out_dir) / f"{stem}-{source.info['input_size'][1]}"
    # One that appears meanwhile stays: whoever made it may be reading it.
    replace = (path / "model.json").exists()
    size = tuple(source.info["input_size"])
    structure = find_structure(source.module, size)
    graph, variables = from_torch(source.module, size, structure=structure)
    packages = [*_PACKAGES, *(p for name, p in _LOADED.items() if name in sys.modules)]
    info = {
        **source.info,
        "num_features": _width(graph, variables, "features"),
        "num_classes": _width(graph, variables, "logits"),
        "parameters": sum(int(np.prod(v.shape)) for v in graph.variables.values() if v.kind == "parameter"),
        "gflops": flops.gflops(graph),
        "parity": measure(source.module, graph, variables, structure=structure) if verify else None,
        "feature_choices": structure.describe(),
        "no_weight_decay": _no_weight_decay(source.module, graph),
        "versions": {"vtabjax": __version__, **{p: importlib.metadata.version(p) for p in packages}},
    }
    pooling.output(asked, info)
    if asked.file is not None:
        info["sanity"] = sanity.check(graph, variables, info)
        info["dropped_keys"] = info["dropped_keys"][:_LISTED]
    return save(path, graph, variables, info, replace=replace)


def _no_weight_decay(module: nn.Module, graph: Graph) -> list[str]:
    """Parameters, besides biases and norms, that the library trains without weight decay, as timm's classes say it."""
    named = getattr(module, "no_weight_decay", None)
    return sorted(set(named()) & set(graph.variables)) if callable(named) else []


def _width(graph: Graph, variables: Mapping[str, np.ndarray], output: str) -> int | None:
    import jax

    from vtabjax.model import apply

    if output not in graph.outputs:
        return None
    channels, height, width = graph.input_size
    images = jax.ShapeDtypeStruct((1, height, width, channels), np.dtype(graph.dtype))
    shapes = jax.eval_shape(lambda v, x: apply(graph, v, x)[0], variables, images)
    return int(shapes[output].shape[1])
