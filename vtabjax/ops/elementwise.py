"""Element-wise arithmetic, comparison and dtype conversion."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from vtabjax.ops import _gradients

__all__ = [
    "add", "sub", "rsub", "mul", "div", "true_divide", "floor_divide", "remainder", "fmod", "pow", "neg", "abs",
    "sqrt", "rsqrt", "square", "reciprocal", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos",
    "tan", "asin", "acos", "atan", "atan2", "erf", "sign", "floor", "ceil", "round", "trunc", "clamp", "clamp_min",
    "clamp_max", "clip", "maximum", "minimum", "where", "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or",
    "logical_not", "bitwise_and", "bitwise_or", "bitwise_not", "__and__", "__or__", "isnan", "isinf", "isfinite",
    "nan_to_num", "to", "_to_copy", "type_as", "lerp", "addcmul", "addcdiv", "copy", "detach", "masked_fill",
]  # fmt: skip


def add(self: jax.Array, other: ArrayLike, *, alpha: float = 1) -> jax.Array:
    return self + (other if alpha == 1 else alpha * other)


def sub(self: jax.Array, other: ArrayLike, *, alpha: float = 1) -> jax.Array:
    return self - (other if alpha == 1 else alpha * other)


def rsub(self: jax.Array, other: ArrayLike, *, alpha: float = 1) -> jax.Array:
    return jnp.subtract(other, self if alpha == 1 else alpha * self)


def mul(self: jax.Array, other: ArrayLike) -> jax.Array:
    if isinstance(self, jax.Array) and isinstance(other, jax.Array) and 2 <= self.ndim >= other.ndim >= 1:
        if other.size == other.shape[-1] == self.shape[-1]:  # a number for each channel, as in layer scale
            return _gradients.scale_and_shift(self, other.reshape(-1), None)
    return self * other


def div(self: jax.Array, other: ArrayLike, *, rounding_mode: str | None = None) -> jax.Array:
    if rounding_mode is None:
        return true_divide(self, other)
    if rounding_mode == "floor":
        return jnp.floor_divide(self, other)
    dtype = jnp.result_type(self, other)
    if jnp.issubdtype(dtype, jnp.integer):
        return jax.lax.div(*jnp.broadcast_arrays(jnp.asarray(self, dtype), jnp.asarray(other, dtype)))
    return jnp.trunc(self / other)


def true_divide(self: jax.Array, other: ArrayLike) -> jax.Array:
    tensors = [x for x in (self, other) if hasattr(x, "dtype")]
    if any(jnp.issubdtype(x.dtype, jnp.inexact) for x in tensors):
        return jnp.true_divide(self, other)
    return jnp.true_divide(_float32(self), _float32(other) if hasattr(other, "dtype") else other)


def reciprocal(self: jax.Array) -> jax.Array:
    return jnp.reciprocal(self if jnp.issubdtype(self.dtype, jnp.inexact) else _float32(self))


def _float32(x: ArrayLike) -> jax.Array:
    """Integers as ATen takes them where the result is not one, in a model of float64 too."""
    return jnp.asarray(x).astype(jnp.float32)


floor_divide = jnp.floor_divide
remainder = jnp.remainder
fmod = jnp.fmod
maximum = jnp.maximum
minimum = jnp.minimum
eq = jnp.equal
ne = jnp.not_equal
lt = jnp.less
le = jnp.less_equal
gt = jnp.greater
ge = jnp.greater_equal
logical_and = jnp.logical_and
logical_or = jnp.logical_or
bitwise_and = jnp.bitwise_and
bitwise_or = jnp.bitwise_or
__and__ = jnp.bitwise_and  # what `&` is called
__or__ = jnp.bitwise_or
atan2 = jnp.arctan2


def pow(self: jax.Array, exponent: ArrayLike) -> jax.Array:
    if isinstance(exponent, (int, float)) and exponent == int(exponent):
        return jax.lax.integer_pow(self, int(exponent)) if hasattr(self, "dtype") else self**exponent
    return jnp.power(self, exponent)


neg = jnp.negative
abs = jnp.abs
sqrt = jnp.sqrt
rsqrt = jax.lax.rsqrt
square = jnp.square
exp = jnp.exp
exp2 = jnp.exp2
expm1 = jnp.expm1
log = jnp.log
log2 = jnp.log2
log10 = jnp.log10
log1p = jnp.log1p
sin = jnp.sin
cos = jnp.cos
tan = jnp.tan
asin = jnp.arcsin
acos = jnp.arccos
atan = jnp.arctan
erf = jax.scipy.special.erf
sign = jnp.sign
floor = jnp.floor
ceil = jnp.ceil
round = jnp.round
trunc = jnp.trunc
logical_not = jnp.logical_not
bitwise_not = jnp.bitwise_not
isnan = jnp.isnan
isinf = jnp.isinf
isfinite = jnp.isfinite
detach = jax.lax.stop_gradient


def nan_to_num(
    self: jax.Array, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> jax.Array:
    return jnp.nan_to_num(self, nan=nan or 0.0, posinf=posinf, neginf=neginf)


def clamp(self: jax.Array, min: ArrayLike | None = None, max: ArrayLike | None = None) -> jax.Array:
    # Not jnp.clip, which has half a derivative at the bounds: ATen's is a whole one.
    out = self if min is None else jnp.where(self < min, min, self)
    return out if max is None else jnp.where(out > max, max, out)


clip = clamp


def clamp_min(self: jax.Array, min: ArrayLike) -> jax.Array:
    return clamp(self, min)


def clamp_max(self: jax.Array, max: ArrayLike) -> jax.Array:
    return clamp(self, None, max)


def where(condition: ArrayLike, self: ArrayLike, other: ArrayLike) -> jax.Array:
    return jnp.where(condition, self, other)


def masked_fill(self: jax.Array, mask: jax.Array, value: ArrayLike) -> jax.Array:
    return jnp.where(mask, jnp.asarray(value, self.dtype), self)


def to(self: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
    """Conversion to a dtype or to another tensor's; devices and layouts mean nothing here."""
    for arg in (*args, *kwargs.values()):
        if isinstance(arg, (jnp.dtype, type)) and not isinstance(arg, bool):
            return self.astype(arg)
        if hasattr(arg, "dtype"):
            return self.astype(arg.dtype)
    return self


def _to_copy(self: jax.Array, *, dtype: DTypeLike | None = None) -> jax.Array:
    return self if dtype is None else self.astype(dtype)


def type_as(self: jax.Array, other: jax.Array) -> jax.Array:
    return self.astype(other.dtype)


def copy(self: jax.Array, src: jax.Array) -> jax.Array:
    """The value of `self` after ``self.copy_(src)``."""
    return jnp.broadcast_to(src.astype(self.dtype), self.shape)


def lerp(self: jax.Array, end: jax.Array, weight: ArrayLike) -> jax.Array:
    return self + weight * (end - self)


def addcmul(self: jax.Array, tensor1: jax.Array, tensor2: jax.Array, *, value: float = 1) -> jax.Array:
    return self + value * tensor1 * tensor2


def addcdiv(self: jax.Array, tensor1: jax.Array, tensor2: jax.Array, *, value: float = 1) -> jax.Array:
    return self + value * tensor1 / tensor2
