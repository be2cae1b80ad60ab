"""The embedded data sets: scikit-learn's digits and rendered sprites. They need no file and no network."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from vtabjax.data.sources import sprites
from vtabjax.data.types import Raw, Source
from vtabjax.tasks import Range, Task


def _permutation(n: int, seed: int) -> np.ndarray:
    """A permutation that no numpy version changes: only the bit stream of PCG64 is guaranteed to stay."""
    return np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable")


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    data = load_digits()
    order = _permutation(len(data.images), seed=1)
    return np.rint(data.images * (255 / 16)).astype(np.uint8)[order], data.target[order], order


@functools.cache
def _states(n: int) -> np.ndarray:
    """The first `n` of all states of the sprites in a random order."""
    return _permutation(int(np.prod(sprites.FACTOR_SIZES)), seed=1)[:n]


def open_source(task: Task, ranges: list[Range]) -> Source:
    """The examples of an embedded task in `ranges`."""
    offset = {
        "train": 0,
        "validation": task.sizes["train"],
        "test": task.sizes["train"] + task.sizes["validation"],
    }
    rows = np.concatenate([np.arange(r.start, r.stop) + offset[r.split] for r in ranges])
    if task.name == "digits":
        images, labels, order = _digits()
        ids = [f"digits-{order[i]:04d}" for i in rows]

        def read(positions: Sequence[int] | np.ndarray) -> Iterator[Raw]:
            for i in rows[np.asarray(positions, np.int64)]:
                yield Raw(images[i][:, :, None], task.label({"label": labels[i]}))

    else:
        states = _states(sum(task.sizes.values()))[rows]
        ids = [f"sprite-{state:06d}" for state in states]

        def read(positions: Sequence[int] | np.ndarray) -> Iterator[Raw]:
            for start in range(0, len(positions), 128):
                block = np.asarray(positions[start : start + 128], np.int64)
                factors = sprites.all_factors(states[block])
                for image, factor in zip(sprites.render(factors), factors, strict=True):
                    example = {"label_orientation": factor[2], "label_x_position": factor[3]}
                    yield Raw(image[:, :, None], task.label(example))

    return Source(ids, read, version="1")
