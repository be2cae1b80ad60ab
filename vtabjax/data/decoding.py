"""From a raw source to arrays: parallel decoding, whole splits at once."""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from vtabjax.data import copies, images, pictures
from vtabjax.data.types import BrokenImageError, Raw, Source
from vtabjax.runtime import bars

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
R = TypeVar("R")
_CHUNK = 16  # examples per unit of work: one by one, small images would spend their time on hand-over


class Format(NamedTuple):
    """What a decoded image looks like.

    Attributes:
      size: height and width.
      resize: one of `images.METHODS`.
      scale: what stored pixel values are multiplied by.
      upright: heed the EXIF orientation.
      reading: background and depth, of pictures that are read as their owner sees them.
    """

    size: int
    resize: str = "vtab"
    scale: int = 1
    upright: bool = False
    reading: pictures.Reading | None = None


class Chunk(NamedTuple):
    """Consecutive decoded examples.

    Attributes:
      images: `[N, S, S, 3]` uint8.
      labels: `[N]` int32.
      broken: place of one that could not be decoded -> reason.
      hashes: `copies.pixel_hash` of the pictures before they were resized, `[N]` uint64; zeros if not asked for.
    """

    images: np.ndarray
    labels: np.ndarray
    broken: dict[int, str]
    hashes: np.ndarray


def default_workers() -> int:
    """Decoding threads: the processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read(raw: Raw, form: Format) -> np.ndarray | Image:
    """An example's picture, in its own size."""
    image: np.ndarray | Image
    if isinstance(raw.image, np.ndarray):
        image = raw.image
    else:
        data = Path(raw.image).read_bytes() if isinstance(raw.image, os.PathLike) else raw.image
        image = images.decode(data, upright=form.upright, reading=form.reading)
    return image if form.scale == 1 else _pixels(image) * np.uint8(form.scale)


def _pixels(image: np.ndarray | Image) -> np.ndarray:
    return image if isinstance(image, np.ndarray) else images.to_array(image)


def _decode_chunk(raws: list[Raw], form: Format, hashed: bool) -> Chunk:
    out = np.empty((len(raws), form.size, form.size, 3), np.uint8)
    hashes = np.zeros(len(raws), np.uint64)
    broken = {}
    for i, raw in enumerate(raws):
        try:
            image = _read(raw, form)
            if hashed:
                pixels = _pixels(image)
                hashes[i] = copies.pixel_hash(pixels)
                image = pixels if form.resize == "vtab" else image  # which works on arrays
            out[i] = images.resize(image, form.size, form.resize)
        except pictures.TooLargeError as e:  # no damage, so that nothing skips it
            name = raw.image if isinstance(raw.image, os.PathLike) else "a picture"
            raise BrokenImageError(f"{name}: {e}; make it smaller, or raise the limit max_pixels") from e
        except OSError as e:
            broken[i], out[i] = str(e), 0
    return Chunk(out, np.asarray([raw.label for raw in raws], np.int32), broken, hashes)


def in_parallel(
    items: Iterable[T], work: Callable[[list[T]], R], *, workers: int | None = None
) -> Iterator[R]:
    """Applies `work` to consecutive items, some at a time, in threads; yields what it makes of them, in order.

    Args:
      items: read ahead by a few units of work per thread.
      work: takes a list of items.
      workers: threads (decoding releases Python's lock); one per processor by default.
    """
    workers = workers or default_workers()
    items = iter(items)
    pending: collections.deque[concurrent.futures.Future[R]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(workers, "decode") as pool:
        try:
            while True:
                while len(pending) < 4 * workers and (chunk := list(itertools.islice(items, _CHUNK))):
                    pending.append(pool.submit(work, chunk))
                if not pending:
                    return
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def decode(
    raws: Iterable[Raw], form: Format, *, workers: int | None = None, hashed: bool = False
) -> Iterator[Chunk]:
    """Decodes examples in parallel, in order.

    Args:
      raws: raw examples; read ahead by a few chunks per worker.
      form: the decoded images' form.
      workers: threads; one per processor by default.
      hashed: fill in `Chunk.hashes`.
    """
    # Once a block of this size has been freed, glibc serves smaller ones from memory that it keeps, instead of
    # mapping them anew and zeroing them page by page: half the time of a resize.
    np.empty(24 << 20, np.uint8)
    return in_parallel(raws, lambda chunk: _decode_chunk(chunk, form, hashed), workers=workers)


def broken_error(task: str, split: str, broken: dict[str, str]) -> BrokenImageError:
    """The error that lists images that could not be decoded (id -> reason)."""
    lines = [f"  {name}: {reason}" for name, reason in itertools.islice(broken.items(), 20)]
    if len(broken) > 20:
        lines.append(f"  and {len(broken) - 20} more")
    return BrokenImageError(
        f"task {task}, split {split}: {len(broken)} image(s) cannot be decoded; repair or remove them, or "
        "go on without them with --config.skip_broken=true:\n" + "\n".join(lines)
    )


class Decoding:
    """The images of a source, decoded while one goes through them.

    Args:
      source: the raw examples.
      form: the decoded images' form.
      task, split: their names, for messages.
      skip_broken: leave out what cannot be decoded.

    Attributes:
      content: what belongs to the images, as JSON: labels, ids and hashes; ids of those left out and why. It is
        complete when one has gone through all of them.
    """

    def __init__(self, source: Source, form: Format, task: str, split: str, skip_broken: bool):
        self._source, self._form, self._skip_broken = source, form, skip_broken
        self._task, self._split = task, split
        self.content: dict[str, Any] = {}

    def __iter__(self) -> Iterator[np.ndarray]:
        """Images `[B, S, S, 3]` uint8 of consecutive examples.

        Raises:
          BrokenImageError: after the last one, if some could not be decoded and are not to be left out.
        """
        ids = iter(self._source.ids)
        labels: list[int] = []
        kept: list[str] = []
        broken: dict[str, str] = {}
        hashes: list[int] = []
        n = len(self._source.ids)
        with bars.bar(desc=f"{self._task} {self._split}", total=n, unit="image") as bar:
            for chunk in decode(self._source.read(range(n)), self._form, hashed=True):
                here = list(itertools.islice(ids, len(chunk.labels)))
                good = [i for i in range(len(here)) if i not in chunk.broken]
                labels += chunk.labels[good].tolist()
                kept += [here[i] for i in good]
                broken |= {here[i]: reason for i, reason in chunk.broken.items()}
                hashes += chunk.hashes[good].tolist()
                bar.update(len(here))
                yield chunk.images[good] if chunk.broken else chunk.images
        if broken and not self._skip_broken:
            raise broken_error(self._task, self._split, broken)
        self.content = {"labels": labels, "ids": kept, "broken": broken, "hashes": hashes}
