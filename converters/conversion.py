"""Model spec -> artefact on disk."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vtabjax import __version__, specs
from vtabjax.model import flops, save
from vtabjax.specs import pooling, weight_files

if TYPE_CHECKING:
    from torch import nn

    from vtabjax.graph import Graph

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
    operations, shapes = flops.count_with_shapes(graph)
    widths = {name: shape[1] for name, shape in shapes.items()}
    packages = [*_PACKAGES, *(p for name, p in _LOADED.items() if name in sys.modules)]
    info = {
        **source.info,
        "num_features": widths.get("features"),
        "num_classes": widths.get("logits"),
        "parameters": sum(int(np.prod(v.shape)) for v in graph.variables.values() if v.kind == "parameter"),
        "gflops": operations / 1e9,
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
