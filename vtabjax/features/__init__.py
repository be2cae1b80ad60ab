"""Features: one pass of a model over a split of a task, sharded over the devices and cached on disk."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import logging
import os
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vtabjax import __version__, model
from vtabjax.features import device_images
from vtabjax.model import hoist
from vtabjax.runtime import devices, files, xla_cpu
from vtabjax.runtime.devices import data_mesh, round_up

_log = logging.getLogger(__name__)
DTYPES = ("float32", "bfloat16")

# Logits are kept beside the features so that knn, linear and transferability share one pass. A 21,843-class
# head over a full training set would fill disks for a protocol that may never come: it is left out above this
# size.
MAX_LOGITS_BYTES = 1 << 30


class NotFiniteError(ValueError):
    """A model gave features that are not numbers."""


def extractor(
    parts: model.Parts,
    *,
    mesh: jax.sharding.Mesh | None = None,
    batch_size: int = 128,
    dtype: str = "float32",
    images: device_images.Images | None = None,
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
    images = device_images.Images(mesh, room=0) if images is None else images
    replicated, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    expected = tuple(parts.info["input_size"])
    compiler_options = xla_cpu.compiler_options(parts.graph)

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
    parts: model.Parts,
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
    step: Callable, images: device_images.Images, array: np.ndarray, size: int
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


class Key(NamedTuple):
    """Everything that features depend on.

    Attributes:
      weights: hash of the model's variables.
      graph: hash of its graph.
      examples: fingerprint of the images.
      input_size: (channels, height, width).
      normalisation: mean and standard deviation the images are normalised with.
      dtype: dtype the model ran in.
      version: vtabjax's, whose operators made them.
    """

    weights: str
    graph: str
    examples: str
    input_size: tuple[int, ...]
    normalisation: tuple[tuple[float, ...], tuple[float, ...]]
    dtype: str
    version: str = __version__

    def digest(self) -> str:
        """The key as a file name."""
        return hashlib.sha256(json.dumps(self).encode()).hexdigest()[:20]


def load(folder: str | os.PathLike, key: Key) -> dict[str, np.ndarray] | None:
    """Cached features, or None where there are none. A file that is damaged is named and as good as none."""
    path = files.as_path(folder) / f"{key.digest()}.npz"
    try:
        with path.open("rb") as f:
            # Of a remote file: one request instead of one per member.
            whole = io.BytesIO(f.read()) if files.is_remote(folder) else f
            if files.crc32(whole) != files.SOUND:
                raise ValueError("its content has changed")
            whole.seek(0)
            with np.load(whole, allow_pickle=False) as data:
                if str(data["key"]) != json.dumps(key):
                    raise ValueError("it belongs to other images or another model")
                return {name: data[name] for name in data.files if name != "key"}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as e:
        if path.exists():
            _log.warning("features: %s is made anew: %s", path, e)
        return None


def check(features: Mapping[str, np.ndarray]) -> None:
    """Makes sure that features are numbers.

    Raises:
      NotFiniteError: a feature or logit is NaN or infinite; the message counts the rows.
    """
    for name, value in features.items():
        bad = ~np.isfinite(value).all(axis=1)
        if bad.any():
            raise NotFiniteError(
                f"{int(bad.sum())} of {len(bad)} rows of {name} are NaN or infinite (the first is row "
                f"{int(np.argmax(bad))}): the model's weights or its input range are broken"
            )


def save(folder: str | os.PathLike, key: Key, features: Mapping[str, np.ndarray]) -> None:
    """Caches features (atomically). Logits above `MAX_LOGITS_BYTES` are left out.

    Raises:
      NotFiniteError: a feature or logit is NaN or infinite.
    """
    check(features)
    kept: dict[str, Any] = {
        k: v for k, v in features.items() if k == "features" or v.nbytes <= MAX_LOGITS_BYTES
    }
    with files.replacing(files.as_path(folder) / f"{key.digest()}.npz") as temporary:
        with open(temporary, "w+b") as f:
            np.savez(f, key=np.array(json.dumps(key)), **kept)
            f.seek(0)
            f.write(files.crc32(f).to_bytes(4, "little"))  # readers of zip files do not mind
