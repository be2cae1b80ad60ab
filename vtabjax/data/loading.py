"""A task's splits as arrays, from the cache or decoded anew; what your own pictures are."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vtabjax import tasks
from vtabjax.data import cache, decoding, images, pictures, streaming
from vtabjax.data.streaming import Batch
from vtabjax.data.types import Examples, NotPreparedError, Source
from vtabjax.runtime import bars

if TYPE_CHECKING:
    from vtabjax.data.sources import vtab_copies

_log = logging.getLogger(__name__)


def _resolve(task: tasks.Task | str, data_dir: str | os.PathLike | None = None) -> tasks.Task:
    return tasks.get(task, data_dir) if isinstance(task, str) else task


def _open(
    task: tasks.Task,
    split: str,
    data_dir: str | os.PathLike | None,
    cache_dir: str | os.PathLike | None = None,
) -> Source:
    if task.builder == "embedded":
        from vtabjax.data.sources import bundled

        source = bundled.open_source(task, tasks.ranges(task, split))
    elif task.rows is not None:
        from vtabjax.data.sources import rows

        source = rows.open_source(task, tasks.ranges(task, split), cache_dir)
    elif task.own:
        from vtabjax.data.sources import folder

        source = folder.open_source(task, tasks.ranges(task, split))
    elif copy := vtab_copy(task, data_dir):
        from vtabjax.data.sources import vtab_copies

        source = vtab_copies.open_source(task, split, copy)
    else:
        from vtabjax.data.sources import tfds

        source = tfds.open_source(task, split, data_dir)
    if not source.ids:
        raise tasks.TaskError(
            f"split {split} of task {task.name} is empty: the data set has too few examples"
        )
    return source


def open_split(
    task: tasks.Task,
    split: str,
    data_dir: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Source:
    """The examples of a task's split before they are decoded; arguments and errors as in `load`."""
    return _open(task, split, data_dir, cache_dir)


def vtab_copy(task: tasks.Task | str, data_dir: str | os.PathLike | None = None) -> vtab_copies.Copy | None:
    """The copy (images and lists, webdataset shards) that a task of VTAB is read from: where `data_dir` holds one and
    tensorflow-datasets has prepared nothing there. None for all others.

    Raises:
      NotPreparedError: there are two copies.
    """
    from vtabjax.data.sources import tfds, vtab_copies

    task = _resolve(task, data_dir)
    root = os.fspath(tfds.resolve_data_dir(data_dir))
    if task.name not in tasks.VTAB or "://" in root:
        return None
    try:
        tfds.locate(task, data_dir)
    except NotPreparedError:
        return vtab_copies.find(task.name, root)
    return None


def require_prepared(
    task: tasks.Task | str, data_dir: str | os.PathLike | None = None, splits: Sequence[str] = ()
) -> None:
    """Makes sure that a task's examples can be read, before long work.

    Args:
      task: a task or its name.
      data_dir: where data sets are; tfds's default if None.
      splits: those that are needed, which a copy may lack.

    Raises:
      NotPreparedError: they cannot; the message has the command or the download that helps.
      TaskError: there is no such task, or your own pictures are none.
    """
    task = _resolve(task, data_dir)  # this looks through your own pictures
    if task.builder == "embedded" or task.own:
        return
    from vtabjax.data.sources import tfds, vtab_copies

    if copy := vtab_copy(task, data_dir):
        for split in splits or copy.splits:
            vtab_copies.open_source(task, split, copy)
    else:
        tfds.open_whole(task, data_dir)


def look_through(
    task: tasks.Task | str,
    *,
    background: str = "white",
    max_pixels: int = pictures.MAX_PIXELS,
    cache_dir: str | os.PathLike | None = None,
    skip_broken: bool = False,
) -> dict:
    """Looks through all pictures of an own task, once; later calls find what was found.

    Args:
      task: an own task or its name.
      background, max_pixels, skip_broken: as in `load`.
      cache_dir: where what was found is kept; if None it is found anew by the next process.

    Returns:
      What the data hold, what was taken for what, what was left out, copies: see docs/data.md; JSON.

    Raises:
      BrokenImageError: pictures that cannot be read (unless skip_broken) or are too large, all of them at once.
    """
    from vtabjax.data import audit, describe

    task = _resolve(task)
    wanted = pictures.Reading(pictures.parse_colour(background), max_pixels=max_pixels)
    found = audit.record(task, wanted, cache_dir)
    path = audit.record_path(task, wanted, cache_dir)
    audit.check(task, found, skip_broken=skip_broken, path=path)
    return describe.notes(task, found, wanted)


def _format(
    task: tasks.Task,
    image_size: int,
    resize: str,
    background: str,
    max_pixels: int,
    cache_dir: str | os.PathLike | None,
    data_dir: str | os.PathLike | None,
) -> decoding.Format:
    """What the decoded images of a task look like."""
    # The pictures of a copy are pictures already, whatever the data set stores.
    scale = task.scale if task.scale == 1 or vtab_copy(task, data_dir) is None else 1
    form = decoding.Format(image_size, resize, scale)
    if not task.own:
        return form
    from vtabjax.data import audit

    wanted = pictures.Reading(pictures.parse_colour(background), max_pixels=max_pixels)
    return form._replace(upright=True, reading=audit.reading(task, wanted, cache_dir))


def _key(task: tasks.Task, split: str, source: Source, form: decoding.Format) -> str:
    """SHA-256 of everything that determines the images and the labels, short of the data themselves."""
    parts = [1, task.name, split, source.version, *form[:4], task.num_classes, source.ids]
    # What is left at its default is left out, so that a field more does not change what came before it.
    defaults = decoding.Format._field_defaults
    fields = zip(form._fields[4:], form[4:], strict=True)
    more = {name: value for name, value in fields if value != defaults[name]}
    text = json.dumps([*parts, more] if more else parts)
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
    background: str = "white",
    max_pixels: int = pictures.MAX_PIXELS,
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
      background: colour under transparent parts of your own pictures: a name, or ``#rrggbb``.
      max_pixels: pictures with more are refused.

    Returns:
      Examples: images `[N, S, S, 3]` uint8, labels `[N]` int32, ids, fingerprint, hashes, groups.

    Raises:
      ValueError, TaskError, NotPreparedError: for wrong arguments and what is missing, before long work.
      BrokenImageError, DataError, CacheError: when an example cannot be read or the cache not be written.
    """
    task = _resolve(task, data_dir)
    images.check_form(image_size, resize)
    source = _open(task, split, data_dir, cache_dir)
    form = _format(task, image_size, resize, background, max_pixels, cache_dir, data_dir)
    if task.problems and not skip_broken:
        raise decoding.broken_error(task.name, split, dict(task.problems))
    key = _key(task, split, source, form)
    n = len(source.ids)
    decoded = decoding.Decoding(source, form, task.name, split, skip_broken)
    shape = (image_size, image_size, 3)
    if cache_dir is None:
        array, content = _in_memory(decoded, n, shape)
    else:
        array, content = cache.fetch(
            cache_dir, f"{task.file_stem}-{split}-{image_size}", key, shape, n, decoded
        )
    if content["broken"]:
        error = decoding.broken_error(task.name, split, content["broken"])
        if not skip_broken:  # cached by a run that left them out
            raise error
        _log.warning("left out: %s", error)
    labels = np.asarray(content["labels"], np.int32)
    hashes = np.asarray(content["hashes"], np.uint64)
    fingerprint = _own_fingerprint(task, form, content) if task.own else _fingerprint(key, content)
    return Examples(array, labels, content["ids"], fingerprint, hashes, _groups(task, split, content["ids"]))


def _groups(task: tasks.Task, split: str, ids: Sequence[str]) -> np.ndarray | None:
    """Numbers of the groups of examples, [N]."""
    by_split = tasks.group_numbers(task)
    if by_split is None:
        return None
    number = {id: n for r in tasks.ranges(task, split) for id, n in by_split[r.split].items()}
    return np.asarray([number[id] for id in ids], np.int64)


def _in_memory(
    decoded: decoding.Decoding, n: int, image_shape: tuple[int, ...]
) -> tuple[np.ndarray, dict[str, Any]]:
    array, filled = np.empty((n, *image_shape), np.uint8), 0
    for block in decoded:
        array[filled : filled + len(block)] = block
        filled += len(block)
    return array[:filled], decoded.content


def _fingerprint(key: str, content: dict) -> str:
    text = json.dumps([key, content["labels"], content["ids"]])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _own_fingerprint(task: tasks.Task, form: decoding.Format, content: dict) -> str:
    """Of own pictures: over pixels, labels and order alone, so that it is the same in whichever form they lie.

    Background and depth are in the pixels that the hashes were taken of.
    """
    text = json.dumps([form.size, form.resize, task.num_classes, content["labels"], content["hashes"]])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stream(
    task: tasks.Task | str,
    split: str,
    *,
    image_size: int,
    batch_size: int,
    resize: str = "vtab",
    data_dir: str | os.PathLike | None = None,
    epochs: int | None = 1,
    seed: int | None = None,
    process: int = 0,
    count: int = 1,
    workers: int | None = None,
    prefetch: int = 2,
    skip_broken: bool = False,
    background: str = "white",
    max_pixels: int = pictures.MAX_PIXELS,
    progress: bool = False,
) -> Iterator[Batch]:
    """A task's split in batches, for what is too large to hold: full training sets, large test sets.

    Every process reads its own share (process i of n the i-th n-th of the examples) and gets as many batches as
    every other. Without shuffling, `Batch.index` and `Batch.mask` say what is where.

    Args:
      task: a task or its name.
      split: one of `vtabjax.tasks.SPLITS`.
      image_size: height and width S of the images.
      batch_size: examples per batch of this process; the last batch is filled up and masked.
      resize: as in `load`.
      data_dir: where data sets are prepared; tfds's default if None.
      epochs: how often to go through the split; None: without end.
      seed: of the order of the examples, another one in each epoch; None: the data set's own order.
      process: number of this process (``jax.process_index()``).
      count: number of processes (``jax.process_count()``).
      workers: decoding threads; one per processor by default.
      prefetch: batches made ahead.
      skip_broken: leave pictures out that cannot be decoded (masked), with a word, instead of raising.
      background, max_pixels: as in `load`.
      progress: show a bar with the rate and the time left.

    Yields:
      Batch: images `[B, S, S, 3]` uint8, labels `[B]` int32, mask `[B]`, index `[B]`.

    Raises:
      ValueError, TaskError, NotPreparedError: at once. BrokenImageError, DataError: when an example cannot be read.
    """
    task = _resolve(task, data_dir)
    images.check_form(image_size, resize)
    if batch_size < 1 or not 0 <= process < count:
        raise ValueError(
            f"batch_size {batch_size}, process {process} of {count}: there is no such batch or process"
        )
    source = _open(task, split, data_dir)
    if task.problems and not skip_broken:
        raise decoding.broken_error(task.name, split, dict(task.problems))
    made = streaming.batches(
        source,
        _format(task, image_size, resize, background, max_pixels, None, data_dir),
        batch_size=batch_size,
        epochs=epochs,
        seed=seed,
        process=process,
        count=count,
        workers=workers,
        prefetch=prefetch,
        skip_broken=skip_broken,
        what=(task.name, split),
    )
    if not progress:
        return made
    n = len(source.ids)
    total = None if epochs is None else streaming.num_batches(n, batch_size, epochs=epochs, count=count)
    return iter(bars.bar(made, f"{task.name} {split}", total, unit="batch", delay=0))
