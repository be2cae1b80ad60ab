"""Lower bounds of distances, blockwise on devices; `_nearest.py` says what they are and what becomes of them."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

_EXTRA = 2  # lower bounds kept beyond the k best, so that few rows need the second look
_EXTRA16 = 9  # the same in bfloat16
_GROUP = 8  # columns compared among themselves first; see _finalists
LARGE = 4096  # examples from which bfloat16 pays
ABSOLUTE = 1e-32  # covers products that underflow in float32 (coordinates are scaled to at most 1)


class Space:
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
            for rows in slices(len(database), 256):
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


def slices(n: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _smallest(d: jax.Array, ids: jax.Array, m: int, axis: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The `m` smallest values along `axis`, their `ids` (which broadcast against `d`), and the next value."""
    infinite = jnp.full_like(jnp.take(d, 0, axis), jnp.inf)
    if m > 16:
        d, ids = jnp.moveaxis(d, axis, -1), jnp.moveaxis(jnp.broadcast_to(ids, d.shape), axis, -1)
        some = min(m + 1, d.shape[-1])
        values, where = jax.lax.top_k(-d, some)
        ids = jnp.take_along_axis(ids, where, -1)[..., :m]
        rest = -values[..., m] if some > m else infinite
        return jnp.moveaxis(-values[..., :m], -1, axis), jnp.moveaxis(ids, -1, axis), rest
    values, found = [], []
    for _ in range(min(m, d.shape[axis])):  # plain minima vectorise, argmin and top_k do not (10x on CPU)
        value = d.min(axis, keepdims=True)
        i = jnp.where(d == value, ids, jnp.iinfo(jnp.int32).max).min(axis, keepdims=True)
        d = jnp.where(ids == i, jnp.inf, d)
        values.append(value)
        found.append(i)
    return jnp.concatenate(values, axis), jnp.concatenate(found, axis), d.min(axis)


def _finalists(d: jax.Array, ids: jax.Array, axis: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The smallest of each of n / 8 groups of `d` along `axis`, their `ids` [n], and the smallest of the others.

    One pass over `d` leaves an eighth of it to search. Members of a group are far apart in the order of the
    examples, where neighbours are often close.
    """
    size = d.shape[axis] // _GROUP
    shape = (-1, 1) if axis == 0 else (1, -1)
    parts = [jax.lax.slice_in_dim(d, s * size, (s + 1) * size, axis=axis) for s in range(_GROUP)]
    names = [ids[s * size : (s + 1) * size].reshape(shape) for s in range(_GROUP)]
    first, second = parts[0], jnp.full_like(parts[0], jnp.inf)
    who = jnp.broadcast_to(names[0], first.shape)
    for part, name in zip(parts[1:], names[1:], strict=True):
        second = jnp.minimum(second, jnp.maximum(first, part))
        who = jnp.where(part < first, name, who)
        first = jnp.minimum(first, part)
    return first, who, second.min(axis)


class _Rows(NamedTuple):
    """A block of rows: coordinates [B, D]; shrunken squared norm (inf: no example), index and group [B]."""

    x: jax.Array
    norm: jax.Array
    index: jax.Array
    group: jax.Array


class _Best(NamedTuple):
    """The smallest lower bounds [B, m] met so far, whose they are, and the smallest of all others [B]."""

    bound: jax.Array
    index: jax.Array
    rest: jax.Array


def _bounds(a: _Rows, b: _Rows, masked: bool) -> jax.Array:
    products = jax.lax.dot_general(
        a.x,
        b.x,
        (((1,), (1,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    d = a.norm[:, None] + b.norm[None, :] - 2 * products
    return jnp.where(a.group[:, None] == b.group[None, :], jnp.inf, d) if masked else d


def _merge(best: _Best, d: jax.Array, index: jax.Array, axis: int, grouped: bool) -> _Best:
    m = best.bound.shape[1]
    if grouped:
        d, ids, rest = _finalists(d, index, axis)
    else:
        ids, rest = index.reshape((-1, 1) if axis == 0 else (1, -1)), best.rest
    *new, other = _smallest(d, ids, m, axis)
    bound, ids = (v.T if axis == 0 else v for v in new)
    bound = jnp.concatenate([best.bound, bound], 1)
    bound, ids, last = _smallest(bound, jnp.concatenate([best.index, ids], 1), m, 1)
    return _Best(bound, ids, jnp.minimum(jnp.minimum(best.rest, rest), jnp.minimum(other, last)))


def _update(best: _Best, a: _Rows, b: _Rows, masked: bool, grouped: bool) -> _Best:
    """`best` of rows `a` after columns `b`."""
    return _merge(best, _bounds(a, b, masked), b.index, 1, grouped)


@functools.partial(jax.jit, static_argnames=("masked", "grouped"))
def _update_both(best_a, best_b, a: _Rows, b: _Rows, *, masked: bool, grouped: bool) -> tuple[_Best, _Best]:
    d = _bounds(a, b, masked)
    return _merge(best_a, d, b.index, 1, grouped), _merge(best_b, d, a.index, 0, grouped)


@functools.partial(jax.jit, static_argnames="grouped")
def _update_self(best: _Best, a: _Rows, *, grouped: bool) -> _Best:
    """`best` of rows `a` after one another: three of the four quarters do."""
    h = a.x.shape[0] // 2
    (p, best_p), (q, best_q) = (
        jax.tree.map(lambda v, s=s: v[s], (a, best)) for s in (slice(h), slice(h, None))
    )
    best_p, best_q = _update_both(best_p, best_q, p, q, masked=True, grouped=grouped)
    best_p, best_q = _update(best_p, p, p, True, grouped), _update(best_q, q, q, True, grouped)
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), best_p, best_q)


@functools.cache
def _sharded_update(mesh: jax.sharding.Mesh, masked: bool, grouped: bool):
    """`_update`, rows shared among the devices of `mesh`."""
    shared, whole = PartitionSpec("data"), PartitionSpec()
    update = functools.partial(_update, masked=masked, grouped=grouped)
    return jax.jit(jax.shard_map(update, mesh=mesh, in_specs=(shared, shared, whole), out_specs=shared))


@jax.jit
def _to_bfloat16(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rows rounded, and the largest of the relative norms of what that took from one."""
    rounded = x.astype(jnp.bfloat16)
    lost = jnp.square(x - rounded.astype(jnp.float32)).sum(1)
    return rounded, jnp.sqrt(jnp.max(lost / jnp.maximum(jnp.square(x).sum(1), 1e-30)))


def has_fast_bfloat16(device: jax.Device) -> bool:
    """Whether a CPU multiplies bfloat16 faster than float32. (On accelerators the host would not keep up.)"""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            flags = f.read(1 << 14).split()
    except OSError:
        return False
    return device.platform == "cpu" and ("avx512_bf16" in flags or "amx_bf16" in flags)


def _block(space: Space, x: np.ndarray, start: int, groups, size: int, sharding) -> tuple[_Rows, np.ndarray]:
    """`x` [n, D] on the device(s), padded to `size` rows numbered from `start`, and its squared norms [n]."""
    c, norms = space.centred(x, np.float32)
    pad = (0, size - len(x))
    rows = _Rows(
        np.pad(c, (pad, (0, 0))) if pad[1] else c,
        np.pad(norms.astype(np.float32), pad, constant_values=np.inf),
        np.arange(start, start + size, dtype=np.int32),
        np.pad(groups.astype(np.int32), pad, constant_values=-1),
    )
    return jax.device_put(rows, sharding), norms


class _Proposal(NamedTuple):
    """What the devices found.

    The smallest lower bounds of every query, whose they are [Q, m] and the smallest of all others [Q]; squared
    norms of queries [Q] and database [N]; g.
    """

    bound: np.ndarray
    index: np.ndarray
    rest: np.ndarray
    query_norms: np.ndarray
    norms: np.ndarray
    g: float


def propose(space, database, queries, groups, query_groups, k, mesh, block, half) -> _Proposal:
    n_devices = mesh.devices.size
    n_blocks = -(-len(database) // block)
    block = -(-len(database) // (2 * _GROUP * n_blocks)) * 2 * _GROUP
    m = min(k + (_EXTRA16 if half else _EXTRA), len(database))
    # Two of the nearest in one group send a row to the second look: with few examples for m, search them all.
    grouped = len(database) >= 40 * m * m
    g = 1.01 * (database.shape[1] + 64) * 2.0**-24
    if half or mesh.devices.flat[0].platform != "cpu":
        g *= 2  # these products are float32 sums in effect, not to the letter
    replicated = NamedSharding(mesh, PartitionSpec())
    columns, norms, lost = [], [], []
    for s in slices(len(database), block):
        rows, n = _block(space, database[s], s.start, groups[s], block, replicated)
        if half:
            x, r = _to_bfloat16(rows.x)
            rows = rows._replace(x=x)
            lost.append(r)
        columns.append(rows)
        norms.append(n)
    norms = np.concatenate(norms)
    if half:
        r = 1.001 * float(max(lost)) + 1e-7
        g += 2.02 * r * (1 + r)
    columns = [rows._replace(norm=rows.norm * np.float32(1 - g)) for rows in columns]

    def start(n, sharding):
        best = _Best(
            np.full((n, m), np.inf, np.float32), np.zeros((n, m), np.int32), np.full(n, np.inf, np.float32)
        )
        return jax.device_put(best, sharding)

    if queries is None and n_devices == 1:
        # The matrix is symmetric: every block above the diagonal serves its rows and its columns.
        masked = len(np.unique(groups)) < len(groups)
        best = [start(block, replicated) for _ in columns]
        total = len(columns) * (len(columns) + 1) // 2
        with tqdm(total=total, desc="nearest neighbours", delay=5, disable=None) as bar:
            for j, b in enumerate(columns):
                for i, a in enumerate(columns[:j]):
                    best[i], best[j] = _update_both(best[i], best[j], a, b, masked=masked, grouped=grouped)
                best[j] = jax.block_until_ready(_update_self(best[j], b, grouped=grouped))
                bar.update(j + 1)
        n, query_norms = len(database), norms
    else:
        x = database if queries is None else queries
        n = len(x)
        chunk = n_devices * min(2 * block, -(-n // n_devices))
        shared = NamedSharding(mesh, PartitionSpec("data"))
        update = _sharded_update(mesh, queries is None, grouped)
        best, query_norms = [], []
        for s in tqdm(slices(n, chunk), desc="nearest neighbours", delay=5, disable=None):
            a, own = _block(space, x[s], s.start, query_groups[s], chunk, shared)
            a = a._replace(norm=a.norm * np.float32(1 - g))
            state = start(chunk, shared)
            for b in columns:
                state = update(state, a, b)
            best.append(jax.block_until_ready(state))
            query_norms.append(own)
        query_norms = np.concatenate(query_norms)
    bound, index, rest = (
        np.concatenate([np.asarray(v) for v in values])[:n] for values in zip(*best, strict=True)
    )
    return _Proposal(
        bound.astype(np.float64), index.astype(np.int64), rest.astype(np.float64), query_norms, norms, g
    )
