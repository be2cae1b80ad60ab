"""Reductions and scans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

__all__ = [
    "sum", "mean", "prod", "amax", "amin", "max", "min", "argmax", "argmin", "var", "std", "var_mean", "std_mean",
    "norm", "linalg_vector_norm", "logsumexp", "any", "all", "cumsum", "cumprod", "topk", "sort", "argsort",
    "bucketize",
]  # fmt: skip


def _axes(dim: int | Sequence[int] | None) -> int | tuple[int, ...] | None:
    """ATen's dims as numpy's: an empty list means all."""
    if dim is None or isinstance(dim, int):
        return dim
    return tuple(dim) or None


def sum(
    self: jax.Array,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    return jnp.sum(self, _axes(dim), dtype=dtype, keepdims=keepdim)


def mean(
    self: jax.Array,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    return jnp.mean(self, _axes(dim), dtype=dtype, keepdims=keepdim)


def prod(
    self: jax.Array,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    return jnp.prod(self, _axes(dim), dtype=dtype, keepdims=keepdim)


def amax(self: jax.Array, dim: int | Sequence[int] | None = (), keepdim: bool = False) -> jax.Array:
    return jnp.max(self, _axes(dim), keepdims=keepdim)


def amin(self: jax.Array, dim: int | Sequence[int] | None = (), keepdim: bool = False) -> jax.Array:
    return jnp.min(self, _axes(dim), keepdims=keepdim)


def argmax(self: jax.Array, dim: int | None = None, keepdim: bool = False) -> jax.Array:
    return jnp.argmax(self, dim, keepdims=keepdim and dim is not None)


def argmin(self: jax.Array, dim: int | None = None, keepdim: bool = False) -> jax.Array:
    return jnp.argmin(self, dim, keepdims=keepdim and dim is not None)


def max(self: jax.Array) -> jax.Array:
    return jnp.max(self)


def min(self: jax.Array) -> jax.Array:
    return jnp.min(self)


def _max_dim(self: jax.Array, dim: int, keepdim: bool = False) -> tuple[jax.Array, jax.Array]:
    return jnp.max(self, dim, keepdims=keepdim), jnp.argmax(self, dim, keepdims=keepdim)


def _min_dim(self: jax.Array, dim: int, keepdim: bool = False) -> tuple[jax.Array, jax.Array]:
    return jnp.min(self, dim, keepdims=keepdim), jnp.argmin(self, dim, keepdims=keepdim)


def _max_other(self: jax.Array, other: ArrayLike) -> jax.Array:
    return jnp.maximum(self, other)


def _min_other(self: jax.Array, other: ArrayLike) -> jax.Array:
    return jnp.minimum(self, other)


OVERLOADS = {"max.dim": _max_dim, "min.dim": _min_dim, "max.other": _max_other, "min.other": _min_other}


def _ddof(unbiased: bool, correction: int | None) -> int:
    return int(unbiased) if correction is None else correction


def var(
    self: jax.Array,
    dim: int | Sequence[int] | None = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: int | None = None,
) -> jax.Array:
    return jnp.var(self, _axes(dim), ddof=_ddof(unbiased, correction), keepdims=keepdim)


def std(
    self: jax.Array,
    dim: int | Sequence[int] | None = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: int | None = None,
) -> jax.Array:
    return jnp.std(self, _axes(dim), ddof=_ddof(unbiased, correction), keepdims=keepdim)


def var_mean(
    self: jax.Array,
    dim: int | Sequence[int] | None = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    return var(self, dim, unbiased, keepdim, correction=correction), mean(self, dim, keepdim)


def std_mean(
    self: jax.Array,
    dim: int | Sequence[int] | None = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    return std(self, dim, unbiased, keepdim, correction=correction), mean(self, dim, keepdim)


def _over_all(function: Callable) -> Callable:
    """The .default overloads: over all dimensions, no `dim` before `unbiased`."""

    def run(self: jax.Array, unbiased: bool = True) -> Any:
        return function(self, None, unbiased)

    return run


def _correction_last(function: Callable) -> Callable:
    """The .correction overloads: no `unbiased` between dim and keepdim."""

    def run(
        self: jax.Array,
        dim: int | Sequence[int] | None = None,
        *,
        correction: int | None = None,
        keepdim: bool = False,
    ) -> Any:
        return function(self, dim, True, keepdim, correction=1 if correction is None else correction)

    return run


for _f in (var, std, var_mean, std_mean):
    OVERLOADS[f"{_f.__name__}.default"] = _over_all(_f)
    OVERLOADS[f"{_f.__name__}.correction"] = _correction_last(_f)


def linalg_vector_norm(
    self: jax.Array,
    ord: float = 2,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    x = self if dtype is None else self.astype(dtype)
    axes = _axes(dim)
    if ord == 2:
        # sqrt has an infinite slope at 0; PyTorch's gradient of a zero vector's norm is 0.
        total = jnp.sum(jnp.square(x), axes, keepdims=keepdim)
        positive = total > 0
        return jnp.where(positive, jnp.sqrt(jnp.where(positive, total, 1)), 0)
    if ord == 1:
        return jnp.sum(jnp.abs(x), axes, keepdims=keepdim)
    if ord == float("inf"):
        return jnp.max(jnp.abs(x), axes, keepdims=keepdim)
    if ord == float("-inf"):
        return jnp.min(jnp.abs(x), axes, keepdims=keepdim)
    if ord == 0:
        return jnp.sum(x != 0, axes, keepdims=keepdim).astype(jnp.abs(x).dtype)
    return jnp.sum(jnp.abs(x) ** ord, axes, keepdims=keepdim) ** (1 / ord)


def norm(
    self: jax.Array,
    p: float | None = 2,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    return linalg_vector_norm(self, 2 if p is None else p, dim, keepdim, dtype=dtype)


def logsumexp(self: jax.Array, dim: int | Sequence[int] | None, keepdim: bool = False) -> jax.Array:
    return jax.nn.logsumexp(self, _axes(dim), keepdims=keepdim)


def any(self: jax.Array, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> jax.Array:
    return jnp.any(self, _axes(dim), keepdims=keepdim)


def all(self: jax.Array, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> jax.Array:
    return jnp.all(self, _axes(dim), keepdims=keepdim)


def cumsum(self: jax.Array, dim: int, *, dtype: DTypeLike | None = None) -> jax.Array:
    return jnp.cumsum(self, dim, dtype=dtype)


def cumprod(self: jax.Array, dim: int, *, dtype: DTypeLike | None = None) -> jax.Array:
    return jnp.cumprod(self, dim, dtype=dtype)


def argsort(self: jax.Array, dim: int = -1, descending: bool = False, *, stable: bool = True) -> jax.Array:
    """Stable in any case, as `stable=False` allows."""
    return jnp.argsort(self, axis=dim, descending=descending, stable=True)


def sort(
    self: jax.Array, dim: int = -1, descending: bool = False, *, stable: bool = True
) -> tuple[jax.Array, jax.Array]:
    order = argsort(self, dim, descending)
    return jnp.take_along_axis(self, order, axis=dim), order


def topk(
    self: jax.Array, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[jax.Array, jax.Array]:
    order = jax.lax.slice_in_dim(argsort(self, dim, largest), 0, k, axis=dim % self.ndim)
    return jnp.take_along_axis(self, order, axis=dim), order


def bucketize(
    self: jax.Array, boundaries: jax.Array, *, out_int32: bool = False, right: bool = False
) -> jax.Array:
    """For each value the index of the first boundary that is not below it (`right`: that is above it)."""
    found = jnp.searchsorted(boundaries, self, side="right" if right else "left")
    return found.astype(jnp.int32 if out_int32 else int)
