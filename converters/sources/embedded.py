"""Weights that ship with the project: converted artefacts or state_dicts under vtabjax/embedded/."""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import load_file
from torch import nn

import vtabjax
from converters.sources import Source
from converters.sources.timm import family
from vtabjax.specs import Spec, SpecError

FOLDER = Path(vtabjax.__file__).parent / "embedded"


def names(spec: Spec) -> list[str]:
    """The shipped models that match."""
    return [] if spec.random else fnmatch.filter(_available(), spec.name)


def check(spec: Spec) -> None:
    """Raises SpecError unless the model ships with the project."""
    if spec.name not in _available():
        have = ", ".join(f"embedded/{n}" for n in _available()) or "none in this version"
        raise SpecError(f"model {str(spec)!r} does not ship with the project; embedded models: {have}")
    if spec.tag or spec.file or spec.random:
        raise SpecError(
            f"model {str(spec)!r}: an embedded model brings its own weights; write embedded/{spec.name}"
        )


def path(name: str) -> Path:
    """The folder of a shipped model."""
    return FOLDER / name


def describe(spec: Spec) -> dict[str, Any]:
    """What is known about a shipped model: its NAME/source.json.

    source.json holds {"architecture": name in timm, "kwargs": for its create_model, "info": {weights,
    input_size, mean, std, interpolation, crop_pct, num_classes, license, method, pretraining_data}}.
    """
    source = _read(spec)
    return {
        "architecture": source["architecture"],
        "family": family(source["architecture"]),
        "crop_mode": "center",
        **source["info"],
    }


def build(spec: Spec, input_size: int | None) -> Source:
    """The torch module of a shipped model: its architecture with NAME/weights.safetensors."""
    info = describe(spec)
    module = _module(spec)
    module.load_state_dict(load_file(path(spec.name) / "weights.safetensors"), strict=True)
    size = input_size or info["input_size"][1]
    return Source(module, {**info, "input_size": [info["input_size"][0], size, size]})


def parameters(spec: Spec) -> int:
    """The number of parameters."""
    return sum(p.numel() for p in _module(spec).parameters())


def _read(spec: Spec) -> dict[str, Any]:
    return json.loads((path(spec.name) / "source.json").read_text())


def _module(spec: Spec) -> nn.Module:
    source = _read(spec)
    return timm.create_model(source["architecture"], **source.get("kwargs", {}))


def _available() -> list[str]:
    if not FOLDER.is_dir():
        return []
    return sorted(p.name for p in FOLDER.iterdir() if (p / "source.json").is_file())
