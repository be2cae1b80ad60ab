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

from vtabjax.protocols._arrays import check_memory
from vtabjax.protocols.knn._bounds import ABSOLUTE, LARGE, Proposal, has_fast_bfloat16, look_again, propose
from vtabjax.protocols.knn._space import Search, Space, slices
from vtabjax.runtime import bars
from vtabjax.runtime.devices import data_mesh

_SMALL = 1 << 34  # comparisons of numbers that a few cores make in less than a second
_PAIRS = 1 << 22  # numbers gathered at once in the float64 comparison (32 MiB)


class Nearest(NamedTuple):
    """Neighbours [Q, k] (nearest first, ties by index) and their squared distances [Q, k].

    `tied` [Q]: whether the k-th nearest is exactly as far away as one that is left out.
    """

    neighbours: np.ndarray
    distances: np.ndarray
    tied: np.ndarray


def _pair_distances(search: Search, query: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Exact squared distances [P] of pairs of a query and a row of the database."""
    space, x, y = search.space, search.queries, search.database
    d = np.empty(len(query))
    for part in slices(len(query), max(1, _PAIRS // x.shape[1])):
        d[part] = space.squared(space.exact(x[query[part]]), space.exact(y[column[part]]))
    return d


def _first_equal(x: np.ndarray) -> np.ndarray:
    """For every row the first row with the same bytes, [N]."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(row.tobytes(), i) for i, row in enumerate(x)])


def _discard(search: Search, query: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The candidates whose float32 distance can be among the k nearest of their query, ties with the k-th included."""
    x, y = search.queries, search.database
    d = np.empty(len(query), np.float32)
    for part in slices(len(query), max(1, (_PAIRS >> 2) // x.shape[1])):
        d[part] = np.square(x[query[part]] - y[column[part]]).sum(1)
    order = np.lexsort((d, query))
    _, starts, inverse = np.unique(query, return_index=True, return_inverse=True)
    # Differences, squares and pairwise sums of non-negative numbers: right to (30 + log2 D) u of the result.
    limit = d[order][starts + search.k - 1].astype(np.float64) * (1 + 2.0**-16) + 1e-30
    keep = d <= limit[inverse]
    return query[keep], column[keep]


def _distances_by_content(search: Search, query: np.ndarray, column: np.ndarray) -> np.ndarray:
    """`_pair_distances`, each pair of contents compared once."""
    n = len(search.database)
    first_x = _first_equal(search.queries)
    first_y = first_x if search.within else _first_equal(search.database)
    pairs, inverse = np.unique(first_x[query] * n + first_y[column], return_inverse=True)
    return _pair_distances(search, pairs // n, pairs % n)[inverse]


def _choose(
    search: Search, query: np.ndarray, column: np.ndarray, distances: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per query the k nearest of its candidates [P]; `query` is sorted and has each at least k times.

    Distances are NaN where one candidate remained for k = 1 and none were asked for.
    """
    k = search.k
    n_queries = len(np.unique(query))
    if len(query) > 8 * k * n_queries:  # many equal distances, most likely copies of a few rows
        d = _distances_by_content(search, query, column)
    else:
        if search.space.mean32 is not None and len(query) > k * n_queries:
            query, column = _discard(search, query, column)
        _, inverse, counts = np.unique(query, return_inverse=True, return_counts=True)
        needed = np.ones(len(query), bool) if distances or k > 1 else counts[inverse] > 1
        d = np.full(len(query), np.nan)
        d[needed] = _pair_distances(search, query[needed], column[needed])
    order = np.lexsort((column, d, query))
    query, column, d = query[order], column[order], d[order]
    starts = np.flatnonzero(np.r_[True, query[1:] != query[:-1]])
    ends = np.r_[starts[1:], len(query)]
    pick = starts[:, None] + np.arange(k)
    following = np.minimum(starts + k, len(query) - 1)
    tied = (starts + k < ends) & (d[following] == d[starts + k - 1])
    return column[pick], d[pick], tied


def _candidates(search: Search, rows: np.ndarray, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """All (query, column) that may be among the k nearest of queries `rows`, by products of type `dtype`."""
    space, database = search.space, search.database
    xc, xn = space.centred(search.queries[rows], dtype)
    g = dtype(1.01 * (database.shape[1] + 64) * np.finfo(dtype).epsneg)
    shape = len(rows), len(database)
    lower: np.ndarray = np.empty(shape, dtype)
    upper: np.ndarray = np.empty(shape, dtype)
    for part in slices(len(database), 1024):
        c, norms = space.centred(database[part], dtype)
        norms = xn[:, None].astype(dtype) + norms.astype(dtype)
        d = norms - 2 * (xc @ c.T)
        slack = g * norms + dtype(ABSOLUTE if dtype is np.float32 else 1e-290)
        d[search.query_groups[rows][:, None] == search.groups[part]] = np.inf
        np.subtract(d, slack, out=lower[:, part])
        np.add(d, slack, out=upper[:, part])
    limit = np.partition(upper, search.k - 1, axis=1)[:, search.k - 1 : search.k]
    query, column = np.nonzero(lower <= limit)
    return rows[query], column


def _second_look(search: Search, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All (query, column) that may be among the k nearest of queries `rows`, ordered by query."""
    query, column = _candidates(search, rows, np.float32)
    inverse, counts = np.unique(query, return_inverse=True, return_counts=True)[1:]
    crowded = counts > 4 * search.k + 16
    if not crowded.any():
        return query, column
    keep = ~crowded[inverse]
    more = _candidates(search, rows[crowded], np.float64)
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
      mesh: devices to share the queries among (None: all of this process); a small search runs on the host in any case.
      block: rows compared at once (None: 1024 on CPUs, 4096 otherwise).
      distances: fill in `Nearest.distances` everywhere; otherwise rows that needed none hold NaN.

    Raises:
      MemoryError: a copy of the features on each device would not fit.
    """
    comparisons = (len(database) if queries is None else len(queries)) * database.size
    mesh = _where(data_mesh(jax.local_devices()) if mesh is None else mesh, comparisons)
    device = mesh.devices.flat[0]
    copies = mesh.devices.size if device.platform == "cpu" else 1  # CPU "devices" share one memory
    check_memory(
        4 * copies * (database.size + (0 if queries is None else queries.size)),
        f"nearest neighbours of features {list(database.shape)}",
        "give it fewer examples, or features of fewer principal components",
        device=device,
    )
    numbers = np.arange(len(database)) if groups is None else np.unique(groups, return_inverse=True)[1]
    search = Search(
        space=Space(database, queries, metric),
        queries=database if queries is None else queries,
        database=database,
        query_groups=numbers if queries is None else np.full(len(queries), -2),
        groups=numbers,
        k=k,
    )
    proposal, limit = _propose(search, mesh, block or (1024 if device.platform == "cpu" else 4096))
    found = _decide(search, proposal, limit, distances)
    close = np.flatnonzero(proposal.rest <= limit)
    if len(close) and _host_is_slower(device):
        some, again = look_again(proposal, search, close, mesh)
        limit = again.upper_bounds(k)
        for all_rows, these in zip(found, _decide(some, again, limit, distances), strict=True):
            all_rows[close] = these
        close = close[again.rest <= limit]
    _compare_all(search, close, found, distances)
    return found


def _where(mesh: jax.sharding.Mesh, comparisons: int) -> jax.sharding.Mesh:
    """`mesh`, or the host's processor for a search so small that an accelerator would compile far longer than it works.

    Args:
      mesh: the devices at hand.
      comparisons: of numbers, queries x rows x columns.
    """
    if mesh.devices.flat[0].platform == "cpu" or comparisons > _SMALL:
        return mesh
    try:
        return data_mesh(jax.local_devices(backend="cpu")[:1])
    except RuntimeError:  # JAX_PLATFORMS names accelerators only
        return mesh


def _host_is_slower(device: jax.Device) -> bool:
    """Whether the device compares a few rows with all columns sooner than the host does."""
    return device.platform != "cpu"


def _propose(search: Search, mesh: jax.sharding.Mesh, block: int) -> tuple[Proposal, np.ndarray]:
    """Lower bounds of every query, and the upper bound of its k-th nearest [Q]."""
    whole = search.within and mesh.devices.size == 1 and len(search.queries) >= LARGE
    if whole and has_fast_bfloat16(mesh.devices.flat[0]):
        proposal = propose(search, mesh, block, half=True)
        limit = proposal.upper_bounds(search.k)
        # Otherwise a second look at many rows costs more than float32 for all.
        if (proposal.rest > limit).mean() > 0.9:
            return proposal, limit
    proposal = propose(search, mesh, block, half=False)
    return proposal, proposal.upper_bounds(search.k)


def _decide(search: Search, proposal: Proposal, limit: np.ndarray, distances: bool) -> Nearest:
    """The neighbours among those kept: right where nothing that was dropped can be nearer, `proposal.rest > limit`."""
    k = search.k
    neighbours = proposal.ids[:, :k].copy()
    squared = np.full(neighbours.shape, np.nan)
    tied = np.zeros(len(neighbours), bool)
    proven = proposal.rest > limit
    candidate = proposal.bound <= limit[:, None]
    undecided = proven if distances or k > 1 else proven & (candidate.sum(1) > 1)
    if undecided.any():
        rows = np.flatnonzero(undecided)
        query, slot = np.nonzero(candidate[rows])
        column = proposal.ids[rows[query], slot]
        neighbours[rows], squared[rows], tied[rows] = _choose(search, rows[query], column, distances)
    return Nearest(neighbours, squared, tied)


def _compare_all(search: Search, close: np.ndarray, found: Nearest, distances: bool) -> None:
    """Fills in the queries `close` from a comparison with all columns."""
    step = max(1, min(1024, (1 << 25) // len(search.database)))
    for part in bars.bar(slices(len(close), step), "close neighbours", -(-len(close) // step), delay=5):
        rows = close[part]
        query, column = _second_look(search, rows)
        for all_rows, these in zip(found, _choose(search, query, column, distances), strict=True):
            all_rows[rows] = these
