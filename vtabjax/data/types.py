"""What the modules of this package pass to each other: examples, raw examples, errors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np


class DataError(Exception):
    """Examples cannot be read; the message says which and what to do."""


class NotPreparedError(DataError):
    """A data set is not prepared, or not completely, or in another version; the message has the way out."""


class BrokenImageError(DataError):
    """Images that cannot be decoded; the message lists them."""


class CacheError(DataError):
    """The image cache cannot be written."""


class Examples(NamedTuple):
    """The examples of one split of a task.

    Attributes:
      images: `[N, S, S, 3]` uint8, in memory or memory-mapped read-only.
      labels: `[N]` int32.
      ids: `[N]` names of the examples: tfds ids (``dtd-train.tfrecord-00000-of-00004__17``) or paths.
      fingerprint: 16 hexadecimal digits that change with anything that changes the images or the labels.
      hashes: `[N]` uint64, equal for pictures that were stored with equal pixels; None where that is not known.
      groups: `[N]` int64, equal for pictures that belong together, in all splits of the task; None without groups.
    """

    images: np.ndarray
    labels: np.ndarray
    ids: list[str]
    fingerprint: str
    hashes: np.ndarray | None = None
    groups: np.ndarray | None = None

    def __repr__(self) -> str:
        n, height, width, _ = self.images.shape
        n_classes = len(np.unique(self.labels))
        return f"Examples({n:,} images of {height}x{width}, {n_classes} classes, {self.fingerprint})"


class Raw(NamedTuple):
    """An example before decoding.

    Attributes:
      image: an encoded image, the path of one, or `[H, W, C]` uint8.
      label: its class.
    """

    image: bytes | os.PathLike | np.ndarray
    label: int


class Source(NamedTuple):
    """The raw examples of a split, in order.

    Attributes:
      ids: `[N]` names of the examples.
      read: positions -> the raw examples there.
      version: text that changes when the contents behind the same ids do.
      random_access: `read` takes positions in any order; otherwise only a range with step 1.
    """

    ids: list[str]
    read: Callable[[Sequence[int] | np.ndarray], Iterator[Raw]]
    version: str
    random_access: bool = True
