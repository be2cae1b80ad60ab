"""Batches of a split that is too large to hold: decoded in parallel and ahead, a share per process."""

from __future__ import annotations

import collections
import itertools
import logging
import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from vtabjax.data import decoding
from vtabjax.data.types import Raw, Source

_log = logging.getLogger(__name__)
# Examples held, still encoded, to shuffle a source that can only be read in order. tfds has put them in a
# random order already; this varies it from epoch to epoch.
SHUFFLE_BUFFER = 4096


class Batch(NamedTuple):
    """A batch; all of a stream have the same shapes.

    Attributes:
      images: `[B, S, S, 3]` uint8.
      labels: `[B]` int32.
      mask: `[B]` bool, False where there is no example: the end of the last batch, or a picture left out.
      index: `[B]` int64, position in the split; -1 where there is no example.
    """

    images: np.ndarray
    labels: np.ndarray
    mask: np.ndarray
    index: np.ndarray  # type: ignore[assignment]  # hides tuple.index, which nobody needs of a batch


class _End(NamedTuple):
    error: BaseException | None


def share(n: int, process: int, count: int) -> range:
    """The examples of one of `count` processes: consecutive, so that files can be read in order."""
    return range(n * process // count, n * (process + 1) // count)


def num_batches(n: int, batch_size: int, *, epochs: int = 1, count: int = 1) -> int:
    """Batches that each of `count` processes gets: as many as the one with the largest share needs."""
    return -(-epochs * -(-n // count) // batch_size)


def _buffered(examples: Iterable[tuple[int, Raw]], rng: np.random.Generator) -> Iterator[tuple[int, Raw]]:
    examples = iter(examples)
    held = list(itertools.islice(examples, SHUFFLE_BUFFER))
    for example in examples:
        i = int(rng.integers(len(held)))
        yield held[i]
        held[i] = example
    yield from (held[i] for i in rng.permutation(len(held)))


def _examples(source: Source, mine: range, epochs: int | None, seed: int | None) -> Iterator[tuple[int, Raw]]:
    """Position and raw example, epoch after epoch."""
    for epoch in itertools.count() if epochs is None else range(epochs):
        rng = None if seed is None else np.random.default_rng((seed, epoch))
        if rng is None:
            yield from zip(mine, source.read(mine), strict=True)
        elif source.random_access:
            order = mine.start + rng.permutation(len(mine))
            yield from zip(order.tolist(), source.read(order), strict=True)
        else:
            yield from _buffered(zip(mine, source.read(mine), strict=True), rng)


def _assemble(
    examples: Iterator[tuple[int, Raw]],
    source: Source,
    form: decoding.Format,
    batch_size: int,
    n_batches: int | None,
    workers: int | None,
    skip_broken: bool,
    what: tuple[str, str],
) -> Generator[Batch, None, None]:
    positions: collections.deque[int] = collections.deque()

    def raws() -> Iterator[Raw]:
        for position, raw in examples:
            positions.append(position)
            yield raw

    def empty() -> Batch:
        shape = (batch_size, form.size, form.size, 3)
        labels, mask = np.zeros(batch_size, np.int32), np.zeros(batch_size, bool)
        return Batch(np.zeros(shape, np.uint8), labels, mask, np.full(batch_size, -1, np.int64))

    done, filled, batch = 0, 0, empty()
    for chunk in decoding.decode(raws(), form, workers=workers):
        index = np.asarray([positions.popleft() for _ in chunk.labels], np.int64)
        good = np.ones(len(index), bool)
        if chunk.broken:
            error = decoding.broken_error(*what, {source.ids[index[i]]: r for i, r in chunk.broken.items()})
            if not skip_broken:
                raise error
            _log.warning("left out: %s", error)
            good[list(chunk.broken)] = False
        start = 0
        while start < len(index):
            n = min(batch_size - filled, len(index) - start)
            here, there = slice(filled, filled + n), slice(start, start + n)
            batch.images[here] = chunk.images[there]
            batch.labels[here] = np.where(good[there], chunk.labels[there], 0)
            batch.mask[here] = good[there]
            batch.index[here] = np.where(good[there], index[there], -1)
            start, filled = start + n, filled + n
            if filled == batch_size:
                yield batch
                done, filled, batch = done + 1, 0, empty()
    while n_batches is not None and done < n_batches:
        yield batch
        done, batch = done + 1, empty()


def batches(
    source: Source,
    form: decoding.Format,
    *,
    batch_size: int,
    epochs: int | None,
    seed: int | None,
    process: int,
    count: int,
    workers: int | None,
    prefetch: int,
    skip_broken: bool,
    what: tuple[str, str],
) -> Iterator[Batch]:
    """The batches of one process; `vtabjax.data.stream` says what the arguments mean."""
    n = len(source.ids)
    n_batches = None if epochs is None else num_batches(n, batch_size, epochs=epochs, count=count)
    examples = _examples(source, share(n, process, count), epochs, seed)
    made = _assemble(examples, source, form, batch_size, n_batches, workers, skip_broken, what)
    return _ahead(made, prefetch)


def _ahead(items: Generator[Batch, None, None], n: int) -> Iterator[Batch]:
    """Computes up to `n` items ahead in a thread of its own; stops when the consumer does."""
    box: queue.Queue = queue.Queue(max(1, n))
    stop = threading.Event()

    def put(item: object) -> bool:
        while not stop.is_set():
            try:
                box.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                if not put(item):
                    break
        except BaseException as e:  # handed over and raised where the batches are used
            error = e
        finally:
            items.close()
            put(_End(error))

    thread = threading.Thread(target=work, name="stream", daemon=True)
    thread.start()
    try:
        while isinstance(item := box.get(), Batch):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stop.set()
        thread.join()
