"""Nearest neighbours: the score that needs no training, leave-one-out or from train to test.

Puigcerver et al., "Scalable Transfer Learning with Expert Models" (ICLR 2021, arXiv 2009.13239) choose models
by the leave-one-out accuracy of a 1-nearest-neighbour classifier on the task's labelled training examples.
Neighbours here are exact: those that float64 finds by comparing every pair, with ties going to the lowest
index (`_nearest.py` says how).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from vtabjax.protocols._arrays import check_choice, check_features, check_labels, check_same_kind
from vtabjax.protocols.knn._nearest import nearest

METRICS = ("euclidean", "cosine")
VOTES = ("majority", "weighted")


class LeaveOneOut(NamedTuple):
    """A leave-one-out k-nearest-neighbour classification of N examples.

    Attributes:
      accuracy: fraction of examples whose predicted label is their own, in [0, 1].
      predictions: predicted labels, [N].
      neighbours: row numbers of the k nearest, nearest first, equal distances by row number, [N, k].
      n_tied: number of examples whose k-th and (k+1)-th nearest are exactly equally far away (in float64), so
        that the row number decided who is a neighbour.
    """

    accuracy: float
    predictions: np.ndarray
    neighbours: np.ndarray
    n_tied: int

    def __repr__(self) -> str:
        return _said(self)


class Classification(NamedTuple):
    """A k-nearest-neighbour classification of Q examples by N training examples.

    Attributes:
      accuracy: fraction of predictions that are right, in [0, 1]; None where no labels were given.
      predictions: predicted labels, [Q].
      neighbours: row numbers of the k nearest training examples, nearest first, [Q, k].
      n_tied: number of examples whose k-th and (k+1)-th nearest are exactly equally far away.
    """

    accuracy: float | None
    predictions: np.ndarray
    neighbours: np.ndarray
    n_tied: int

    def __repr__(self) -> str:
        return _said(self)


def _said(found: LeaveOneOut | Classification) -> str:
    n, k = found.neighbours.shape
    reached = "" if found.accuracy is None else f"accuracy={found.accuracy:.4g}, "
    return f"{type(found).__name__}({reached}{n:,} examples, k={k}, n_tied={found.n_tied})"


def leave_one_out(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    k: int = 1,
    metric: str = "euclidean",
    mesh: jax.sharding.Mesh | None = None,
    block: int | None = None,
    groups: ArrayLike | None = None,
    vote: str = "majority",
    temperature: float = 0.07,
) -> LeaveOneOut:
    """Classifies every example by its k nearest among the others.

    Memory beyond `features` [N, D]: one float32 copy of them on every device and blocks of `block` x `block`
    distances; the N x N matrix never exists.

    Args:
      features: [N, D], any real type.
      labels: classes [N], as numbers or as text.
      k: how many neighbours vote.
      metric: "euclidean", or "cosine" (1 - cosine similarity; a zero row has similarity 0 to everything).
      mesh: devices to share the work among, over one axis "data" (None: all of this process).
      block: rows compared at once (None: 1024 on CPUs, 4096 otherwise).
      groups: [N], as numbers or as text; examples of one group (frames of one video) are never each other's neighbours.
      vote: "majority" (ties go to the tied class whose member is nearest), or "weighted" by exp(similarity /
        temperature) as DINO does (Caron et al., 2021, arXiv 2104.14294), for metric "cosine".
      temperature: of the weighted vote.

    Raises:
      ValueError: NaN or infinite features, fewer than two examples, fewer than k others to choose from,
        shapes or types that do not fit, an unknown metric or vote.
      MemoryError: the copy of the features would not fit.

    >>> features = [[0.0, 0.1], [0.1, 0.0], [1.0, 0.9], [0.9, 1.0]]
    >>> leave_one_out(features, [0, 0, 1, 1]).accuracy
    1.0
    """
    x = check_features(features)
    y = check_labels(labels, len(x))
    if len(x) < 2:
        raise ValueError("features has 1 row; leave-one-out needs at least 2 examples")
    _check_options(k, metric, vote, temperature, block)
    if k >= len(x):
        raise ValueError(
            f"k={k} but each of the {len(x)} examples has only {len(x) - 1} others; choose a smaller k"
        )
    if groups is not None:
        groups = check_labels(groups, len(x), "groups")
        size = np.unique(groups, return_counts=True)[1].max()
        if len(x) - size < k:
            raise ValueError(
                f"groups: one group has {size} of the {len(x)} examples, which leaves its members "
                f"{len(x) - size} others for k={k} neighbours; choose a smaller k or finer groups"
            )
    found = nearest(
        x, None, k=k, metric=metric, groups=groups, mesh=mesh, block=block, distances=vote == "weighted"
    )
    predictions = _vote(y[found.neighbours], found.distances, vote, temperature)
    return LeaveOneOut(float(np.mean(predictions == y)), predictions, found.neighbours, int(found.tied.sum()))


def at_distance_zero(features: ArrayLike, neighbours: ArrayLike, *, block: int = 1024) -> np.ndarray:
    """Which examples have the very same features as their nearest neighbour, bool [N]: they are copies of one picture,
    most likely, or the model cannot tell two pictures apart.

    Args:
      features: [N, D].
      neighbours: row numbers [N, k], nearest first, as `leave_one_out` gives them.
      block: rows compared at once.

    Example:
      >>> at_distance_zero([[0.0], [5.0], [5.0]], [[1], [2], [1]])
      array([False,  True,  True])
    """
    x, nearest_row = np.asarray(features), np.asarray(neighbours)[:, 0]
    starts = range(0, len(x), block)
    parts = [(x[i : i + block] == x[nearest_row[i : i + block]]).all(1) for i in starts]
    return np.concatenate([np.zeros(0, bool), *parts])


def classify(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    features: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    k: int = 1,
    metric: str = "euclidean",
    mesh: jax.sharding.Mesh | None = None,
    block: int | None = None,
    vote: str = "majority",
    temperature: float = 0.07,
) -> Classification:
    """Classifies examples by their k nearest training examples.

    Args:
      train_features: [N, D].
      train_labels: classes [N], as numbers or as text.
      features: examples to classify, [Q, D].
      labels: their classes [Q], for the accuracy.
      k: how many neighbours vote.
      metric: as in `leave_one_out`, and so are the rest.
      mesh: devices.
      block: rows compared at once.
      vote: "majority" or "weighted".
      temperature: of the weighted vote.

    Raises:
      ValueError, MemoryError: as `leave_one_out`; also features of another width than the training features.

    >>> features = [[0.0, 0.1], [0.1, 0.0], [1.0, 0.9], [0.9, 1.0]]
    >>> classify(features, [0, 0, 1, 1], [[0.2, 0.1]]).predictions
    array([0])
    """
    train_x = check_features(train_features, "train_features")
    train_y = check_labels(train_labels, len(train_x), "train_labels")
    x = check_features(features)
    if x.shape[1] != train_x.shape[1]:
        raise ValueError(
            f"features has {x.shape[1]} columns and train_features {train_x.shape[1]}; they must agree"
        )
    y = None if labels is None else check_labels(labels, len(x))
    if y is not None:
        check_same_kind(train_y, y, "train_labels and labels")
    _check_options(k, metric, vote, temperature, block)
    if k > len(train_x):
        raise ValueError(f"k={k} but there are only {len(train_x)} training examples; choose a smaller k")
    found = nearest(train_x, x, k=k, metric=metric, mesh=mesh, block=block, distances=vote == "weighted")
    predictions = _vote(train_y[found.neighbours], found.distances, vote, temperature)
    accuracy = None if y is None else float(np.mean(predictions == y))
    return Classification(accuracy, predictions, found.neighbours, int(found.tied.sum()))


def _check_options(k: int, metric: str, vote: str, temperature: float, block: int | None) -> None:
    check_choice(metric, METRICS, "metric")
    check_choice(vote, VOTES, "vote")
    for name, value in (("k", k), ("block", 1 if block is None else block)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name}={value!r}; give a positive integer")
    if vote == "weighted" and metric != "cosine":
        raise ValueError(
            f"vote='weighted' weighs by cosine similarity; it needs metric='cosine', not {metric!r}"
        )
    if vote == "weighted" and not 0 < temperature < np.inf:
        raise ValueError(f"temperature={temperature!r}; give a positive number")


def _vote(labels: np.ndarray, distances: np.ndarray, vote: str, temperature: float) -> np.ndarray:
    """The winning label [Q] among `labels` [Q, k], which are ordered by squared distance [Q, k]."""
    if labels.shape[1] == 1:
        return labels[:, 0]
    if vote == "weighted":
        # exp(similarity / T) with similarity = 1 - distance^2 / 2, over the nearest one's to stay in range.
        weights = np.exp((distances[:, :1] - distances) / (2 * temperature))
    else:
        weights = np.ones(labels.shape)
    support = np.zeros(labels.shape)
    for j in range(labels.shape[1]):
        support += weights[:, j : j + 1] * (labels == labels[:, j : j + 1])
    return labels[np.arange(len(labels)), support.argmax(1)]  # the first maximum belongs to the nearest
