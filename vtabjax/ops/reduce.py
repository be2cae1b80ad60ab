"""Reductions and scans."""

from __future__ import annotations

import jax
import jax.numpy as jnp

__all__ = [
    "sum", "mean", "prod", "amax", "amin", "max", "min", "argmax", "argmin", "var", "std", "var_mean", "std_mean",
    "norm", "linalg_vector_norm", "logsumexp", "any", "all", "cumsum", "cumprod", "topk", "sort", "argsort",
]  # fmt: skip


def _axes(dim):
    """ATen's dims as numpy's: an empty list means all."""
    if dim is None or isinstance(dim, int):
        return dim
    return tuple(dim) or None


def sum(self, dim=None, keepdim=False, *, dtype=None):
    return jnp.sum(self, _axes(dim), dtype=dtype, keepdims=keepdim)


def mean(self, dim=None, keepdim=False, *, dtype=None):
    return jnp.mean(self, _axes(dim), dtype=dtype, keepdims=keepdim)


def prod(self, dim=None, keepdim=False, *, dtype=None):
    return jnp.prod(self, _axes(dim), dtype=dtype, keepdims=keepdim)


def amax(self, dim=(), keepdim=False):
    return jnp.max(self, _axes(dim), keepdims=keepdim)


def amin(self, dim=(), keepdim=False):
    return jnp.min(self, _axes(dim), keepdims=keepdim)


def argmax(self, dim=None, keepdim=False):
    return jnp.argmax(self, dim, keepdims=keepdim and dim is not None)


def argmin(self, dim=None, keepdim=False):
    return jnp.argmin(self, dim, keepdims=keepdim and dim is not None)


def max(self):
    return jnp.max(self)


def min(self):
    return jnp.min(self)


def _max_dim(self, dim, keepdim=False):
    return jnp.max(self, dim, keepdims=keepdim), jnp.argmax(self, dim, keepdims=keepdim)


def _min_dim(self, dim, keepdim=False):
    return jnp.min(self, dim, keepdims=keepdim), jnp.argmin(self, dim, keepdims=keepdim)


def _max_other(self, other):
    return jnp.maximum(self, other)


def _min_other(self, other):
    return jnp.minimum(self, other)


OVERLOADS = {"max.dim": _max_dim, "min.dim": _min_dim, "max.other": _max_other, "min.other": _min_other}


def _ddof(unbiased, correction):
    return int(unbiased) if correction is None else correction


def var(self, dim=None, unbiased=True, keepdim=False, *, correction=None):
    return jnp.var(self, _axes(dim), ddof=_ddof(unbiased, correction), keepdims=keepdim)


def std(self, dim=None, unbiased=True, keepdim=False, *, correction=None):
    return jnp.std(self, _axes(dim), ddof=_ddof(unbiased, correction), keepdims=keepdim)


def var_mean(self, dim=None, unbiased=True, keepdim=False, *, correction=None):
    return var(self, dim, unbiased, keepdim, correction=correction), mean(self, dim, keepdim)


def std_mean(self, dim=None, unbiased=True, keepdim=False, *, correction=None):
    return std(self, dim, unbiased, keepdim, correction=correction), mean(self, dim, keepdim)


def _over_all(function):
    """The .default overloads: over all dimensions, no `dim` before `unbiased`."""

    def run(self, unbiased=True):
        return function(self, None, unbiased)

    return run


def _correction_last(function):
    """The .correction overloads: no `unbiased` between dim and keepdim."""

    def run(self, dim=None, *, correction=None, keepdim=False):
        return function(self, dim, True, keepdim, correction=1 if correction is None else correction)

    return run


for _f in (var, std, var_mean, std_mean):
    OVERLOADS[f"{_f.__name__}.default"] = _over_all(_f)
    OVERLOADS[f"{_f.__name__}.correction"] = _correction_last(_f)


def linalg_vector_norm(self, ord=2, dim=None, keepdim=False, *, dtype=None):
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
    return jnp.sum(jnp.abs(x) ** ord, axes, keepdims=keepdim) ** (1 / ord)


def norm(self, p=2, dim=None, keepdim=False, *, dtype=None):
    return linalg_vector_norm(self, 2 if p is None else p, dim, keepdim, dtype=dtype)


def logsumexp(self, dim, keepdim=False):
    return jax.nn.logsumexp(self, _axes(dim), keepdims=keepdim)


def any(self, dim=None, keepdim=False):
    return jnp.any(self, _axes(dim), keepdims=keepdim)


def all(self, dim=None, keepdim=False):
    return jnp.all(self, _axes(dim), keepdims=keepdim)


def cumsum(self, dim, *, dtype=None):
    return jnp.cumsum(self, dim, dtype=dtype)


def cumprod(self, dim, *, dtype=None):
    return jnp.cumprod(self, dim, dtype=dtype)


def argsort(self, dim=-1, descending=False, *, stable=True):
    """Stable in any case, as `stable=False` allows."""
    return jnp.argsort(self, axis=dim, descending=descending, stable=True)


def sort(self, dim=-1, descending=False, *, stable=True):
    order = argsort(self, dim, descending)
    return jnp.take_along_axis(self, order, axis=dim), order


def topk(self, k, dim=-1, largest=True, sorted=True):
    order = jax.lax.slice_in_dim(argsort(self, dim, largest), 0, k, axis=dim % self.ndim)
    return jnp.take_along_axis(self, order, axis=dim), order
