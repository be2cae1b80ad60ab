"""Reading the pictures of an own task that are files: those of a folder, those that a table names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from vtabjax.data.types import Raw, Source
from vtabjax.tasks import PictureFile, Range, Task


def open_source(task: Task, ranges: list[Range]) -> Source:
    """The pictures of an own task in `ranges`."""
    files = pictures(task, ranges)

    def read(positions: Sequence[int] | np.ndarray) -> Iterator[Raw]:
        for i in positions:
            path = files[i].path
            assert path is not None
            yield Raw(path, files[i].label)

    return Source([f.name for f in files], read, version(files))


def pictures(task: Task, ranges: list[Range]) -> list[PictureFile]:
    """The pictures of an own task in `ranges`, in order."""
    return [f for r in ranges for f in task.files[r.split][r.start : r.stop]]


def version(files: Sequence[PictureFile]) -> str:
    """A hash that changes when pictures or labels do: of sizes and times, nothing is read."""
    return hashlib.sha256("\n".join(f"{f.stamp} {f.label}" for f in files).encode()).hexdigest()
