"""Devices: the mesh that everything is sharded over."""

from __future__ import annotations

from collections.abc import Sequence

import jax


def data_mesh(devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """A mesh with the one axis "data" over `devices` (all there are by default)."""
    devices = jax.devices() if devices is None else list(devices)
    # Auto axes: jax.make_mesh's explicit default makes window reshapes and class-token concatenations raise.
    return jax.make_mesh(
        (len(devices),), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices
    )
