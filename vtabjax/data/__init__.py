"""Images and labels of a task: `load` a split whole, `stream` one in batches, `check` that it is there.

TensorFlow is imported only to prepare data sets and to read those that were prepared as tfrecord files.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os

import numpy as np

from vtabjax import tasks
from vtabjax.data import images, pipeline
from vtabjax.data.base import (
    BrokenImageError,
    CacheError,
    DataError,
    Examples,
    NotPreparedError,
    Source,
)

__all__ = [
    "BrokenImageError",
    "CacheError",
    "DataError",
    "Examples",
    "NotPreparedError",
    "check",
    "load",
]

_log = logging.getLogger(__name__)


def _resolve(task: tasks.Task | str) -> tasks.Task:
    return tasks.get(task) if isinstance(task, str) else task


def _open(task: tasks.Task, split: str, data_dir: str | os.PathLike | None) -> Source:
    if task.builder == "embedded":
        from vtabjax.data import embedded

        return embedded.open_source(task, tasks.ranges(task, split))
    raise NotPreparedError(f"task {task.name} is not prepared")


def check(task: tasks.Task | str, data_dir: str | os.PathLike | None = None) -> None:
    """Makes sure that a task's examples can be read, before long work.

    Raises:
      NotPreparedError: they cannot; the message has the command or the download that helps.
      TaskError: there is no such task.
    """
    task = _resolve(task)
    if task.group != "Embedded":
        raise NotPreparedError(f"task {task.name} is not prepared")


def _key(task: tasks.Task, split: str, source: Source, form: pipeline.Format, skip_broken: bool) -> str:
    """SHA-256 of everything that determines the images and the labels, short of the data themselves."""
    text = json.dumps([1, task.name, split, source.version, *form, skip_broken, task.num_classes, source.ids])
    return hashlib.sha256(text.encode()).hexdigest()


def load(
    task: tasks.Task | str,
    split: str,
    *,
    image_size: int,
    resize: str = "vtab",
    data_dir: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
    skip_broken: bool = False,
) -> Examples:
    """A task's split, decoded and resized.

    Args:
      task: a task or its name.
      split: one of `vtabjax.tasks.SPLITS`.
      image_size: height and width S of the images.
      resize: "vtab" (TensorFlow 1's bilinear, the benchmark's), "bilinear" or "bicubic" (antialiased).
      data_dir: where data sets are prepared; tfds's default if None.
      cache_dir: where decoded images are kept, memory-mapped; if None they are decoded anew, into memory.
      skip_broken: leave images out that cannot be decoded, with a word, instead of raising.

    Returns:
      Examples: images `[N, S, S, 3]` uint8, labels `[N]` int32, ids, fingerprint.

    Raises:
      TaskError, NotPreparedError, BrokenImageError, CacheError, DataError.
    """
    task = _resolve(task)
    images.check_method(resize)
    source = _open(task, split, data_dir)
    form = pipeline.Format(image_size, resize, task.scale, upright=task.group == "Folder")
    key = _key(task, split, source, form, skip_broken)

    out = np.empty((len(source.ids), image_size, image_size, 3), np.uint8)
    n = 0

    def write(block: np.ndarray) -> None:
        nonlocal n
        out[n : n + len(block)] = block
        n += len(block)

    chunks = pipeline.decode(source.read(0, len(source.ids)), form)
    kept, labels, broken = pipeline.collect(chunks, source.ids, write, progress=f"{task.name} {split}")
    _report_broken(task, split, broken, skip_broken)
    return Examples(out[:n], labels, [source.ids[i] for i in kept], _fingerprint(key, labels, kept))


def _fingerprint(key: str, labels: np.ndarray, kept: list[int]) -> str:
    digest = hashlib.sha256(key.encode())
    digest.update(labels.tobytes())
    digest.update(np.asarray(kept, np.int64).tobytes())
    return digest.hexdigest()[:16]


def _report_broken(task: tasks.Task, split: str, broken: dict[str, str], skip_broken: bool) -> None:
    if broken:
        error = pipeline.broken_error(task.name, split, broken)
        if not skip_broken:
            raise error
        _log.warning("left out: %s", error)
