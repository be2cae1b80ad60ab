"""A converted model as an `nnx.Module`, for interactive use."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vtabjax.graph import Graph
from vtabjax.model.running import Array, apply, normalise


class _Info(dict):
    """A dict that may be a static attribute of a module: NNX hashes those."""

    __hash__ = object.__hash__  # type: ignore[assignment]  # a dict says that it has none
    __eq__ = object.__eq__


class Model(nnx.Module):
    """A converted model as an NNX module: ``model(images)`` takes images in [0, 1] to features.

    Parameters are `nnx.Param`, running statistics `nnx.BatchStat`, other buffers `nnx.Variable`, each under its
    PyTorch name: ``model.params["layer1.0.conv1.weight"]``.

    Attributes:
      graph: the computation.
      info: what model.json holds: spec, input_size, mean, std, num_features, num_classes, weight_hash, ...
    """

    def __init__(self, graph: Graph, variables: Mapping[str, Array], info: Mapping[str, Any]):
        self.graph = graph
        self.info = _Info(info)
        kinds = {"parameter": nnx.Param, "batch_stat": nnx.BatchStat, "buffer": nnx.Variable}
        made = {k: kinds[v.kind](jnp.asarray(variables[k])) for k, v in graph.variables.items()}
        self.params = nnx.Dict({k: v for k, v in made.items() if graph.variables[k].kind == "parameter"})
        self.buffers = nnx.Dict({k: v for k, v in made.items() if graph.variables[k].kind != "parameter"})

    def __repr__(self) -> str:
        n = sum(variable.get_value().size for variable in self.params.values())
        _, height, width = self.graph.input_size
        taken = f"images [B, {height}, {width}, 3] in [0, 1]"
        name, d = self.info.get("spec", "of your own"), self.info.get("num_features", "?")
        return f"Model({name}: {n / 1e6:.2f} M parameters, {taken} -> features [B, {d}])"

    __str__ = __repr__  # not that of nnx.Module, which has all arrays

    @property
    def variables(self) -> dict[str, jax.Array]:
        """{state_dict name: array}, in the state_dict's order."""
        return {
            k: (self.params if v.kind == "parameter" else self.buffers)[k].get_value()
            for k, v in self.graph.variables.items()
        }

    def outputs(
        self, images: Array, *, train: bool = False, rng: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """ "features" [B, D] and, where there is a classifier, "logits" [B, K] of images [B, H, W, C] in [0, 1].

        Under `train` the running statistics are updated in place.

        Raises:
          ValueError: images of another shape or dtype, or with values far beyond [0, 1] (under jit nobody looks at
            values).
        """
        _check_images(images, self.graph.input_size)
        outputs, updates = apply(
            self.graph, self.variables, normalise(images, self.info), train=train, rng=rng
        )
        for name, value in updates.items():
            self.buffers[name].set_value(value)
        return outputs

    def __call__(self, images: Array, *, train: bool = False, rng: jax.Array | None = None) -> jax.Array:
        """Features [B, D] of images [B, H, W, C] in [0, 1]. Errors: those of `outputs`."""
        return self.outputs(images, train=train, rng=rng)["features"]

    def eject(self, path: str | os.PathLike) -> Path:
        """Writes the model as readable source that needs no vtabjax, and its weights beside it.

        Args:
          path: the file, such as "my_model.py".

        Returns:
          The file with the weights, "my_model.safetensors".

        Raises:
          vtabjax.model.eject.EjectError: it has an operator that cannot be written as source yet.
        """
        from vtabjax.model.eject import eject

        return eject(self, path)


# Resampling overshoots [0, 1] a little; images of 0 to 255 and normalised ones are far beyond.
_LOWEST, _HIGHEST = -0.5, 1.5


def _check_images(images: Array, input_size: tuple[int, ...]) -> None:
    """Refuses what people pass by mistake: bytes, images that are normalised already, channels first."""
    images = images if hasattr(images, "dtype") else np.asarray(images)
    channels, height, width = input_size
    taken = f"this model takes [B, {height}, {width}, {channels}]"
    shape = tuple(images.shape)
    if shape[1:] == input_size and shape[1:] != (height, width, channels):
        raise ValueError(
            f"images have shape {list(shape)}, channels first; {taken}: np.moveaxis(images, 1, -1)"
        )
    if shape == (height, width, channels):
        raise ValueError(f"images have shape {list(shape)}, a single image; {taken}: images[None]")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images are {images.dtype}; a model takes floating-point images in [0, 1]: divide by 255 (images / 255)"
        )
    if isinstance(images, jax.core.Tracer) or not images.size:
        return
    least, most = float(images.min()), float(images.max())
    if not (least >= _LOWEST and most <= _HIGHEST):
        raise ValueError(
            f"images range from {least:.4g} to {most:.4g}; a model takes images in [0, 1] and normalises them itself: "
            "divide 0 ... 255 by 255, and leave out any normalisation"
        )
