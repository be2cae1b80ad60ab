"""Features of a split: put together from its pieces, or for a fold taken from those of the whole task."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vtabjax import tasks
from vtabjax.data import copies

if TYPE_CHECKING:
    from vtabjax.data import Examples


class SplitFeatures(NamedTuple):
    """A split as a model sees it.

    Attributes:
      features: float32 [N, D].
      labels: int [N].
      logits: float32 [N, K], or None where the model has no classifier (or nobody asked).
      groups: int [N], equal for examples that belong together; None where there are no groups.
    """

    features: np.ndarray
    labels: np.ndarray
    logits: np.ndarray | None
    groups: np.ndarray | None = None


def joined(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Arrays one after the other; None where one of them is."""
    there = [part for part in parts if part is not None]
    return np.concatenate(there) if len(there) == len(parts) else None


def union(pieces: Sequence[SplitFeatures]) -> SplitFeatures:
    """Pieces of a split one after the other."""
    return SplitFeatures(
        np.concatenate([piece.features for piece in pieces]),
        np.concatenate([piece.labels for piece in pieces]),
        joined([piece.logits for piece in pieces]),
        joined([piece.groups for piece in pieces]),
    )


class FoldSplit(NamedTuple):
    """A split of a fold.

    Attributes:
      features: the rows of the split.
      pictures: their hashes; None where they are not known.
      fingerprint: changes with anything that changes images, labels or which examples these are.
    """

    features: SplitFeatures
    pictures: copies.Pictures | None
    fingerprint: str


def of_fold(task: str, split: str, whole: Sequence[tuple[Examples, SplitFeatures]]) -> FoldSplit:
    """A split of a fold, without another pass of the model: rows of the features of the whole task.

    Args:
      task: the fold's name.
      split: "train", "val" or "test".
      whole: examples and features of all splits of the whole task, without pictures that cannot be read.
    """
    fold = tasks.get(task)
    place = {name: i for i, name in enumerate(name for examples, _ in whole for name in examples.ids)}
    names = [f.name for r in tasks.ranges(fold, split) for f in fold.files[r.split][r.start : r.stop]]
    rows = np.array([place[name] for name in names if name in place], np.int64)
    features, labels, logits, groups = union([features for _, features in whole])
    found = SplitFeatures(
        features[rows],
        labels[rows],
        None if logits is None else logits[rows],
        None if groups is None else groups[rows],
    )
    hashes = joined([examples.hashes for examples, _ in whole])
    text = " ".join(examples.fingerprint for examples, _ in whole).encode() + rows.tobytes()
    return FoldSplit(
        found,
        None if hashes is None else copies.Pictures(hashes[rows], found.labels),
        hashlib.sha256(text).hexdigest()[:16],
    )
