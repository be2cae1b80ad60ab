"""Label rules: an example's fields -> its class.

Bin edges are compared in float32 and strictly, as the benchmark's released code does: an edge belongs to the class
below it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def stored_label(example: Mapping[str, Any]) -> int:
    """The data set's own label."""
    return int(example["label"])


def clevr_count(example: Mapping[str, Any]) -> int:
    """Number of objects, from 3 to 10, minus 3."""
    return len(example["objects"]["pixel_coords"]) - 3


def _bin(value: np.float32, edges: tuple[float, ...]) -> int:
    return int(np.flatnonzero(np.asarray(edges, np.float32) < value)[-1])


def clevr_distance(example: Mapping[str, Any]) -> int:
    """Distance of the closest object: (0, 8], (8, 8.5], (8.5, 9], (9, 9.5], (9.5, 10], (10, 100]."""
    depth = np.asarray(example["objects"]["pixel_coords"], np.float32)[:, 2]
    return _bin(depth.min(), (0, 8, 8.5, 9, 9.5, 10, 100))


def kitti_distance(example: Mapping[str, Any]) -> int:
    """Metres to the closest car, van or truck: (-100, 8], (8, 20], (20, 999]; class 3 where there is none."""
    kind = np.asarray(example["objects"]["type"])
    location = np.asarray(example["objects"]["location"], np.float32).reshape(-1, 3)
    return _bin(np.min(location[kind < 3, 2], initial=np.float32(1000)), (-100, 8, 20, 999))


def dsprites_location(example: Mapping[str, Any]) -> int:
    """Horizontal position, 32 values in 16 pairs."""
    return int(example["label_x_position"]) // 2


def dsprites_orientation(example: Mapping[str, Any]) -> int:
    """Orientation, 40 values in 16 bins that hold three and two of them by turns."""
    return int(np.floor(np.float32(example["label_orientation"]) / np.float32(2.5)))


def smallnorb_azimuth(example: Mapping[str, Any]) -> int:
    """Azimuth, 18 values, 20 degrees apart."""
    return int(example["label_azimuth"])


def smallnorb_elevation(example: Mapping[str, Any]) -> int:
    """Elevation, 9 values, 5 degrees apart."""
    return int(example["label_elevation"])
