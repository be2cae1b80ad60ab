"""Exact nearest neighbours on devices: float32 matrix products propose, float64 on the host decides.

Distances are squared and taken as |a|^2 + |b|^2 - 2ab of float32 rows a, b that were centred first. With
u = 2^-24, rows of D numbers and *any* order of summation (Higham, Accuracy and Stability of Numerical
Algorithms, 2nd ed., eq. 3.5: |fl(ab) - ab| <= D u / (1 - D u) |a||b|), such a distance is off by at most

    g (|a|^2 + |b|^2)    with g = 1.01 (D + 64) u,

the 64 covering the rounding of the rows, of the norms and of the sums. Shrinking the norms by 1 - g
therefore turns the product into a lower bound; adding 2 g (|a|^2 + |b|^2) to that gives an upper bound.
Where processors multiply bfloat16 faster, large problems use rows rounded to it: with r the largest relative
norm of what rounding took from a row, ab is off by at most r (1 + r) (|a|^2 + |b|^2) more (Cauchy-Schwarz).

Each row keeps the smallest few lower bounds, and the smallest of all it dropped (`_bounds.py`). Where that
lies above the upper bounds of the best k, the neighbours are proven to be among those kept; for the other
rows the same is done over all columns, in float32 and where that leaves many candidates in float64. Whatever
is still undecided is compared by sum((x - y)^2) of the features as given: in float32 to discard what cannot
be among the nearest, then in float64, ties going to the lowest index.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from vtabjax.parallel import data_mesh
from vtabjax.protocols._arrays import check_memory
from vtabjax.protocols._bounds import ABSOLUTE, LARGE, Space, has_fast_bfloat16, propose, slices

_PAIRS = 1 << 22  # numbers gathered at once in the float64 comparison (32 MiB)


class Nearest(NamedTuple):
    """Neighbours [Q, k] (nearest first, ties by index) and their squared distances [Q, k].

    `tied` [Q]: whether the k-th nearest is exactly as far away as one that is left out.
    """

    neighbours: np.ndarray
    distances: np.ndarray
    tied: np.ndarray


def _pair_distances(space: Space, x: np.ndarray, y: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Exact squared distances [P] between rows `i` [P] of `x` and `j` [P] of `y`."""
    out = np.empty(len(i))
    for part in slices(len(i), max(1, _PAIRS // x.shape[1])):
        out[part] = space.squared(space.exact(x[i[part]]), space.exact(y[j[part]]))
    return out


def _first_equal(x: np.ndarray) -> np.ndarray:
    """For every row the first row with the same bytes, [N]."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(row.tobytes(), i) for i, row in enumerate(x)])


def _discard(x: np.ndarray, y: np.ndarray, query, column, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The candidates whose float32 distance can be among the k nearest of their query, ties with the k-th included."""
    d = np.empty(len(query), np.float32)
    for part in slices(len(query), max(1, (_PAIRS >> 2) // x.shape[1])):
        d[part] = np.square(x[query[part]] - y[column[part]]).sum(1)
    order = np.lexsort((d, query))
    _, starts, inverse = np.unique(query, return_index=True, return_inverse=True)
    # Differences, squares and pairwise sums of non-negative numbers: right to (30 + log2 D) u of the result.
    limit = d[order][starts + k - 1].astype(np.float64) * (1 + 2.0**-16) + 1e-30
    keep = d <= limit[inverse]
    return query[keep], column[keep]


def _choose(space, x, y, query, column, k, distances) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per query the k nearest of its candidates [P]; `query` is sorted and has each at least k times.

    Distances are NaN where one candidate remained for k = 1 and none were asked for.
    """
    n_queries = len(np.unique(query))
    if len(query) > 8 * k * n_queries:
        # Many equal distances, most likely copies of a few rows: compare each pair of contents once.
        fx = _first_equal(x)
        fy = fx if x is y else _first_equal(y)
        pairs, inverse = np.unique(fx[query] * len(y) + fy[column], return_inverse=True)
        d = _pair_distances(space, x, y, pairs // len(y), pairs % len(y))[inverse]
    else:
        if space.mean32 is not None and len(query) > k * n_queries:
            query, column = _discard(x, y, query, column, k)
        d = np.full(len(query), np.nan)
        if distances or k > 1:
            need = slice(None)
        else:
            _, inverse, counts = np.unique(query, return_inverse=True, return_counts=True)
            need = counts[inverse] > 1
        d[need] = _pair_distances(space, x, y, query[need], column[need])
    order = np.lexsort((column, d, query))
    query, column, d = query[order], column[order], d[order]
    starts = np.flatnonzero(np.r_[True, query[1:] != query[:-1]])
    ends = np.r_[starts[1:], len(query)]
    pick = starts[:, None] + np.arange(k)
    following = np.minimum(starts + k, len(query) - 1)
    tied = (starts + k < ends) & (d[following] == d[starts + k - 1])
    return column[pick], d[pick], tied


def _candidates(space, x, y, rows, groups, query_groups, k, dtype) -> tuple[np.ndarray, np.ndarray]:
    """All (query, column) that may be among the k nearest of queries `rows`, by products of type `dtype`."""
    xc, xn = space.centred(x[rows], dtype)
    g = dtype(1.01 * (y.shape[1] + 64) * np.finfo(dtype).epsneg)
    lower, upper = np.empty((len(rows), len(y)), dtype), np.empty((len(rows), len(y)), dtype)
    for part in slices(len(y), 1024):
        c, norms = space.centred(y[part], dtype)
        norms = xn[:, None].astype(dtype) + norms.astype(dtype)
        d = norms - 2 * (xc @ c.T)
        slack = g * norms + dtype(ABSOLUTE if dtype is np.float32 else 1e-290)
        if groups is not None:
            d[query_groups[rows][:, None] == groups[part]] = np.inf
        np.subtract(d, slack, out=lower[:, part])
        np.add(d, slack, out=upper[:, part])
    limit = np.partition(upper, k - 1, axis=1)[:, k - 1 : k]
    query, column = np.nonzero(lower <= limit)
    return rows[query], column


def _second_look(space, x, y, rows, groups, query_groups, k) -> tuple[np.ndarray, np.ndarray]:
    """All (query, column) that may be among the k nearest of queries `rows`, ordered by query."""
    query, column = _candidates(space, x, y, rows, groups, query_groups, k, np.float32)
    inverse, counts = np.unique(query, return_inverse=True, return_counts=True)[1:]
    crowded = counts > 4 * k + 16
    if not crowded.any():
        return query, column
    keep = ~crowded[inverse]
    more = _candidates(space, x, y, rows[crowded], groups, query_groups, k, np.float64)
    query, column = np.r_[query[keep], more[0]], np.r_[column[keep], more[1]]
    order = np.argsort(query, kind="stable")
    return query[order], column[order]


def nearest(
    database: np.ndarray,
    queries: np.ndarray | None,
    *,
    k: int,
    metric: str,
    groups: np.ndarray | None = None,
    mesh: jax.sharding.Mesh | None = None,
    block: int | None = None,
    distances: bool = False,
) -> Nearest:
    """The exact k nearest rows of `database` [N, D] for every row of `queries` [Q, D].

    Args:
      database: checked features.
      queries: checked features; None: every row of the database is one, and finds no row of its own group.
      k: neighbours; every query must have that many to choose from.
      metric: "euclidean" or "cosine".
      groups: group numbers [N] (None: every row is its own group). Only without `queries`.
      mesh: devices to share the queries among (None: all of this process).
      block: rows compared at once (None: 1024 on CPUs, 4096 otherwise).
      distances: fill in `Nearest.distances` everywhere; otherwise rows that needed none hold NaN.
    """
    mesh = data_mesh(jax.local_devices()) if mesh is None else mesh
    device = mesh.devices.flat[0]
    copies = mesh.devices.size if device.platform == "cpu" else 1  # CPU "devices" share one memory
    check_memory(
        4 * copies * (database.size + (0 if queries is None else queries.size)),
        f"nearest neighbours of features {list(database.shape)}",
        "give it fewer examples, or features of fewer principal components",
        device=device,
    )
    space = Space(database, queries, metric)
    x = database if queries is None else queries
    own = queries is None
    if groups is None:
        groups = np.arange(len(database))
    else:
        groups = np.unique(groups, return_inverse=True)[1]
    query_groups = groups if own else np.full(len(x), -2)
    block = block or (1024 if device.platform == "cpu" else 4096)
    try_half = own and mesh.devices.size == 1 and len(x) >= LARGE and has_fast_bfloat16(device)
    for half in (True, False) if try_half else (False,):
        bound, index, rest, query_norms, norms, g = propose(
            space, database, queries, groups, query_groups, k, mesh, block, half
        )
        upper = bound[:, :k] + 2.02 * g * (query_norms[:, None] + norms[index[:, :k]]) + ABSOLUTE
        limit = upper.max(1)
        proven = rest > limit  # nothing that was dropped can be among the nearest
        if proven.mean() > 0.9:  # otherwise a second look at many rows costs more than float32 for all
            break

    neighbours = index[:, :k].copy()
    found = np.full((len(x), k), np.nan)
    tied = np.zeros(len(x), bool)
    candidate = bound <= limit[:, None]
    look = proven if distances or k > 1 else proven & (candidate.sum(1) > 1)
    if look.any():
        rows = np.flatnonzero(look)
        query, slot = np.nonzero(candidate[rows])
        neighbours[rows], found[rows], tied[rows] = _choose(
            space, x, database, rows[query], index[rows[query], slot], k, distances
        )
    rest = np.flatnonzero(~proven)
    step = max(1, min(1024, (1 << 25) // len(database)))
    for part in tqdm(slices(len(rest), step), desc="close neighbours", delay=5, disable=None):
        rows = rest[part]
        query, column = _second_look(space, x, database, rows, groups if own else None, query_groups, k)
        neighbours[rows], found[rows], tied[rows] = _choose(space, x, database, query, column, k, distances)
    return Nearest(neighbours, found, tied)
