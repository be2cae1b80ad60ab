"""Images that travel channels-last through a graph whose operators speak of [B, C, H, W].

Convolution and pooling want [B, H, W, C]. Were every operator to transpose on its way in and out, XLA's CPU backend
would cancel few of the transposes: element-wise operators between two convolutions would read one order and write the
other, at a fraction of the memory's speed. So `apply` hands on what a convolution made as a `ChannelsLast`. Operators
with a rule here use it directly; the others receive an ordinary array [B, C, H, W].
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vtabjax.ops import conv, norm, pool

_LAST = {0: 0, 1: 3, 2: 1, 3: 2}  # dimension of [B, C, H, W] -> where it is in [B, H, W, C]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["array"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class ChannelsLast:
    """A value that operators know as [B, C, H, W], kept as `array` [B, H, W, C]."""

    array: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """[B, C, H, W], as operators see it."""
        b, h, w, c = self.array.shape
        return b, c, h, w


def plain(tree: Any) -> Any:
    """`tree` with every ChannelsLast as an ordinary array [B, C, H, W]."""
    if isinstance(tree, ChannelsLast):
        return jnp.transpose(tree.array, (0, 3, 1, 2))
    if isinstance(tree, Mapping):
        return {k: plain(v) for k, v in tree.items()}
    if isinstance(tree, (tuple, list)):
        return tuple(plain(v) for v in tree)
    return tree


def call(name: str, function: Callable, args: tuple, kwargs: Mapping[str, Any]) -> Any:
    """``function(*args, **kwargs)`` of the operator `name`, where arguments and result may be ChannelsLast."""
    rule = _RULES.get(name)
    if rule is not None:
        out = rule(function, *args, **kwargs)
        if out is not NotImplemented:
            return out
    return function(*plain(args), **plain(kwargs))


def batch_norm(
    x: jax.Array | ChannelsLast,
    weight: jax.Array | None,
    bias: jax.Array | None,
    running_mean: jax.Array | None,
    running_var: jax.Array | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Any, jax.Array | None, jax.Array | None]:
    """`vtabjax.ops.norm.batch_norm`, of a ChannelsLast too."""
    array, axis = (x.array, -1) if isinstance(x, ChannelsLast) else (x, 1)
    out, mean, var = norm.batch_norm(
        array, weight, bias, running_mean, running_var, training, momentum, eps, axis
    )
    return ChannelsLast(out) if isinstance(x, ChannelsLast) else out, mean, var


def _as_channels_last(x: Any) -> ChannelsLast | None:
    """`x` as a ChannelsLast where it has the rank of one."""
    if isinstance(x, ChannelsLast):
        return x
    return ChannelsLast(jnp.transpose(x, (0, 2, 3, 1))) if getattr(x, "ndim", None) == 4 else None


def _dims(dim: Any) -> tuple[int, ...] | None:
    dims = (dim,) if isinstance(dim, int) else tuple(dim or ())
    return tuple(_LAST[d % 4] for d in dims) or None


def _elementwise(function: Callable, *args: Any, **kwargs: Any) -> Any:
    values = (*args, *kwargs.values())
    if not any(isinstance(v, ChannelsLast) for v in values) or any(getattr(v, "ndim", 0) > 4 for v in values):
        return NotImplemented

    def operand(value: Any) -> Any:
        if isinstance(value, ChannelsLast):
            return value.array
        if getattr(value, "ndim", 0) == 0:
            return value
        return jnp.transpose(value.reshape((1,) * (4 - value.ndim) + value.shape), (0, 2, 3, 1))

    return ChannelsLast(function(*map(operand, args), **{k: operand(v) for k, v in kwargs.items()}))


def _conv2d(function: Callable, input: Any, weight: Any, *args: Any, **kwargs: Any) -> Any:
    image = _as_channels_last(input)
    if image is None:
        return NotImplemented
    return ChannelsLast(conv.conv_channels_last(image.array, plain(weight), *args, **kwargs))


def _pool(pool_channels_last: Callable) -> Callable:
    def run(function: Callable, self: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(self, ChannelsLast):
            return NotImplemented
        return ChannelsLast(pool_channels_last(self.array, *args, **kwargs))

    return run


def _reduce(function: Callable, self: Any, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
    dims = _dims(dim) if isinstance(self, ChannelsLast) else None
    if dims is None:
        return NotImplemented
    if keepdim:
        return ChannelsLast(function(self.array, dims, True, **kwargs))
    if 3 in dims or {1, 2} <= set(dims):  # else the remaining dimensions would be in another order
        return function(self.array, dims, False, **kwargs)
    return NotImplemented


def _cat(function: Callable, tensors: Sequence[Any], dim: int = 0) -> Any:
    if not any(isinstance(x, ChannelsLast) for x in tensors):
        return NotImplemented
    images = [_as_channels_last(x) for x in tensors]
    arrays = [image.array for image in images if image is not None]
    if len(arrays) < len(images):
        return NotImplemented
    return ChannelsLast(function(arrays, _LAST[dim % 4]))


def _split(function: Callable, self: Any, sections: Any, dim: int = 0) -> Any:
    if not isinstance(self, ChannelsLast):
        return NotImplemented
    return tuple(map(ChannelsLast, function(self.array, sections, _LAST[dim % 4])))


def _permute(function: Callable, self: Any, dims: Sequence[int]) -> Any:
    dims = tuple(d % len(dims) for d in dims)
    if isinstance(self, ChannelsLast):
        return function(self.array, tuple(_LAST[d] for d in dims))
    return ChannelsLast(self) if dims == (0, 3, 1, 2) else NotImplemented


def _pad(function: Callable, self: Any, pad: Sequence[int], *args: Any, **kwargs: Any) -> Any:
    if not isinstance(self, ChannelsLast) or len(pad) > 4:
        return NotImplemented
    # Widths count from the last dimension on, here the channels.
    return ChannelsLast(function(self.array, (0, 0, *pad), *args, **kwargs))


def _group_norm(function: Callable, input: Any, *args: Any, **kwargs: Any) -> Any:
    if not isinstance(input, ChannelsLast):
        return NotImplemented
    return ChannelsLast(norm.group_norm(input.array, *args, **(kwargs | {"axis": -1})))


def _sym_size(function: Callable, self: Any, dim: int) -> int:
    return self.shape[dim]


def _getitem(function: Callable, sequence: Any, item: int) -> Any:
    return sequence[item]


ELEMENTWISE = (
    "relu", "relu6", "gelu", "silu", "sigmoid", "tanh", "hardswish", "hardsigmoid", "hardtanh", "leaky_relu", "elu",
    "celu", "selu", "softplus", "mish", "log_sigmoid",
    "add", "sub", "rsub", "mul", "div", "true_divide", "pow", "neg", "abs", "sqrt", "rsqrt", "square", "reciprocal",
    "exp", "log", "sin", "cos", "erf", "sign", "floor", "round", "clamp", "clamp_min", "clamp_max", "clip", "maximum",
    "minimum", "where", "to", "_to_copy", "type_as", "lerp", "addcmul", "addcdiv", "detach", "masked_fill", "expand_as",
    "eq", "ne", "lt", "le", "gt", "ge",
)  # fmt: skip

_RULES: dict[str, Callable] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(("sum", "mean", "amax", "amin"), _reduce),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _split),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    "conv2d": _conv2d,
    "max_pool2d": _pool(pool.max_pool_channels_last),
    "avg_pool2d": _pool(pool.avg_pool_channels_last),
    "adaptive_avg_pool2d": _pool(pool.adaptive_avg_pool_channels_last),
    "group_norm": _group_norm,
    "cat": _cat,
    "permute": _permute,
    "sym_size": _sym_size,
    "operator.getitem": _getitem,
}
