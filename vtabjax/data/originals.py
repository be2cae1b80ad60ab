"""What the pictures of a split are before they are decoded: edges and kind of file, from the files' beginnings."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from vtabjax import tasks
from vtabjax.data import decoding, loading, pictures
from vtabjax.data.types import Raw
from vtabjax.runtime import bars


class Original(NamedTuple):
    """A picture as it is stored.

    Attributes:
      width, height: in pixels; of your own pictures as they are shown, turned as their EXIF orientation says.
      kind: the format that its content has ("JPEG"), or "pixels" where it is stored without one.
    """

    width: int
    height: int
    kind: str


def of_split(
    task: tasks.Task,
    split: str,
    *,
    data_dir: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> dict[str, Original]:
    """The pictures of a split as they are stored, by their names; without those whose beginning cannot be read.

    Args:
      task: a task.
      split: one of `vtabjax.tasks.SPLITS`.
      data_dir, cache_dir: as in `vtabjax.data.load`.

    Raises:
      TaskError, NotPreparedError: there is no such split. DataError: the data are damaged.
    """
    source = loading.open_split(task, split, data_dir, cache_dir)
    n = len(source.ids)
    looks = decoding.in_parallel(
        source.read(range(n)), lambda chunk: [_original(raw, task.own) for raw in chunk]
    )
    found: list[Original | None] = []
    with bars.bar(desc=f"{task.name} {split} sizes", total=n, unit="image") as bar:
        for chunk in looks:
            found += chunk
            bar.update(len(chunk))
    return {name: o for name, o in zip(source.ids, found, strict=True) if o is not None}


def _original(raw: Raw, upright: bool) -> Original | None:
    if isinstance(raw.image, np.ndarray):
        return Original(raw.image.shape[1], raw.image.shape[0], "pixels")
    try:
        return Original(*pictures.measure(raw.image, upright=upright))
    except OSError:
        return None
