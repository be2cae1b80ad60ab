"""Element-wise arithmetic, comparison and dtype conversion."""

from __future__ import annotations

import jax
import jax.numpy as jnp

__all__ = [
    "add", "sub", "rsub", "mul", "div", "true_divide", "floor_divide", "remainder", "fmod", "pow", "neg", "abs",
    "sqrt", "rsqrt", "square", "reciprocal", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos",
    "tan", "asin", "acos", "atan", "atan2", "erf", "sign", "floor", "ceil", "round", "trunc", "clamp", "clamp_min",
    "clamp_max", "clip", "maximum", "minimum", "where", "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or",
    "logical_not", "bitwise_and", "bitwise_or", "bitwise_not", "isnan", "isinf", "isfinite", "nan_to_num", "to",
    "_to_copy", "type_as", "lerp", "addcmul", "addcdiv", "copy", "detach", "masked_fill",
]  # fmt: skip


def _binary(function):
    def run(self, other):
        return function(self, other)

    return run


def add(self, other, *, alpha=1):
    return self + (other if alpha == 1 else alpha * other)


def sub(self, other, *, alpha=1):
    return self - (other if alpha == 1 else alpha * other)


def rsub(self, other, *, alpha=1):
    return other - (self if alpha == 1 else alpha * self)


def mul(self, other):
    return self * other


def div(self, other, *, rounding_mode=None):
    if rounding_mode is None:
        return jnp.true_divide(self, other)
    if rounding_mode == "floor":
        return jnp.floor_divide(self, other)
    dtype = jnp.result_type(self, other)
    if jnp.issubdtype(dtype, jnp.integer):
        return jax.lax.div(*jnp.broadcast_arrays(jnp.asarray(self, dtype), jnp.asarray(other, dtype)))
    return jnp.trunc(self / other)


true_divide = _binary(jnp.true_divide)
floor_divide = _binary(jnp.floor_divide)
remainder = _binary(jnp.remainder)
fmod = _binary(jnp.fmod)
maximum = _binary(jnp.maximum)
minimum = _binary(jnp.minimum)
eq = _binary(jnp.equal)
ne = _binary(jnp.not_equal)
lt = _binary(jnp.less)
le = _binary(jnp.less_equal)
gt = _binary(jnp.greater)
ge = _binary(jnp.greater_equal)
logical_and = _binary(jnp.logical_and)
logical_or = _binary(jnp.logical_or)
bitwise_and = _binary(jnp.bitwise_and)
bitwise_or = _binary(jnp.bitwise_or)
atan2 = _binary(jnp.arctan2)


def pow(self, exponent):
    if isinstance(exponent, (int, float)) and exponent == int(exponent):
        return jax.lax.integer_pow(self, int(exponent)) if hasattr(self, "dtype") else self**exponent
    return jnp.power(self, exponent)


def _unary(function):
    def run(self):
        return function(self)

    return run


neg = _unary(jnp.negative)
abs = _unary(jnp.abs)
sqrt = _unary(jnp.sqrt)
rsqrt = _unary(jax.lax.rsqrt)
square = _unary(jnp.square)
reciprocal = _unary(jnp.reciprocal)
exp = _unary(jnp.exp)
exp2 = _unary(jnp.exp2)
expm1 = _unary(jnp.expm1)
log = _unary(jnp.log)
log2 = _unary(jnp.log2)
log10 = _unary(jnp.log10)
log1p = _unary(jnp.log1p)
sin = _unary(jnp.sin)
cos = _unary(jnp.cos)
tan = _unary(jnp.tan)
asin = _unary(jnp.arcsin)
acos = _unary(jnp.arccos)
atan = _unary(jnp.arctan)
erf = _unary(jax.scipy.special.erf)
sign = _unary(jnp.sign)
floor = _unary(jnp.floor)
ceil = _unary(jnp.ceil)
round = _unary(jnp.round)
trunc = _unary(jnp.trunc)
logical_not = _unary(jnp.logical_not)
bitwise_not = _unary(jnp.bitwise_not)
isnan = _unary(jnp.isnan)
isinf = _unary(jnp.isinf)
isfinite = _unary(jnp.isfinite)
detach = _unary(jax.lax.stop_gradient)


def nan_to_num(self, nan=None, posinf=None, neginf=None):
    return jnp.nan_to_num(self, nan=nan or 0.0, posinf=posinf, neginf=neginf)


def clamp(self, min=None, max=None):
    # Not jnp.clip, which has half a derivative at the bounds: ATen's is a whole one.
    out = self if min is None else jnp.where(self < min, min, self)
    return out if max is None else jnp.where(out > max, max, out)


clip = clamp


def clamp_min(self, min):
    return clamp(self, min)


def clamp_max(self, max):
    return clamp(self, None, max)


def where(condition, self, other):
    return jnp.where(condition, self, other)


def masked_fill(self, mask, value):
    return jnp.where(mask, jnp.asarray(value, self.dtype), self)


def to(self, *args, **kwargs):
    """Conversion to a dtype or to another tensor's; devices and layouts mean nothing here."""
    for arg in (*args, *kwargs.values()):
        if isinstance(arg, (jnp.dtype, type)) and not isinstance(arg, bool):
            return self.astype(arg)
        if hasattr(arg, "dtype"):
            return self.astype(arg.dtype)
    return self


def _to_copy(self, *, dtype=None):
    return self if dtype is None else self.astype(dtype)


def type_as(self, other):
    return self.astype(other.dtype)


def copy(self, src):
    """The value of `self` after ``self.copy_(src)``."""
    return jnp.broadcast_to(src.astype(self.dtype), self.shape)


def lerp(self, end, weight):
    return self + weight * (end - self)


def addcmul(self, tensor1, tensor2, *, value=1):
    return self + value * tensor1 * tensor2


def addcdiv(self, tensor1, tensor2, *, value=1):
    return self + value * tensor1 / tensor2
