"""Reshaping, joining, padding and rearranging."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

__all__ = [
    "view", "reshape", "_unsafe_view", "view_as", "reshape_as", "flatten", "unflatten", "squeeze", "unsqueeze",
    "permute", "transpose", "t", "swapaxes", "movedim", "expand", "expand_as", "broadcast_to", "repeat", "tile",
    "repeat_interleave", "cat", "concat", "stack", "split", "split_with_sizes", "chunk", "tensor_split", "unbind",
    "pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad2d", "roll", "flip", "unfold",
    "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "im2col", "col2im", "narrow", "numpy_T", "diagonal",
]  # fmt: skip


def view(self, size):
    return self.reshape(size)


reshape = view
_unsafe_view = view


def view_as(self, other):
    return self.reshape(other.shape)


reshape_as = view_as


def flatten(self, start_dim=0, end_dim=-1):
    start, end = start_dim % max(self.ndim, 1), end_dim % max(self.ndim, 1)
    return self.reshape(*self.shape[:start], math.prod(self.shape[start : end + 1]), *self.shape[end + 1 :])


def unflatten(self, dim, sizes):
    dim = dim % self.ndim
    if -1 in sizes:
        known = -math.prod(sizes)
        sizes = tuple(self.shape[dim] // known if s == -1 else s for s in sizes)
    return self.reshape(*self.shape[:dim], *sizes, *self.shape[dim + 1 :])


def squeeze(self, dim=None):
    if dim is None:
        return jnp.squeeze(self)
    dims = (dim,) if isinstance(dim, int) else dim
    dims = [d % self.ndim for d in dims]
    return jnp.squeeze(self, tuple(d for d in dims if self.shape[d] == 1))


def unsqueeze(self, dim):
    return jnp.expand_dims(self, dim)


def permute(self, dims):
    return jnp.transpose(self, dims)


def transpose(self, dim0, dim1):
    return jnp.swapaxes(self, dim0, dim1)


swapaxes = transpose


def t(self):
    return jnp.transpose(self)


numpy_T = t


def movedim(self, source, destination):
    return jnp.moveaxis(self, source, destination)


def expand(self, size, *, implicit=False):
    lead = len(size) - self.ndim
    size = [self.shape[i - lead] if s == -1 else s for i, s in enumerate(size)]
    return jnp.broadcast_to(self, size)


def broadcast_to(self, size):
    return expand(self, size)


def expand_as(self, other):
    return jnp.broadcast_to(self, other.shape)


def repeat(self, repeats):
    return jnp.tile(self, repeats)


tile = repeat


def repeat_interleave(self, repeats, dim=None, *, output_size=None):
    return jnp.repeat(self, repeats, axis=dim, total_repeat_length=output_size)


def cat(tensors, dim=0):
    # PyTorch skips the legacy empty tensor of shape [0] whatever the others' rank.
    return jnp.concatenate([x for x in tensors if x.shape != (0,)], axis=dim)


concat = cat


def stack(tensors, dim=0):
    return jnp.stack(tensors, axis=dim)


def _cut(x, sizes, dim):
    parts, start = [], 0
    for size in sizes:
        parts.append(lax.slice_in_dim(x, start, start + size, axis=dim % x.ndim))
        start += size
    return tuple(parts)


def split(self, split_size, dim=0):
    if not isinstance(split_size, int):
        return _cut(self, split_size, dim)
    total = self.shape[dim]
    return _cut(self, [min(split_size, total - i) for i in range(0, total, split_size)], dim)


split_with_sizes = split


def chunk(self, chunks, dim=0):
    return split(self, -(-self.shape[dim] // chunks), dim)


def tensor_split(self, indices_or_sections, dim=0):
    return tuple(jnp.array_split(self, indices_or_sections, axis=dim))


def unbind(self, dim=0):
    return tuple(
        lax.index_in_dim(self, i, axis=dim % self.ndim, keepdims=False) for i in range(self.shape[dim])
    )


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def pad(self, pad, mode="constant", value=None):
    """`pad` counts from the last dimension: (left, right, top, bottom, ...). Negative widths crop."""
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)][::-1]
    pairs = [(0, 0)] * (self.ndim - len(pairs)) + pairs
    if mode == "constant":
        fill = jnp.asarray(0 if value is None else value, self.dtype)
        return lax.pad(self, fill, [(a, b, 0) for a, b in pairs])
    return jnp.pad(self, pairs, mode=_PAD_MODES[mode])


def constant_pad_nd(self, pad_widths, value=0):
    return pad(self, pad_widths, "constant", value)


def reflection_pad1d(self, padding):
    return pad(self, padding, "reflect")


def reflection_pad2d(self, padding):
    return pad(self, padding, "reflect")


def replication_pad2d(self, padding):
    return pad(self, padding, "replicate")


def roll(self, shifts, dims=()):
    if dims in ((), None):
        return jnp.roll(self, shifts)
    return jnp.roll(self, shifts, axis=dims)


def flip(self, dims):
    return jnp.flip(self, dims)


def narrow(self, dim, start, length):
    return lax.slice_in_dim(self, start, start + length, axis=dim % self.ndim)


def diagonal(self, offset=0, dim1=0, dim2=1):
    return jnp.diagonal(self, offset, dim1, dim2)


def unfold(self, dimension, size, step):
    """Windows of `size` every `step` along a dimension, as a new last dimension."""
    dimension = dimension % self.ndim
    count = (self.shape[dimension] - size) // step + 1
    index = jnp.arange(count)[:, None] * step + jnp.arange(size)
    windows = jnp.take(self, index.reshape(-1), axis=dimension)
    windows = windows.reshape(*self.shape[:dimension], count, size, *self.shape[dimension + 1 :])
    return jnp.moveaxis(windows, dimension + 1, -1)


def pixel_shuffle(self, upscale_factor):
    r = upscale_factor
    *lead, c, h, w = self.shape
    x = self.reshape(*lead, c // r**2, r, r, h, w)
    n = len(lead)
    x = jnp.transpose(x, (*range(n + 1), n + 3, n + 1, n + 4, n + 2))
    return x.reshape(*lead, c // r**2, h * r, w * r)


def pixel_unshuffle(self, downscale_factor):
    r = downscale_factor
    *lead, c, h, w = self.shape
    x = self.reshape(*lead, c, h // r, r, w // r, r)
    n = len(lead)
    x = jnp.transpose(x, (*range(n + 1), n + 2, n + 4, n + 1, n + 3))
    return x.reshape(*lead, c * r**2, h // r, w // r)


def channel_shuffle(self, groups):
    b, c, *space = self.shape
    x = jnp.swapaxes(self.reshape(b, groups, c // groups, *space), 1, 2)
    return x.reshape(self.shape)


def _patch_index(size, kernel, dilation, stride, padding):
    """[out, kernel] positions in the padded input."""
    out = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    return jnp.arange(out)[:, None] * stride + jnp.arange(kernel) * dilation


def im2col(self, kernel_size, dilation, padding, stride) -> jax.Array:
    """Sliding blocks [B, C, H, W] -> [B, C * kh * kw, L]."""
    b, c, h, w = self.shape
    (kh, kw), (ph, pw) = kernel_size, padding
    rows = _patch_index(h, kh, dilation[0], stride[0], ph)
    cols = _patch_index(w, kw, dilation[1], stride[1], pw)
    x = jnp.pad(self, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    x = x[:, :, rows[:, :, None, None], cols[None, None]]  # [B, C, oh, kh, ow, kw]
    return jnp.transpose(x, (0, 1, 3, 5, 2, 4)).reshape(b, c * kh * kw, -1)


def col2im(self, output_size, kernel_size, dilation, padding, stride) -> jax.Array:
    """The transpose of im2col: overlapping blocks are summed, [B, C * kh * kw, L] -> [B, C, H, W]."""
    (h, w), (kh, kw), (ph, pw) = output_size, kernel_size, padding
    rows = _patch_index(h, kh, dilation[0], stride[0], ph)
    cols = _patch_index(w, kw, dilation[1], stride[1], pw)
    b = self.shape[0]
    c = self.shape[1] // (kh * kw)
    x = self.reshape(b, c, kh, kw, rows.shape[0], cols.shape[0]).transpose(0, 1, 4, 2, 5, 3)
    out = jnp.zeros((b, c, h + 2 * ph, w + 2 * pw), self.dtype)
    out = out.at[:, :, rows[:, :, None, None], cols[None, None]].add(x)
    return out[:, :, ph : ph + h, pw : pw + w]
