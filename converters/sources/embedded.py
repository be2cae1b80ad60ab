"""Weights that ship with the project, in their torch architecture; what is known about them: `bundled_models`."""

from __future__ import annotations

import timm
from safetensors.torch import load_file
from torch import nn

from vtabjax import bundled
from vtabjax.bundled import check, describe, names  # noqa: F401
from vtabjax.specs import Spec

from . import Source


def build(spec: Spec, input_size: int | None) -> Source:
    """The torch module of a shipped model: its architecture with NAME/weights.safetensors."""
    info = describe(spec)
    module = _module(spec)
    module.load_state_dict(load_file(bundled.FOLDER / spec.name / "weights.safetensors"), strict=True)
    size = input_size or info["input_size"][1]
    return Source(module, {**info, "input_size": [info["input_size"][0], size, size]})


def parameters(spec: Spec) -> int:
    """The number of parameters."""
    return sum(p.numel() for p in _module(spec).parameters())


def _module(spec: Spec) -> nn.Module:
    source = bundled.read(spec.name)
    return timm.create_model(source["architecture"], **source.get("kwargs", {}))
