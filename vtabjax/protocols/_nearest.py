"""Exact nearest neighbours on devices: float32 matrix products propose, float64 on the host decides.

Distances are squared and taken as |a|^2 + |b|^2 - 2ab of float32 rows a, b that were centred first. With
u = 2^-24, rows of D numbers and *any* order of summation (Higham, Accuracy and Stability of Numerical
Algorithms, 2nd ed., eq. 3.5: |fl(ab) - ab| <= D u / (1 - D u) |a||b|), such a distance is off by at most

    g (|a|^2 + |b|^2)    with g = 1.01 (D + 64) u,

the 64 covering the rounding of the rows, of the norms and of the sums. Shrinking the norms by 1 - g
therefore turns the product into a lower bound; adding 2 g (|a|^2 + |b|^2) to that gives an upper bound. Each
row keeps the smallest few lower bounds. Where the next one lies above the upper bounds of the best k, the
neighbours are proven to be among those kept; for the other rows the same is done over all columns with
float64 products. Whatever is still undecided is compared by sum((x - y)^2) in float64 of the features as
given, ties going to the lowest index.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

from vtabjax.parallel import data_mesh

_EXTRA = 3  # lower bounds kept beyond the k best, so that few rows need the second look
_ABSOLUTE = 1e-32  # covers products that underflow in float32 (coordinates are scaled to at most 1)
_PAIRS = 1 << 22  # numbers gathered at once in the float64 comparison (32 MiB)


class Nearest(NamedTuple):
    """Neighbours [Q, k] (nearest first, ties by index) and their squared distances [Q, k].

    `tied` [Q]: whether the k-th nearest is exactly as far away as one that is left out.
    """

    neighbours: np.ndarray
    distances: np.ndarray
    tied: np.ndarray


class _Space:
    """The coordinates distances are taken in: features times a power of two; cosine: over their norm."""

    def __init__(self, database: np.ndarray, queries: np.ndarray | None, metric: str):
        self.cosine = metric == "cosine"
        arrays = [database] if queries is None else [database, queries]
        largest = max(max(float(a.max()), -float(a.min())) for a in arrays)
        # A power of two loses nothing, and squares neither overflow nor vanish.
        self.scale = 1.0 if largest == 0 else 2.0 ** -np.clip(np.frexp(largest)[1], -1000, 1000)
        self.mean = np.zeros(database.shape[1])
        self.mean32 = None
        if not self.cosine:
            single = all(a.dtype == np.float32 for a in arrays) and 1e-9 < largest < 1e9
            for rows in _slices(len(database), 256):
                part = database[rows] if single else self.exact(database[rows])
                self.mean += part.sum(0)
            self.mean /= len(database)
            if single:
                # What is subtracted need not be the mean to the last digit, only the same everywhere:
                # float32 rows less a float32 mean are rounded once, like float64 ones.
                self.mean *= self.scale
                self.mean32 = self.mean.astype(np.float32)

    def exact(self, x: np.ndarray) -> np.ndarray:
        """Coordinates [n, D] in float64."""
        x = x.astype(np.float64) * self.scale
        if not self.cosine:
            return x
        top = np.abs(x).max(1, keepdims=True)
        x /= np.where(top > 0, top, 1)
        norm = np.sqrt((x * x).sum(1, keepdims=True))
        return x / np.where(norm > 0, norm, 1)

    def centred(self, x: np.ndarray, dtype: type) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates less their mean as `dtype` [n, D], and the squared norms of these rounded rows [n]."""
        if dtype == np.float32 and self.mean32 is not None:
            c = x * np.float32(self.scale) - self.mean32
        else:
            c = (self.exact(x) - self.mean).astype(dtype)
        # numpy sums rows pairwise, by 128 with 8 accumulators: off by at most (24 + log2 D) u |c|^2.
        norms = np.square(c).sum(1).astype(np.float64)
        if self.cosine:
            norms[~c.any(1)] = (
                1.0  # |0 - b|^2 must be 2 = 2 (1 - 0): a zero row has similarity 0 to everything
            )
        return c, norms

    def squared(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Squared distances [n] between rows of exact coordinates; for cosine 2 (1 - similarity)."""
        difference = x - y
        d = (difference * difference).sum(1)
        return np.where((x * y).sum(1) == 0, 2.0, d) if self.cosine else d


def _slices(n: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _smallest(d: jax.Array, ids: jax.Array, m: int, axis: int) -> tuple[jax.Array, jax.Array]:
    """The `m` smallest values along `axis`, and their `ids` (which broadcast against `d`), smallest first."""
    if m > 6:
        values, where = jax.lax.top_k(-jnp.moveaxis(d, axis, -1), m)
        ids = jnp.moveaxis(jnp.broadcast_to(ids, d.shape), axis, -1)
        ids = jnp.take_along_axis(ids, where, -1)
        return jnp.moveaxis(-values, -1, axis), jnp.moveaxis(ids, -1, axis)
    values, found = [], []
    for _ in range(m):  # plain minima vectorise, argmin and top_k do not (10x on CPU)
        value = d.min(axis, keepdims=True)
        i = jnp.where(d == value, ids, jnp.iinfo(jnp.int32).max).min(axis, keepdims=True)
        d = jnp.where(ids == i, jnp.inf, d)
        values.append(value)
        found.append(i)
    return jnp.concatenate(values, axis), jnp.concatenate(found, axis)


class _Rows(NamedTuple):
    """A block of rows: coordinates [B, D]; shrunken squared norm (inf: no example), index and group [B]."""

    x: jax.Array
    norm: jax.Array
    index: jax.Array
    group: jax.Array


class _Best(NamedTuple):
    """The smallest lower bounds [B, m] met so far, and whose they are."""

    bound: jax.Array
    index: jax.Array


def _bounds(a: _Rows, b: _Rows, masked: bool) -> jax.Array:
    products = jnp.matmul(a.x, b.x.T, precision=jax.lax.Precision.HIGHEST)
    d = a.norm[:, None] + b.norm[None, :] - 2 * products
    return jnp.where(a.group[:, None] == b.group[None, :], jnp.inf, d) if masked else d


def _merge(best: _Best, d: jax.Array, index: jax.Array, axis: int) -> _Best:
    m = best.bound.shape[1]
    shape = (-1, 1) if axis == 0 else (1, -1)
    new = _smallest(d, index.reshape(shape), min(m, d.shape[axis]), axis)
    bound, ids = (v.T if axis == 0 else v for v in new)
    return _Best(
        *_smallest(jnp.concatenate([best.bound, bound], 1), jnp.concatenate([best.index, ids], 1), m, 1)
    )


def _update(best: _Best, a: _Rows, b: _Rows, masked: bool) -> _Best:
    """`best` of rows `a` after columns `b`."""
    return _merge(best, _bounds(a, b, masked), b.index, 1)


@functools.partial(jax.jit, static_argnames="masked")
def _update_both(best_a: _Best, best_b: _Best, a: _Rows, b: _Rows, *, masked: bool) -> tuple[_Best, _Best]:
    d = _bounds(a, b, masked)
    return _merge(best_a, d, b.index, 1), _merge(best_b, d, a.index, 0)


@jax.jit
def _update_self(best: _Best, a: _Rows) -> _Best:
    """`best` of rows `a` after one another: three of the four quarters do."""
    h = a.x.shape[0] // 2
    (p, best_p), (q, best_q) = (
        jax.tree.map(lambda v, s=s: v[s], (a, best)) for s in (slice(h), slice(h, None))
    )
    best_p, best_q = _update_both(best_p, best_q, p, q, masked=True)
    best_p, best_q = _update(best_p, p, p, True), _update(best_q, q, q, True)
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), best_p, best_q)


@functools.cache
def _sharded_update(mesh: jax.sharding.Mesh, masked: bool):
    """`_update`, rows shared among the devices of `mesh`."""
    shared, whole = PartitionSpec("data"), PartitionSpec()
    update = functools.partial(_update, masked=masked)
    return jax.jit(jax.shard_map(update, mesh=mesh, in_specs=(shared, shared, whole), out_specs=shared))


def _block(
    space: _Space, x: np.ndarray, start: int, groups, size: int, g: float, sharding
) -> tuple[_Rows, np.ndarray]:
    """`x` [n, D] on the device(s), padded to `size` rows numbered from `start`, and its squared norms [n]."""
    c, norms = space.centred(x, np.float32)
    pad = (0, size - len(x))
    rows = _Rows(
        np.pad(c, (pad, (0, 0))) if pad[1] else c,
        np.pad((norms * (1 - g)).astype(np.float32), pad, constant_values=np.inf),
        np.arange(start, start + size, dtype=np.int32),
        np.pad(groups.astype(np.int32), pad, constant_values=-1),
    )
    return jax.device_put(rows, sharding), norms


class _Proposal(NamedTuple):
    """The smallest lower bounds of every query and whose they are [Q, m]; squared norms [Q] and [N]."""

    bound: np.ndarray
    index: np.ndarray
    query_norms: np.ndarray
    norms: np.ndarray


def _propose(space, database, queries, groups, query_groups, m, mesh, block, g) -> _Proposal:
    n_devices = mesh.devices.size
    n_blocks = -(-len(database) // block)
    block = -(-len(database) // (8 * n_blocks)) * 8
    replicated = NamedSharding(mesh, PartitionSpec())
    columns, norms = [], []
    for s in _slices(len(database), block):
        rows, n = _block(space, database[s], s.start, groups[s], block, g, replicated)
        columns.append(rows)
        norms.append(n)
    norms = np.concatenate(norms)

    def start(n, sharding):
        return jax.device_put(
            _Best(np.full((n, m), np.inf, np.float32), np.zeros((n, m), np.int32)), sharding
        )

    if queries is None and n_devices == 1:
        # The matrix is symmetric: every block above the diagonal serves its rows and its columns.
        grouped = len(np.unique(groups)) < len(groups)
        best = [start(block, replicated) for _ in columns]
        total = len(columns) * (len(columns) + 1) // 2
        with tqdm(total=total, desc="nearest neighbours", delay=5, disable=None) as bar:
            for j, b in enumerate(columns):
                for i, a in enumerate(columns[:j]):
                    best[i], best[j] = _update_both(best[i], best[j], a, b, masked=grouped)
                best[j] = jax.block_until_ready(_update_self(best[j], b))
                bar.update(j + 1)
        n, query_norms = len(database), norms
    else:
        x = database if queries is None else queries
        n = len(x)
        chunk = n_devices * min(2 * block, -(-n // n_devices))
        shared = NamedSharding(mesh, PartitionSpec("data"))
        update = _sharded_update(mesh, queries is None)
        best, query_norms = [], []
        for s in tqdm(_slices(n, chunk), desc="nearest neighbours", delay=5, disable=None):
            a, own = _block(space, x[s], s.start, query_groups[s], chunk, g, shared)
            state = start(chunk, shared)
            for b in columns:
                state = update(state, a, b)
            best.append(jax.block_until_ready(state))
            query_norms.append(own)
        query_norms = np.concatenate(query_norms)
    bound = np.concatenate([np.asarray(b.bound) for b in best])[:n].astype(np.float64)
    index = np.concatenate([np.asarray(b.index) for b in best])[:n].astype(np.int64)
    return _Proposal(bound, index, query_norms, norms)


def _pair_distances(space: _Space, x: np.ndarray, y: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Exact squared distances [P] between rows `i` [P] of `x` and `j` [P] of `y`."""
    out = np.empty(len(i))
    for part in _slices(len(i), max(1, _PAIRS // x.shape[1])):
        out[part] = space.squared(space.exact(x[i[part]]), space.exact(y[j[part]]))
    return out


def _first_equal(x: np.ndarray) -> np.ndarray:
    """For every row the first row with the same bytes, [N]."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(row.tobytes(), i) for i, row in enumerate(x)])


def _choose(space, x, y, query, column, k) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per query the k nearest of its candidates [P]; `query` is sorted and has each at least k times."""
    if len(query) > 8 * k * len(np.unique(query)):
        # Many equal distances, most likely copies of a few rows: compare each pair of contents once.
        fx = _first_equal(x)
        fy = fx if x is y else _first_equal(y)
        pairs, inverse = np.unique(fx[query] * len(y) + fy[column], return_inverse=True)
        d = _pair_distances(space, x, y, pairs // len(y), pairs % len(y))[inverse]
    else:
        d = _pair_distances(space, x, y, query, column)
    order = np.lexsort((column, d, query))
    query, column, d = query[order], column[order], d[order]
    starts = np.flatnonzero(np.r_[True, query[1:] != query[:-1]])
    ends = np.r_[starts[1:], len(query)]
    pick = starts[:, None] + np.arange(k)
    following = np.minimum(starts + k, len(query) - 1)
    tied = (starts + k < ends) & (d[following] == d[starts + k - 1])
    return column[pick], d[pick], tied


def _candidates64(space, x, y, rows, groups, query_groups, k) -> tuple[np.ndarray, np.ndarray]:
    """All (query, column) that may be among the k nearest of queries `rows`, by float64 products."""
    u = 1.01 * (y.shape[1] + 64) * 2.0**-53
    xc, xn = space.centred(x[rows], np.float64)
    lower, upper = np.empty((len(rows), len(y))), np.empty((len(rows), len(y)))
    for part in _slices(len(y), 2048):
        c, norms = space.centred(y[part], np.float64)
        d = xn[:, None] + norms - 2 * xc @ c.T
        slack = u * (xn[:, None] + norms) + 1e-290
        if groups is not None:
            d[query_groups[rows][:, None] == groups[part]] = np.inf
        lower[:, part], upper[:, part] = d - slack, d + slack
    limit = np.partition(upper, k - 1, axis=1)[:, k - 1 : k]
    query, column = np.nonzero(lower <= limit)
    return rows[query], column


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
    space = _Space(database, queries, metric)
    x = database if queries is None else queries
    own = queries is None
    if groups is None:
        groups = np.arange(len(database))
    else:
        groups = np.unique(groups, return_inverse=True)[1]
    query_groups = groups if own else np.full(len(x), -2)
    m = min(k + _EXTRA, len(database))
    g = 1.01 * (database.shape[1] + 64) * 2.0**-24
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    if not on_cpu:
        g *= 2  # products of the highest precision are float32 in effect there, not to the letter
    block = block or (1024 if on_cpu else 4096)
    bound, index, query_norms, norms = _propose(
        space, database, queries, groups, query_groups, m, mesh, block, g
    )

    upper = bound[:, :k] + 2.02 * g * (query_norms[:, None] + norms[index[:, :k]]) + _ABSOLUTE
    limit = upper.max(1)
    # Nothing that was dropped has a lower bound below the last one kept.
    proven = (bound[:, -1] > limit) | (m == len(database))

    neighbours = index[:, :k].copy()
    found = np.full((len(x), k), np.nan)
    tied = np.zeros(len(x), bool)
    candidate = bound <= limit[:, None]
    look = proven if distances or k > 1 else proven & (candidate.sum(1) > 1)
    if look.any():
        rows = np.flatnonzero(look)
        query, slot = np.nonzero(candidate[rows])
        neighbours[rows], found[rows], tied[rows] = _choose(
            space, x, database, rows[query], index[rows[query], slot], k
        )
    rest = np.flatnonzero(~proven)
    step = max(1, min(1024, (1 << 25) // len(database)))
    for part in tqdm(_slices(len(rest), step), desc="close neighbours", delay=5, disable=None):
        rows = rest[part]
        query, column = _candidates64(space, x, database, rows, groups if own else None, query_groups, k)
        neighbours[rows], found[rows], tied[rows] = _choose(space, x, database, query, column, k)
    return Nearest(neighbours, found, tied)
