"""Images that travel channels-last through a graph whose operators speak of [B, C, H, W].

Convolution and pooling want [B, H, W, C]. Were every operator to transpose on its way in and out, XLA's CPU backend
would cancel few of the transposes: element-wise operators between two convolutions would read one order and write the
other, at a fraction of the memory's speed. So `apply` hands on what a convolution made as an `Image`, and operators
that have a rule here work on it as it lies. All others get it transposed, and need not know.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vtabjax.ops import conv, norm, pool

_LAST = {0: 0, 1: 3, 2: 1, 3: 2}  # dimension of [B, C, H, W] -> where it is in [B, H, W, C]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["array"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Image:
    """A value that operators know as [B, C, H, W], kept as `array` [B, H, W, C]."""

    array: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """[B, C, H, W], as operators see it."""
        b, h, w, c = self.array.shape
        return b, c, h, w


def plain(tree: Any) -> Any:
    """`tree` with every Image as an ordinary array [B, C, H, W]."""
    if isinstance(tree, Image):
        return jnp.transpose(tree.array, (0, 3, 1, 2))
    if isinstance(tree, Mapping):
        return {k: plain(v) for k, v in tree.items()}
    if isinstance(tree, (tuple, list)):
        return tuple(plain(v) for v in tree)
    return tree


def call(name: str, function: Callable, args: tuple, kwargs: Mapping[str, Any]) -> Any:
    """``function(*args, **kwargs)`` of the operator `name`, where arguments and result may be Images."""
    rule = _RULES.get(name)
    if rule is not None:
        out = rule(function, *args, **kwargs)
        if out is not NotImplemented:
            return out
    return function(*plain(args), **plain(kwargs))


def batch_norm(x: jax.Array | Image, *args) -> tuple[Any, jax.Array | None, jax.Array | None]:
    """`vtabjax.ops.norm.batch_norm`, of an Image too."""
    if not isinstance(x, Image):
        return norm.batch_norm(x, *args)
    out, mean, var = norm.batch_norm(x.array, *args, axis=-1)
    return Image(out), mean, var


def _image(x: Any) -> Image | None:
    """`x` as an Image where it has the rank of one."""
    if isinstance(x, Image):
        return x
    return Image(jnp.transpose(x, (0, 2, 3, 1))) if getattr(x, "ndim", None) == 4 else None


def _dims(dim: Any) -> tuple[int, ...] | None:
    dims = (dim,) if isinstance(dim, int) else tuple(dim or ())
    return tuple(_LAST[d % 4] for d in dims) or None


def _elementwise(function: Callable, *args, **kwargs) -> Any:
    values = (*args, *kwargs.values())
    if not any(isinstance(v, Image) for v in values) or any(getattr(v, "ndim", 0) > 4 for v in values):
        return NotImplemented

    def operand(value):
        if isinstance(value, Image):
            return value.array
        if getattr(value, "ndim", 0) == 0:
            return value
        return jnp.transpose(value.reshape((1,) * (4 - value.ndim) + value.shape), (0, 2, 3, 1))

    return Image(function(*map(operand, args), **{k: operand(v) for k, v in kwargs.items()}))


def _conv2d(function: Callable, input, weight, *args, **kwargs) -> Any:
    image = _image(input)
    return (
        NotImplemented
        if image is None
        else Image(conv.channels_last(image.array, plain(weight), *args, **kwargs))
    )


def _pool(channels_last: Callable) -> Callable:
    def run(function: Callable, self, *args, **kwargs) -> Any:
        return (
            Image(channels_last(self.array, *args, **kwargs)) if isinstance(self, Image) else NotImplemented
        )

    return run


def _reduce(function: Callable, self, dim=None, keepdim=False, **kwargs) -> Any:
    dims = _dims(dim) if isinstance(self, Image) else None
    if dims is None:
        return NotImplemented
    if keepdim:
        return Image(function(self.array, dims, True, **kwargs))
    if 3 in dims or {1, 2} <= set(dims):  # else the remaining dimensions would be in another order
        return function(self.array, dims, False, **kwargs)
    return NotImplemented


def _cat(function: Callable, tensors, dim=0) -> Any:
    if not any(isinstance(x, Image) for x in tensors):
        return NotImplemented
    images = [_image(x) for x in tensors]
    if None in images:
        return NotImplemented
    return Image(function([i.array for i in images], _LAST[dim % 4]))


def _split(function: Callable, self, sections, dim=0) -> Any:
    if not isinstance(self, Image):
        return NotImplemented
    return tuple(map(Image, function(self.array, sections, _LAST[dim % 4])))


def _permute(function: Callable, self, dims) -> Any:
    dims = tuple(d % len(dims) for d in dims)
    if isinstance(self, Image):
        return function(self.array, tuple(_LAST[d] for d in dims))
    return Image(self) if dims == (0, 3, 1, 2) else NotImplemented


def _pad(function: Callable, self, pad, *args, **kwargs) -> Any:
    if not isinstance(self, Image) or len(pad) > 4:
        return NotImplemented
    return Image(
        function(self.array, (0, 0, *pad), *args, **kwargs)
    )  # from the last dimension on, here the channels


def _group_norm(function: Callable, input, *args, **kwargs) -> Any:
    if not isinstance(input, Image):
        return NotImplemented
    return Image(norm.group_norm(input.array, *args, **kwargs, axis=-1))


def _sym_size(function: Callable, self, dim) -> int:
    return self.shape[dim]


def _getitem(function: Callable, sequence, item) -> Any:
    return sequence[item]


ELEMENTWISE = (
    "relu", "relu6", "gelu", "silu", "sigmoid", "tanh", "hardswish", "hardsigmoid", "hardtanh", "leaky_relu", "elu",
    "celu", "selu", "softplus", "mish", "log_sigmoid", "softsign",
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
