"""One pass of a model over images, sharded over the devices."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vtabjax import model
from vtabjax.features import device_images
from vtabjax.model import compiling, hoist
from vtabjax.ops import trials
from vtabjax.runtime import bars, devices, xla_cpu

DTYPES = ("float32", "bfloat16")


class Extractor:
    """A model as a function from images to features, compiled once whatever the number of images.

    Every batch has the same shape, split over the mesh's "data" axis: the last one is filled up with copies
    of its first image, whose outputs are dropped. Images travel as uint8 and are normalised on the device. When
    the device's memory does not suffice, images that stay there give way, then the batch is halved, for this and
    all later calls.

    With several processes the mesh is that of all of them: each reads its part of the images, all get all features.

    Args:
      parts: graph, variables and info of a converted model.
      mesh: devices to use (all there are by default).
      batch_size: images per step over all devices; rounded up to a multiple of the number of devices.
      dtype: "float32" (products in full float32 on every device) or "bfloat16".
      images: where batches come from that stay on the devices; by default each is sent when it is needed.
      outputs: of the graph's outputs and choices those that are computed; by default "features" and "logits".

    Raises:
      ValueError: a dtype that is not known, or an output that the graph does not have.
    """

    def __init__(
        self,
        parts: model.SavedModel,
        *,
        mesh: jax.sharding.Mesh | None = None,
        batch_size: int = 128,
        dtype: str = "float32",
        images: device_images.DeviceImageCache | None = None,
        outputs: Collection[str] | None = None,
    ):
        if dtype not in DTYPES:
            raise ValueError(f"dtype {dtype!r} is not known; choose one of {', '.join(DTYPES)}")
        there = {*parts.graph.outputs, *parts.graph.choices}
        wanted = sorted(parts.graph.outputs if outputs is None else outputs)
        if not there.issuperset(wanted):
            raise ValueError(f"outputs {', '.join(wanted)}: the model has {', '.join(sorted(there))}")
        self._parts, self._dtype = parts, dtype
        self._graph = parts.graph.select({name: name for name in wanted})
        self._mesh = devices.data_mesh() if mesh is None else mesh
        self._batch = devices.BatchSize(batch_size, self._mesh)
        self._images = device_images.DeviceImageCache(self._mesh, room=0) if images is None else images
        self._compiled: tuple[int, Callable[[jax.Array], dict[str, jax.Array]]] | None = None

    @property
    def batch_size(self) -> int:
        """Images per step over all devices, as of now."""
        return self._batch.size

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Features of images.

        Args:
          images: uint8 [N, S, S, 3].

        Returns:
          {"features": float32 [N, D]} and, where the model has a classifier, "logits": float32 [N, K]; or the outputs
          that were asked for.

        Raises:
          ValueError: images of another shape or dtype than the model takes.
        """
        c, h, w = self._parts.info["input_size"]
        if images.ndim != 4 or images.dtype != np.uint8 or images.shape[1:] != (h, w, c):
            raise ValueError(
                f"images are {images.dtype} {list(images.shape)}; this model takes uint8 [N, {h}, {w}, {c}]"
            )

        with bars.bar(desc="features", total=len(images), unit="image", delay=5) as bar:

            def run(start: int, size: int) -> dict[str, jax.Array]:
                bar.update(start - bar.n)
                return self._program(size)(self._images.batch(images, start, size))

            return self._batch.map_batches(run, len(images), self._images.give_way)

    def _program(self, size: int) -> Callable[[jax.Array], dict[str, jax.Array]]:
        """The model as a function of a batch of that size."""
        if self._compiled is None or self._compiled[0] != size:
            self._compiled = None  # its weights leave the devices before those of the next come
            self._compiled = size, self._compile(size)
        return self._compiled[1]

    def _compile(self, size: int) -> Callable[[jax.Array], dict[str, jax.Array]]:
        weights = {k: v for k, v in self._parts.variables.items() if k in self._graph.variables}
        mesh, variables = self._mesh, _cast(weights, self._dtype)
        replicated, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
        channels, height, width = self._parts.info["input_size"]
        batch = jax.ShapeDtypeStruct((size // mesh.size, height, width, channels), jnp.uint8)
        options = compiling.compiler_options(self._parts.graph)
        with jax.default_matmul_precision("float32"), trials.measured(options):
            prepare, rest = hoist.split(self._forward, variables, batch)
        prepare = jax.jit(prepare, out_shardings=replicated, compiler_options=xla_cpu.quick_compilation())
        prepared = prepare(devices.put(variables, replicated))
        step = jax.jit(
            jax.shard_map(
                rest,
                mesh=mesh,
                in_specs=(PartitionSpec(), PartitionSpec("data")),
                out_specs=PartitionSpec("data"),
                check_vma=False,  # no collectives, and operators need not know about the mesh
            ),
            # What other processes' devices computed has to come here, too.
            out_shardings=replicated if jax.process_count() > 1 else split,
            compiler_options=options,
        )
        return functools.partial(step, prepared)

    def _forward(self, variables: Mapping[str, jax.Array], batch: jax.Array) -> dict[str, jax.Array]:
        """Outputs [B, ...] float32 of one device's images."""
        inputs = model.normalise(batch.astype(jnp.float32) / 255, self._parts.info).astype(self._dtype)
        outputs, _ = model.apply(self._graph, variables, inputs)
        return {name: value.astype(jnp.float32).reshape(len(value), -1) for name, value in outputs.items()}


def extract(
    parts: model.SavedModel,
    images: np.ndarray,
    *,
    mesh: jax.sharding.Mesh | None = None,
    batch_size: int = 128,
    dtype: str = "float32",
    outputs: Collection[str] | None = None,
) -> dict[str, np.ndarray]:
    """Features [N, D] (and logits [N, K]) of images, uint8 [N, S, S, 3], as float32. For many calls see `Extractor`.

    `outputs` names others: ("features", "features:pool=avg", "features:layer=9+pool=token").

    Raises:
      ValueError: images of another shape or dtype than the model takes, a dtype that is not known, or an output that
        the model does not have.
    """
    return Extractor(parts, mesh=mesh, batch_size=batch_size, dtype=dtype, outputs=outputs)(images)


def _cast(variables: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    return {
        name: value.astype(dtype) if jnp.issubdtype(value.dtype, jnp.floating) else value
        for name, value in variables.items()
    }
