"""Reading the pictures of an own task that are rows of a table or data set (`vtabjax.tasks` says which they are)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vtabjax.data.sources import folder
from vtabjax.data.types import DataError, Raw, Source
from vtabjax.runtime import bars, files
from vtabjax.tasks import Range, Rows, Task


def open_source(task: Task, ranges: list[Range], cache_dir: str | os.PathLike | None = None) -> Source:
    """The pictures of a task in `ranges`.

    What can only be read from its beginning to its end (Parquet, tfrecord) is written into a temporary file, encoded as
    it is, and taken from there in the order of the split: it is read once, however large it is.

    Args:
      task: an own task with rows.
      ranges: which of its pictures.
      cache_dir: where the temporary file is put, if it can be written; the system's place otherwise.
    """
    pictures = folder.pictures(task, ranges)
    rows = task.rows
    assert rows is not None

    def read(positions: Sequence[int] | np.ndarray) -> Iterator[Raw]:
        wanted = [pictures[i] for i in positions]
        numbers = [picture.row for picture in wanted]
        direct = rows.random_access or all(a <= b for a, b in zip(numbers, numbers[1:], strict=False))
        found = read_rows(task, numbers) if direct else _through_file(task, rows, numbers, cache_dir)
        for picture, data in zip(wanted, found, strict=True):
            yield Raw(data, picture.label)

    return Source([picture.name for picture in pictures], read, folder.version(pictures))


def read_rows(task: Task, numbers: Sequence[int]) -> Iterator[bytes]:
    """The encoded pictures of some rows, in ascending order unless the task's rows allow any.

    Raises:
      DataError: they cannot be read.
    """
    assert task.rows is not None
    n = 0
    try:
        for data in task.rows.read(numbers):
            yield data
            n += 1
    except Exception as e:  # the readers of the formats have no error type in common
        line = (str(e).strip() or type(e).__name__).splitlines()[0][:200]
        raise DataError(
            f"task {task.name}: row {numbers[n]:,} cannot be read ({line}); the data are damaged"
        ) from e
    if n < len(numbers):
        raise DataError(f"task {task.name}: there is no row {numbers[n]:,}; the data have changed")


def _through_file(
    task: Task, rows: Rows, numbers: Sequence[int], cache_dir: str | os.PathLike | None
) -> Iterator[bytes]:
    order = np.argsort(numbers, kind="stable")
    place = np.zeros((len(numbers), 2), np.int64)  # offset and length
    with tempfile.TemporaryFile(prefix="vtabjax-", dir=_scratch(cache_dir)) as file:
        ascending = read_rows(task, [numbers[i] for i in order])
        at = 0
        bar = bars.bar(ascending, f"{task.name} read", len(numbers), unit="image")
        for i, data in zip(order, bar, strict=True):
            file.write(data)
            place[i] = at, len(data)
            at += len(data)
        for offset, length in place.tolist():
            file.seek(offset)
            yield file.read(length)


def _scratch(cache_dir: str | os.PathLike | None) -> Path | None:
    if cache_dir is None or files.is_remote(cache_dir):
        return None
    path = Path(cache_dir).expanduser()
    return path if path.is_dir() and os.access(path, os.W_OK) else None
