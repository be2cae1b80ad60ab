"""Functions that ejected source brings along, those of them that it uses. Arrays are [B, C, H, W] or [B, N, D]."""

import jax
import jax.numpy as jnp


def _pair(size):
    return (size, size) if isinstance(size, int) else tuple(size)


def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    x = jax.lax.conv_general_dilated(
        x,
        weight,
        window_strides=_pair(stride),
        padding=[(p, p) for p in _pair(padding)],
        rhs_dilation=_pair(dilation),
        feature_group_count=groups,
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
    )
    return x if bias is None else x + bias[:, None, None]


def batch_norm(x, mean, var, weight=1.0, bias=0.0, eps=1e-05):
    """By the running statistics, over dimension 1."""
    shape = (-1,) + (1,) * (x.ndim - 2)
    scale = jax.lax.rsqrt(var + eps) * weight
    return (x - mean.reshape(shape)) * scale.reshape(shape) + bias.reshape(shape)


def layer_norm(x, weight, bias, eps=1e-05):
    """Over the last dimensions, as many as the weight has."""
    axes = tuple(range(-weight.ndim, 0))
    x = x - x.mean(axes, keepdims=True)
    var = jnp.square(x).mean(axes, keepdims=True)
    return x * jax.lax.rsqrt(var + eps) * weight + bias


def group_norm(x, weight, bias, num_groups, eps=1e-05):
    """Over groups of channels, dimension 1."""
    groups = x.reshape(x.shape[0], num_groups, -1)
    groups = groups - groups.mean(-1, keepdims=True)
    groups = groups * jax.lax.rsqrt(jnp.square(groups).mean(-1, keepdims=True) + eps)
    shape = (-1,) + (1,) * (x.ndim - 2)
    return groups.reshape(x.shape) * weight.reshape(shape) + bias.reshape(shape)


def attention(query, key, value, mask=None, scale=None):
    """softmax(Q K' / sqrt(d) + mask) V over the last two dimensions."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    logits = jnp.einsum("...qd,...kd->...qk", query * scale, key)
    if mask is not None:
        masked = mask.dtype == bool
        logits = jnp.where(mask, logits, -jnp.inf) if masked else logits + mask
    return jnp.einsum("...qk,...kd->...qd", jax.nn.softmax(logits), value)


def _edges(size, kernel, stride, padding, ceil_mode):
    """What is added before and after a dimension (more after it with ceil_mode)."""
    if not ceil_mode:
        return padding, padding
    steps = -(-(size + 2 * padding - kernel) // stride)
    steps -= steps * stride >= size + padding
    return padding, max(padding, steps * stride + kernel - size - padding)


def _windows(x, kernel_size, stride, edges, start, function):
    return jax.lax.reduce_window(
        x,
        jnp.asarray(start, x.dtype),
        function,
        (1, 1, *kernel_size),
        (1, 1, *stride),
        [(0, 0), (0, 0), *edges],
    )


def max_pool2d(x, kernel_size, stride, padding=0, ceil_mode=False):
    sizes = (x.shape[2:], _pair(kernel_size), _pair(stride), _pair(padding))
    edges = [_edges(*of_one, ceil_mode) for of_one in zip(*sizes, strict=True)]
    return _windows(x, *sizes[1:3], edges, -jnp.inf, jax.lax.max)


def avg_pool2d(
    x,
    kernel_size,
    stride,
    padding=0,
    ceil_mode=False,
    count_include_pad=True,
):
    sizes = (x.shape[2:], _pair(kernel_size), _pair(stride), _pair(padding))
    edges = [_edges(*of_one, ceil_mode) for of_one in zip(*sizes, strict=True)]
    counted = [(p if count_include_pad else 0,) * 2 for p in sizes[3]]
    widths = [(0, 0), (0, 0), *counted]
    ones = jnp.pad(jnp.ones_like(x[:1, :1]), widths, constant_values=1)
    beyond = [(a - c, b - c) for (a, b), (c, _) in zip(edges, counted, strict=True)]
    total = _windows(x, *sizes[1:3], edges, 0, jax.lax.add)
    return total / _windows(ones, *sizes[1:3], beyond, 0, jax.lax.add)


def pad(x, widths):
    """Zeros around: (before, after) of the last dimension, of the one before it, ..."""
    pairs = list(zip(widths[::2], widths[1::2], strict=True))
    return jnp.pad(x, [(0, 0)] * (x.ndim - len(pairs)) + pairs[::-1])
