"""Devices: the mesh that everything is sharded over."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding


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


def put_batch(
    array: np.ndarray,
    start: int,
    size: int,
    sharding: NamedSharding,
    dtype: np.typing.DTypeLike | None = None,
) -> jax.Array:
    """``array[start : start + size]`` on the devices, filled up to `size` with copies of its first row.

    With several processes each reads only the rows that its own devices get.

    Args:
      array: rows [N, ...], in memory or memory-mapped.
      start: the first row; of an array without rows the batch is zeros.
      size: rows of the batch.
      sharding: how the batch is split over the devices.
      dtype: of the batch; the array's by default.
    """
    dtype = array.dtype if dtype is None else dtype
    count = min(size, len(array) - start)

    def read(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        first, stop, _ = index[0].indices(size)
        rows = np.asarray(array[start + first : start + min(stop, count)], dtype)
        if len(rows) == stop - first:
            return rows
        filler = array[start : start + 1] if count > 0 else np.zeros((1, *array.shape[1:]))
        return np.concatenate([rows, np.repeat(np.asarray(filler, dtype), stop - first - len(rows), axis=0)])

    return jax.make_array_from_callback((size, *array.shape[1:]), sharding, read)


class BatchSize:
    """How many examples pass through the devices at once: a multiple of their number, halved when memory runs out.

    Args:
      size: to begin with; rounded up.
      mesh: the devices.
    """

    def __init__(self, size: int, mesh: jax.sharding.Mesh):
        self._devices = mesh.size
        self.size = round_up(max(1, size), mesh.size)

    def map_batches(
        self, run: Callable[[int, int], Any], n: int, make_room: Callable[[], bool] = lambda: False
    ) -> Any:
        """Outputs of a function for `n` examples, batch by batch.

        One batch is computed while the next one is read and the previous one comes back. When memory runs out, all
        begins anew with what `make_room` could free, else with half the size, which stays for later calls.

        Args:
          run: (first example, size) -> arrays [size, ...] on the devices; what is beyond the `n` examples is dropped.
            For no examples there is one batch, so that shapes and dtypes are known.
          n: number of examples.
          make_room: frees memory of the devices, and says whether there was any to free.

        Returns:
          The arrays of all examples [n, ...], on the host.

        Raises:
          JaxRuntimeError, MemoryError: one example per device is too much, or something else is wrong.
        """
        while True:
            try:
                return _through(run, n, self.size)
            except (jax.errors.JaxRuntimeError, MemoryError) as e:
                if not out_of_memory(e):
                    raise
                if not make_room():
                    if self.size <= self._devices:
                        raise
                    self.size = round_up(self.size // 2, self._devices)


def _through(run: Callable[[int, int], Any], n: int, size: int) -> Any:
    """See `BatchSize.map_batches`."""
    fetched: list[Any] = []
    pending = run(0, size)
    for start in range(size, n, size):
        result = run(start, size)
        fetched.append(jax.device_get(pending))
        pending = result
    fetched.append(jax.device_get(pending))
    return jax.tree.map(lambda *batches: np.concatenate(batches)[:n], *fetched)


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
    features = _cpu_fact("flags", "Features")
    digest = hashlib.sha256(" ".join(sorted(features.split())).encode())
    return f"{platform.machine() or 'cpu'}-{digest.hexdigest()[:12]}"


def processor() -> str:
    """The name of this machine's processor, or only its architecture where the system does not say."""
    return _cpu_fact("model name").partition(":")[2].strip() or platform.machine() or "cpu"


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_fact(*names: str) -> str:
    """The line of Linux's description of the first core that begins with one of `names`."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as f:
        return next((line for line in f if line.startswith(names)), platform.processor())
    return platform.processor()


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
