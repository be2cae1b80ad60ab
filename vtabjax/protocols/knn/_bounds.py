"""Lower bounds of distances, blockwise on devices; `_nearest.py` says what they are and what becomes of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vtabjax.protocols._arrays import mapped
from vtabjax.protocols.knn._space import Search, Space, slices
from vtabjax.runtime import bars

_EXTRA = 2  # lower bounds kept beyond the k best, so that few rows need the second look
_EXTRA16 = 9  # the same in bfloat16
_EXTRA_AGAIN = 14  # the same where a few rows are looked at again on an accelerator
_GROUP = 8  # columns compared among themselves first; see _finalists
LARGE = 4096  # examples from which bfloat16 pays
ABSOLUTE = 1e-32  # covers products that underflow in float32 (coordinates are scaled to at most 1)


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
    smallest, theirs = [], []
    for _ in range(min(m, d.shape[axis])):  # plain minima vectorise, argmin and top_k do not (10x on CPU)
        value = d.min(axis, keepdims=True)
        i = jnp.where(d == value, ids, jnp.iinfo(jnp.int32).max).min(axis, keepdims=True)
        d = jnp.where(ids == i, jnp.inf, d)
        smallest.append(value)
        theirs.append(i)
    return jnp.concatenate(smallest, axis), jnp.concatenate(theirs, axis), d.min(axis)


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


class _About(NamedTuple):
    """Of a block of rows: shrunken squared norms (inf: no example), row numbers and groups [B]."""

    norm: jax.Array
    ids: jax.Array
    group: jax.Array


class _Rows(NamedTuple):
    """A block of rows: coordinates [B, D] and what else is known of them."""

    x: jax.Array
    about: _About


class _Best(NamedTuple):
    """The smallest lower bounds [B, m] met so far, whose they are, and the smallest of all others [B]."""

    bound: jax.Array
    ids: jax.Array
    rest: jax.Array


# Two programs, products and what follows them: the latter takes a second or two to compile and is the same for features
# of every width, so the next model needs new products only.
@jax.jit
def _products(a: jax.Array, b: jax.Array) -> jax.Array:
    """Inner products [B, B'] of rows [B, D] and [B', D]."""
    return jax.lax.dot_general(
        a,
        b,
        (((1,), (1,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


@jax.jit
def _products_of_self(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Three quarters of the inner products of rows with one another; the first transposed is the fourth."""
    p, q = jnp.split(x, 2)
    return _products(p, q), _products(p, p), _products(q, q)


def _bounds(a: _About, b: _About, products: jax.Array, masked: bool) -> jax.Array:
    """Lower bounds of squared distances [B, B'] from inner products; infinite within a group where `masked`."""
    d = a.norm[:, None] + b.norm[None, :] - 2 * products
    return jnp.where(a.group[:, None] == b.group[None, :], jnp.inf, d) if masked else d


def _merge(best: _Best, d: jax.Array, ids: jax.Array, axis: int, grouped: bool) -> _Best:
    """`best` after the bounds `d` of rows numbered `ids` along `axis`."""
    m = best.bound.shape[1]
    if grouped:
        d, ids, rest = _finalists(d, ids, axis)
    else:
        ids, rest = ids.reshape((-1, 1) if axis == 0 else (1, -1)), best.rest
    *new, other = _smallest(d, ids, m, axis)
    bound, ids = (v.T if axis == 0 else v for v in new)
    bound = jnp.concatenate([best.bound, bound], 1)
    bound, ids, last = _smallest(bound, jnp.concatenate([best.ids, ids], 1), m, 1)
    return _Best(bound, ids, jnp.minimum(jnp.minimum(best.rest, rest), jnp.minimum(other, last)))


def _update(best: _Best, a: _About, b: _About, products: jax.Array, masked: bool, grouped: bool) -> _Best:
    """`best` of rows `a` after columns `b`."""
    return _merge(best, _bounds(a, b, products, masked), b.ids, 1, grouped)


@functools.partial(jax.jit, static_argnames=("masked", "grouped"))
def _update_both(
    best_a: _Best, best_b: _Best, a: _About, b: _About, products: jax.Array, *, masked: bool, grouped: bool
) -> tuple[_Best, _Best]:
    """`best_a` of rows `a` after `b`, and `best_b` of rows `b` after `a`, from the same products."""
    d = _bounds(a, b, products, masked)
    return _merge(best_a, d, b.ids, 1, grouped), _merge(best_b, d, a.ids, 0, grouped)


@functools.partial(jax.jit, static_argnames="grouped")
def _update_self(
    best: _Best, a: _About, products: tuple[jax.Array, jax.Array, jax.Array], *, grouped: bool
) -> _Best:
    """`best` of rows `a` after one another, from `_products_of_self`."""
    h = a.norm.shape[0] // 2
    (p, best_p), (q, best_q) = (
        jax.tree.map(lambda v, s=s: v[s], (a, best)) for s in (slice(h), slice(h, None))
    )
    pq, pp, qq = products
    best_p, best_q = _update_both(best_p, best_q, p, q, pq, masked=True, grouped=grouped)
    best_p, best_q = _update(best_p, p, p, pp, True, grouped), _update(best_q, q, q, qq, True, grouped)
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), best_p, best_q)


@functools.cache
def _sharded_update(
    mesh: jax.sharding.Mesh, masked: bool, grouped: bool
) -> Callable[[_Best, _Rows, _Rows], _Best]:
    """`_update`, rows shared among the devices of `mesh`."""
    if mesh.devices.size == 1:  # the products' program is that of `_among_themselves`
        update_alone = jax.jit(functools.partial(_update, masked=masked, grouped=grouped))
        return lambda best, a, b: update_alone(best, a.about, b.about, _products(a.x, b.x))
    shared, whole = PartitionSpec("data"), PartitionSpec()
    multiply = jax.jit(jax.shard_map(_products, mesh=mesh, in_specs=(shared, whole), out_specs=shared))
    own_rows = functools.partial(_update, masked=masked, grouped=grouped)
    specs = (shared, shared, whole, shared)
    update = jax.jit(jax.shard_map(own_rows, mesh=mesh, in_specs=specs, out_specs=shared))
    return lambda best, a, b: update(best, a.about, b.about, multiply(a.x, b.x))


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


def _block(
    space: Space, x: np.ndarray, start: int, groups: np.ndarray, size: int, sharding: jax.sharding.Sharding
) -> tuple[_Rows, np.ndarray]:
    """`x` [n, D] on the device(s), padded to `size` rows numbered from `start`, and its squared norms [n]."""
    c, norms = space.centred(x, np.float32)
    pad = (0, size - len(x))
    about = (
        np.pad(norms.astype(np.float32), pad, constant_values=np.inf),
        np.arange(start, start + size, dtype=np.int32),
        np.pad(groups.astype(np.int32), pad, constant_values=-1),
    )
    rows = np.pad(c, (pad, (0, 0))) if pad[1] else c
    put, about_put = jax.device_put((rows, about), sharding)
    return _Rows(put, _About(*about_put)), norms


def _nothing_yet(n: int, m: int, sharding: jax.sharding.Sharding) -> _Best:
    best = np.full((n, m), np.inf, np.float32), np.zeros((n, m), np.int32), np.full(n, np.inf, np.float32)
    return _Best(*jax.device_put(best, sharding))


def _shrunken(rows: _Rows, g: float) -> _Rows:
    """Rows whose norms make distances lower bounds."""
    return rows._replace(about=rows.about._replace(norm=rows.about.norm * np.float32(1 - g)))


class Proposal(NamedTuple):
    """What the devices found.

    Attributes:
      bound: the smallest lower bounds of every query, [Q, m].
      ids: whose they are, [Q, m].
      rest: the smallest lower bound of all others, [Q].
      query_norms: squared norms of the queries, [Q].
      norms: squared norms of the database, [N].
      g: how far off a distance may be, relative to the sum of the two squared norms.
      columns: the database on the devices.
    """

    bound: np.ndarray
    ids: np.ndarray
    rest: np.ndarray
    query_norms: np.ndarray
    norms: np.ndarray
    g: float
    columns: list[_Rows]

    def upper_bounds(self, k: int) -> np.ndarray:
        """Of the k-th nearest of each query, [Q]."""
        norms = self.query_norms[:, None] + self.norms[self.ids[:, :k]]
        return (self.bound[:, :k] + 2.02 * self.g * norms + ABSOLUTE).max(1)


def propose(search: Search, mesh: jax.sharding.Mesh, block: int, half: bool) -> Proposal:
    """The smallest lower bounds of every query.

    Args:
      search: what is looked for.
      mesh: devices to share the queries among.
      block: about how many rows are compared at once.
      half: round rows to bfloat16.
    """
    n, d = search.database.shape
    size = -(-n // (2 * _GROUP * -(-n // block))) * 2 * _GROUP
    m = min(search.k + (_EXTRA16 if half else _EXTRA), n)
    # Two of the nearest in one group send a row to the second look: with few examples for m, search them all.
    grouped = n >= 40 * m * m
    g = 1.01 * (d + 64) * 2.0**-24
    if half or mesh.devices.flat[0].platform != "cpu":
        g *= 2  # these products are float32 sums in effect, not to the letter
    arriving = _columns(search, size, mesh, half)
    if half:
        arrived = list(arriving)
        r = 1.001 * float(max(column.lost for column in arrived)) + 1e-7
        g += 2.02 * r * (1 + r)
        arriving = iter(arrived)
    columns, column_norms = [], []

    def shrunken() -> Iterator[_Rows]:
        for column in arriving:
            columns.append(_shrunken(column.rows, g))
            column_norms.append(column.norms)
            yield columns[-1]

    if search.within and mesh.devices.size == 1:
        masked = len(np.unique(search.groups)) < n
        best = _among_themselves(shrunken(), -(-n // size), m, mesh, masked, grouped)
        norms = query_norms = np.concatenate(column_norms)
    else:
        chunk = min(2 * size, -(-len(search.queries) // mesh.devices.size))
        best, query_norms = _against(list(shrunken()), search, g, m, mesh, chunk, search.within, grouped)
        norms = np.concatenate(column_norms)
    return _proposal(best, search, query_norms, norms, g, columns)


def look_again(
    proposal: Proposal, search: Search, rows: np.ndarray, mesh: jax.sharding.Mesh
) -> tuple[Search, Proposal]:
    """The search for the queries `rows` alone, and what it found: more bounds of each, and columns not grouped.

    Whatever their number, rows are compared in blocks of one shape: it differs from model to model.
    """
    some = search._replace(queries=search.queries[rows], query_groups=search.query_groups[rows])
    m = min(search.k + _EXTRA_AGAIN, len(search.database))
    size = len(proposal.columns[0].x)
    best, query_norms = _against(
        proposal.columns, some, proposal.g, m, mesh, size, masked=search.within, grouped=False
    )
    return some, _proposal(best, some, query_norms, proposal.norms, proposal.g, proposal.columns)


def _proposal(
    best: list[_Best],
    search: Search,
    query_norms: np.ndarray,
    norms: np.ndarray,
    g: float,
    columns: list[_Rows],
) -> Proposal:
    bound, ids, rest = (
        np.concatenate([np.asarray(v) for v in values])[: len(search.queries)]
        for values in zip(*best, strict=True)
    )
    return Proposal(
        bound=bound.astype(np.float64),
        ids=ids.astype(np.int64),
        rest=rest.astype(np.float64),
        query_norms=query_norms,
        norms=norms,
        g=g,
        columns=columns,
    )


class _Column(NamedTuple):
    """Some rows of the database on every device, their squared norms [n], and the most that rounding took from one."""

    rows: _Rows
    norms: np.ndarray
    lost: jax.Array | float


def _columns(search: Search, size: int, mesh: jax.sharding.Mesh, half: bool) -> Iterator[_Column]:
    """The database, `size` rows at a time; the next are made ready while these are compared."""
    replicated = NamedSharding(mesh, PartitionSpec())

    def column(part: slice) -> _Column:
        rows, norms = _block(
            search.space, search.database[part], part.start, search.groups[part], size, replicated
        )
        x, lost = _to_bfloat16(rows.x) if half else (rows.x, 0.0)
        return _Column(rows._replace(x=x), norms, lost)

    return mapped(column, slices(len(search.database), size), search.database.size)


def _among_themselves(
    blocks: Iterable[_Rows], n_blocks: int, m: int, mesh: jax.sharding.Mesh, masked: bool, grouped: bool
) -> list[_Best]:
    """The best of every block after all blocks: the matrix is symmetric, so each product serves rows and columns."""
    replicated = NamedSharding(mesh, PartitionSpec())
    before: list[_Rows] = []
    best: list[_Best] = []
    with bars.bar(desc="nearest neighbours", total=n_blocks * (n_blocks + 1) // 2, delay=5) as bar:
        for j, b in enumerate(blocks):
            best.append(_nothing_yet(len(b.x), m, replicated))
            for i, a in enumerate(before):
                products = _products(a.x, b.x)
                best[i], best[j] = _update_both(
                    best[i], best[j], a.about, b.about, products, masked=masked, grouped=grouped
                )
            products_of_self = _products_of_self(b.x)
            best[j] = jax.block_until_ready(_update_self(best[j], b.about, products_of_self, grouped=grouped))
            before.append(b)
            bar.update(j + 1)
    return best


def _against(
    columns: list[_Rows],
    search: Search,
    g: float,
    m: int,
    mesh: jax.sharding.Mesh,
    size: int,
    masked: bool,
    grouped: bool,
) -> tuple[list[_Best], np.ndarray]:
    """The best of the queries, in blocks of `size` rows for each device; and the queries' squared norms [Q]."""
    n, chunk = len(search.queries), mesh.devices.size * size
    shared = NamedSharding(mesh, PartitionSpec("data"))
    update = _sharded_update(mesh, masked, grouped)
    best, norms = [], []
    parts: Iterable[slice] = bars.bar(slices(n, chunk), "nearest neighbours", delay=5)
    for part in parts:
        rows, own = _block(
            search.space, search.queries[part], part.start, search.query_groups[part], chunk, shared
        )
        rows = _shrunken(rows, g)
        state = _nothing_yet(chunk, m, shared)
        for column in columns:
            state = update(state, rows, column)
        best.append(jax.block_until_ready(state))
        norms.append(own)
    return best, np.concatenate(norms)
