"""Images that stay on the devices: the tasks of a run pass through model after model."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vtabjax.runtime import devices

# Of the memory that is free on a device when the run starts; the rest is for models and what they compute.
_SHARE = 0.4


class DeviceImageCache:
    """Batches of images on the devices, split over the mesh's axis "data".

    A batch that has been used stays there as long as there is room; what comes when the room is taken is sent each
    time. (To put out the oldest instead would be of no use: every model goes through all tasks in the same order, so
    the oldest is what comes next.)

    Args:
      mesh: the devices.
      room: bytes on each device; None: by the memory that is free there, nothing on CPUs, whose memory the images
        are in already.
    """

    def __init__(self, mesh: jax.sharding.Mesh, room: float | None = None):
        self._sharding = NamedSharding(mesh, PartitionSpec("data"))
        self._room = (_free(mesh) if room is None else room) * mesh.size
        # Arrays by identity: a run reads each split once. The array is kept, so that its identity stays its own.
        self._batches: dict[tuple[int, int, int], tuple[np.ndarray, jax.Array]] = {}
        self.bytes = 0

    def batch(self, images: np.ndarray, start: int, size: int) -> jax.Array:
        """``images[start : start + size]`` on the devices, filled up to `size` with copies of its first image.

        With several processes each reads only the images that its own devices get.
        """
        key = (id(images), start, size)
        if key in self._batches:
            return self._batches[key][1]
        made = devices.put_batch(images, start, size, self._sharding)
        if self.bytes + made.nbytes <= self._room:
            self._batches[key] = images, made
            self.bytes += made.nbytes
        return made

    def give_way(self) -> bool:
        """Frees the devices of all images, for good: a model needs the room. Returns whether there were any."""
        had = bool(self._batches)
        self._batches.clear()
        self.bytes, self._room = 0, 0.0
        return had


def _free(mesh: jax.sharding.Mesh) -> float:
    """Bytes that images may take on each device."""
    if mesh.devices.flat[0].platform == "cpu":
        return 0.0
    free = []
    for device in mesh.local_devices:
        stats = device.memory_stats() or {}
        free.append(max(0, stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0)))
    return _SHARE * min(free, default=0)
