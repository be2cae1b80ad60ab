"""A converted model as source that a person can read: Flax NNX, and nothing of vtabjax."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vtabjax import __version__
from vtabjax.model.eject import _classes, _source, _structure
from vtabjax.model.eject._structure import EjectError
from vtabjax.runtime import files

if TYPE_CHECKING:
    from vtabjax.model.module import Model

__all__ = ["EjectError", "eject"]

_TEXT = '''"""{name}, from {spec}.

    import {stem}

    model = {stem}.load("{weights}")
    features = model(images)  # images in [0, 1], [B, {height}, {width}, {channels}]

{about}
"""

import jax
import jax.numpy as jnp
from flax import nnx
from safetensors.numpy import load_file

MEAN = {mean}
STD = {std}


def load(path):
    """The model with the weights of a .safetensors file."""
    weights = {{name: jnp.asarray(value) for name, value in load_file(path).items()}}
    return {root}(weights)


def under(weights, name):
    """The weights whose names begin with a module's name, without it."""
    start = f"{{name}}."
    return {{k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}}
'''
_ABOUT = (
    "Written by vtabjax {}. It runs in evaluation mode. Arrays are [B, C, H, W] inside, as in PyTorch, and variables "
    "have the names that they have there. Licence of the weights: {}."
)
_CALL = '''

    def __call__(self, images):
        """Features of images in [0, 1], [B, H, W, C]."""
        return self.outputs(images)["features"]
'''


def eject(model: Model, path: str | os.PathLike) -> Path:
    """Writes a model as Python source, and its weights beside it (.safetensors).

    The source imports jax, flax and safetensors only. Modules have the names that they have in PyTorch; those of the
    same structure share a class, whose constructor takes the numbers in which they differ. It computes what the model
    computes in evaluation mode: dropout is left out, and batch norm uses the running statistics.

    Args:
      model: what `vtabjax.load` gives.
      path: the file, such as "my_model.py".

    Returns:
      The file with the weights.

    Raises:
      EjectError: the model has an operator that cannot be written as source yet.
      ValueError: the file's name is no name of a Python module.
    """
    path = Path(path)
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise ValueError(f"{path}: give a file whose name can be imported, such as my_model.py")
    graph = _structure.simplified(model.graph)
    root, constants = _structure.modules(graph)
    info, weights = model.info, path.with_suffix(".safetensors")
    spec = str(info.get("spec") or "a model without a name")
    name = str(info.get("architecture") or spec.rpartition("/")[2])
    classes = _classes.Classes(root, _classes.camel(name))
    parts = [
        _source.class_text(c, classes, graph.outputs if c is classes.all[-1] else None) for c in classes.all
    ]
    body = "\n\n\n".join(parts) + _CALL
    channels, height, width = model.graph.input_size
    head = _TEXT.format(
        name=name, spec=spec, stem=path.stem, weights=weights.name, height=height, width=width, channels=channels,
        about=textwrap.fill(_ABOUT.format(__version__, info.get("license") or "not stated"), 88),
        mean=tuple(info["mean"]), std=tuple(info["std"]), root=classes.all[-1].name,
    )  # fmt: skip
    text = "\n\n\n".join([head.rstrip("\n"), *_source.helpers(body), body])
    values = {k: np.asarray(v) for k, v in model.variables.items()}
    values |= {place: np.asarray(model.graph.constants[constant]) for place, constant in constants.items()}
    _write_weights(weights, values)
    files.write_text(path, text)
    return weights


def _write_weights(path: Path, values: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as temporary:
        save_file({name: np.ascontiguousarray(value) for name, value in values.items()}, temporary)
