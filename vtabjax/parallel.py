"""Devices: the mesh that everything is sharded over."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np


def data_mesh(devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """A mesh with the one axis "data" over `devices` (all there are by default)."""
    devices = jax.devices() if devices is None else list(devices)
    # Auto axes: jax.make_mesh's explicit default makes window reshapes and class-token concatenations raise.
    return jax.make_mesh(
        (len(devices),), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices
    )


def local_mesh() -> jax.sharding.Mesh:
    """A mesh with the one axis "data" over the devices of this process."""
    return data_mesh(jax.local_devices())


def put(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """Host arrays, the same in every process, on the devices of all."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def one(x: Any) -> jax.Array:
        x = np.asarray(x)
        # A callback: device_put would compare the array between all processes.
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(one, tree)


def round_up(n: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `n`."""
    return -(-n // multiple) * multiple


def use_compilation_cache(folder: str) -> None:
    """Keeps compiled programs in `folder`, for this and later processes; JAX_COMPILATION_CACHE_DIR goes before it."""
    jax.config.update("jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR") or folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def describe_devices() -> dict[str, object]:
    """Platform, kind and number of the devices, for a result's record."""
    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
        "processes": jax.process_count(),
    }
