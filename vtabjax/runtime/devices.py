"""Devices: the mesh that everything is sharded over."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
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
    """Keeps compiled programs below `folder`, for this and later processes on machines of this kind.

    Where JAX_COMPILATION_CACHE_DIR is set, it takes the place of `folder`.

    Programs for CPUs hold instructions that another CPU may not have: XLA refuses such a program each time it finds
    it, with lines of warnings, or is ended by one. So each kind of CPU has a folder of its own.
    """
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or folder
    jax.config.update("jax_compilation_cache_dir", f"{folder.rstrip('/')}/{_cpu_kind()}")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def _cpu_kind() -> str:
    """A name for the instructions that this machine's CPU has. (JAX tells programs of other XLA_FLAGS apart itself.)"""
    features = platform.processor()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as f:
        features = next((line for line in f if line.startswith(("flags", "Features"))), features)
    digest = hashlib.sha256(" ".join(sorted(features.split())).encode())
    return f"{platform.machine() or 'cpu'}-{digest.hexdigest()[:12]}"


def describe_devices() -> dict[str, object]:
    """Platform, kind and number of the devices, for a result's record."""
    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
        "processes": jax.process_count(),
    }


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, the devices' or this machine's: half of a batch may still fit."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, jax.errors.JaxRuntimeError) and (
        "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()
    )
