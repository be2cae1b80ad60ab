"""One pass of a model over images, sharded over the devices."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vtabjax import model
from vtabjax.features import device_images
from vtabjax.model import compiling, hoist
from vtabjax.runtime import devices, xla_cpu
from vtabjax.runtime.devices import data_mesh, round_up

DTYPES = ("float32", "bfloat16")


# Logits are kept beside the features so that knn, linear and transferability share one pass. A 21,843-class
# head over a full training set would fill disks for a protocol that may never come: it is left out above this
# size.
MAX_LOGITS_BYTES = 1 << 30


def extractor(
    parts: model.SavedModel,
    *,
    mesh: jax.sharding.Mesh | None = None,
    batch_size: int = 128,
    dtype: str = "float32",
    images: device_images.DeviceImageCache | None = None,
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
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

    Returns:
      A function from images, uint8 [N, S, S, 3], to {"features": float32 [N, D]} and, where the model has a
      classifier, "logits": float32 [N, K].

    Raises:
      ValueError: a dtype that is not known. The function raises it for images of another shape or dtype.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not known; choose one of {', '.join(DTYPES)}")
    mesh = data_mesh() if mesh is None else mesh
    images = device_images.DeviceImageCache(mesh, room=0) if images is None else images
    replicated, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    expected = tuple(parts.info["input_size"])
    compiler_options = compiling.compiler_options(parts.graph)

    def local(variables: Mapping[str, jax.Array], batch: jax.Array) -> dict[str, jax.Array]:
        inputs = model.normalise(batch.astype(jnp.float32) / 255, parts.info).astype(dtype)
        outputs, _ = model.apply(parts.graph, variables, inputs)
        return {name: value.astype(jnp.float32) for name, value in outputs.items()}

    def compile_for(size: int) -> Callable[[jax.Array], dict[str, jax.Array]]:
        """The model as a function of a batch of that size."""
        variables = _cast(parts.variables, dtype)
        channels, height, width = expected
        batch = jax.ShapeDtypeStruct((size // mesh.size, height, width, channels), jnp.uint8)
        with jax.default_matmul_precision("float32"):
            prepare, rest = hoist.split(local, variables, batch)
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
            compiler_options=compiler_options,
        )
        return functools.partial(step, prepared)

    size = round_up(max(1, batch_size), mesh.size)
    step: Callable | None = None

    def run(array: np.ndarray) -> dict[str, np.ndarray]:
        nonlocal size, step
        if array.ndim != 4 or array.dtype != np.uint8 or tuple(array.shape[i] for i in (3, 1, 2)) != expected:
            c, h, w = expected
            raise ValueError(
                f"images are {array.dtype} {list(array.shape)}; this model takes uint8 [N, {h}, {w}, {c}]"
            )
        while True:
            try:
                step = step or compile_for(size)
                return _batches(step, images, array, size)
            except (jax.errors.JaxRuntimeError, MemoryError) as e:
                if not devices.out_of_memory(e):
                    raise
                if not images.give_way():
                    if size <= mesh.size:
                        raise
                    size, step = round_up(size // 2, mesh.size), None

    return run


def extract(
    parts: model.SavedModel,
    images: np.ndarray,
    *,
    mesh: jax.sharding.Mesh | None = None,
    batch_size: int = 128,
    dtype: str = "float32",
) -> dict[str, np.ndarray]:
    """Features [N, D] (and logits [N, K]) of images, uint8 [N, S, S, 3], as float32. For many calls see `extractor`.

    Raises:
      ValueError: images of another shape or dtype than the model takes, or a dtype that is not known.
    """
    return extractor(parts, mesh=mesh, batch_size=batch_size, dtype=dtype)(images)


def _cast(variables: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    return {
        name: value.astype(dtype) if jnp.issubdtype(value.dtype, jnp.floating) else value
        for name, value in variables.items()
    }


def _batches(
    step: Callable, images: device_images.DeviceImageCache, array: np.ndarray, size: int
) -> dict[str, np.ndarray]:
    outputs: list[dict[str, np.ndarray]] = []
    pending = None  # one batch runs on the device while the next one is read and the previous one comes back
    for start in range(0, max(len(array), 1), size):
        result = step(images.batch(array, start, size))
        if pending is not None:
            outputs.append(jax.device_get(pending))
        pending = result
    outputs.append(jax.device_get(pending))
    return {
        name: np.concatenate([o[name].reshape(size, -1) for o in outputs])[: len(array)]
        for name in outputs[0]
    }
