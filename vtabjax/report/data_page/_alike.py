"""Pictures that are equal or nearly equal: groups of copies, near copies, labels that contradict each other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

CELLS = 16  # a picture is compared by the means of as many cells a side
# Grey levels of 255. Photographs that are saved again as JPEG (quality 50 and more) or halved differ by less than 2 at
# 224 pixels, a third of their size by up to 2.5; small drawings differ by 1 to 5; other pictures by 8 and more, mostly.
NEAR = 3.0
SHARE = 0.25  # of the distance that is usual between neighbours
NEIGHBOURS = 5  # with which a picture is compared
MOST = 100_000  # different pictures among which neighbours are looked for


class Near(NamedTuple):
    """Two pictures that are nearly equal.

    Attributes:
      first, second: their positions, first < second.
      distance: root mean square of the differences between their cells, in grey levels of 255.
    """

    first: int
    second: int
    distance: float


class Alike(NamedTuple):
    """What is equal or nearly equal.

    Attributes:
      groups: positions of equal pictures, in ascending order, of each picture that is there more than once; the largest
        group first.
      near: pairs of different pictures that are nearly equal, the nearest first. Of equal pictures only the first
        is compared.
      threshold: the distance up to which pictures are nearly equal, in grey levels of 255.
      usual: the median distance of a picture's nearest neighbour, where that is of its class; NaN without any.
      compared: how many different pictures were compared.
      different: how many there are.
    """

    groups: list[list[int]]
    near: list[Near]
    threshold: float
    usual: float
    compared: int
    different: int


def cells(images: np.ndarray) -> np.ndarray:
    """The means of `images` [N, S, S, 3] uint8 over 16 x 16 cells (S x S where they are smaller), [N, D] float32."""
    n, size = images.shape[:2]
    starts = np.arange(min(CELLS, size)) * size // min(CELLS, size)
    sums = np.add.reduceat(np.add.reduceat(images, starts, 1, np.uint32), starts, 2, np.uint32)
    edges = np.diff(np.append(starts, size))
    return (sums / (edges[:, None] * edges)[..., None]).reshape(n, -1).astype(np.float32)


def find(hashes: np.ndarray, labels: np.ndarray, features: np.ndarray, seed: int = 0) -> Alike:
    """Equal and nearly equal pictures.

    Nearly equal are a picture and one of its nearest neighbours if they are no further apart than `NEAR`, and than a
    quarter of what is usual: the median distance between a picture and its nearest neighbour, over those whose nearest
    neighbour is of the same class. The second bound is for data sets in which different pictures differ little
    (rendered scenes, frames of a video).

    Args:
      hashes: [N], equal for equal pictures.
      labels: [N].
      features: `cells` of the pictures, [N, D].
      seed: of the choice where there are more than `MOST` different pictures.
    """
    _, first, which, counts = np.unique(hashes, return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(which, kind="stable")
    members = np.split(order, np.cumsum(counts)[:-1])
    groups = sorted((m.tolist() for m in members if len(m) > 1), key=lambda m: (-len(m), m[0]))

    chosen = np.sort(first)
    if len(chosen) > MOST:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, MOST, replace=False))
    if len(chosen) < 2:
        return Alike(groups, [], NEAR, float("nan"), len(chosen), len(first))
    neighbours = chosen[_nearest(features[chosen], labels[chosen])]
    distances = np.stack([_distances(features, chosen, column) for column in neighbours.T], axis=1)
    same = distances[:, 0][labels[chosen] == labels[neighbours[:, 0]]]
    usual = float(np.median(same)) if len(same) else float("nan")
    threshold = float(np.fmin(NEAR, SHARE * usual))
    near = {}
    for row, column in np.argwhere(distances <= threshold):
        i, j = int(chosen[row]), int(neighbours[row, column])
        near[min(i, j), max(i, j)] = float(distances[row, column])
    pairs = sorted((Near(i, j, d) for (i, j), d in near.items()), key=lambda pair: pair[::-1])
    return Alike(groups, pairs, threshold, usual, len(chosen), len(first))


def _nearest(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Each row's nearest other rows, the nearest first, [N, k]."""
    from vtabjax.protocols import knn

    return knn.leave_one_out(features, labels, k=min(NEIGHBOURS, len(features) - 1)).neighbours


def _distances(features: np.ndarray, first: np.ndarray, second: np.ndarray, block: int = 4096) -> np.ndarray:
    parts = [
        np.sqrt(np.mean((features[first[i : i + block]] - features[second[i : i + block]]) ** 2, axis=1))
        for i in range(0, len(first), block)
    ]
    return np.concatenate(parts).astype(np.float64)
