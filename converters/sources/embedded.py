"""Weights that ship with the project: converted artefacts or state_dicts under vtabjax/embedded/."""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path

import vtabjax
from converters.sources import Source
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


def build(spec: Spec, input_size: int | None) -> Source:
    """The torch module of a shipped model, from NAME/source.json and NAME/weights.safetensors.

    source.json holds {"architecture": timm's name, "kwargs": for its create_model, "input_size": H, "info":
    {mean, std, interpolation, crop_pct, num_classes, license, method, pretraining_data, weights}}.
    """
    import timm
    from safetensors.torch import load_file

    source = json.loads((path(spec.name) / "source.json").read_text())
    size = input_size or source["input_size"]
    module = timm.create_model(source["architecture"], **source.get("kwargs", {}))
    module.load_state_dict(load_file(path(spec.name) / "weights.safetensors"), strict=True)
    info = {"crop_mode": "center", **source["info"], "architecture": source["architecture"]}
    return Source(module, {**info, "input_size": [3, size, size]})


def _available() -> list[str]:
    if not FOLDER.is_dir():
        return []
    return sorted(p.name for p in FOLDER.iterdir() if (p / "source.json").is_file())
