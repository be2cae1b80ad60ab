"""Reading the pictures of a folder task (`vtabjax.tasks` says which they are)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from vtabjax.data.types import Raw, Source
from vtabjax.tasks import Range, Task


def open_source(task: Task, ranges: list[Range]) -> Source:
    """The pictures of a folder task in `ranges`."""
    files = [f for r in ranges for f in task.files[r.split][r.start : r.stop]]

    def read(positions: Sequence[int] | np.ndarray) -> Iterator[Raw]:
        for i in positions:
            yield Raw(files[i].path, files[i].label)

    version = hashlib.sha256("\n".join(f"{f.stamp} {f.label}" for f in files).encode()).hexdigest()
    return Source([f.name for f in files], read, version)
