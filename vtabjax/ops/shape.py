"""Reshaping, joining, padding and rearranging."""

from __future__ import annotations

import math
from collections.abc import Sequence

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


def view(self: jax.Array, size: Sequence[int]) -> jax.Array:
    return self.reshape(size)


reshape = view
_unsafe_view = view


def view_as(self: jax.Array, other: jax.Array) -> jax.Array:
    return self.reshape(other.shape)


reshape_as = view_as


def flatten(self: jax.Array, start_dim: int = 0, end_dim: int = -1) -> jax.Array:
    start, end = start_dim % max(self.ndim, 1), end_dim % max(self.ndim, 1)
    return self.reshape(*self.shape[:start], math.prod(self.shape[start : end + 1]), *self.shape[end + 1 :])


def unflatten(self: jax.Array, dim: int, sizes: Sequence[int]) -> jax.Array:
    dim = dim % self.ndim
    if -1 in sizes:
        known = -math.prod(sizes)
        sizes = tuple(self.shape[dim] // known if s == -1 else s for s in sizes)
    return self.reshape(*self.shape[:dim], *sizes, *self.shape[dim + 1 :])


def squeeze(self: jax.Array, dim: int | Sequence[int] | None = None) -> jax.Array:
    if dim is None:
        return jnp.squeeze(self)
    dims = (dim,) if isinstance(dim, int) else dim
    dims = [d % self.ndim for d in dims]
    return jnp.squeeze(self, tuple(d for d in dims if self.shape[d] == 1))


def unsqueeze(self: jax.Array, dim: int) -> jax.Array:
    return jnp.expand_dims(self, dim)


def permute(self: jax.Array, dims: Sequence[int]) -> jax.Array:
    return jnp.transpose(self, dims)


def transpose(self: jax.Array, dim0: int, dim1: int) -> jax.Array:
    return jnp.swapaxes(self, dim0, dim1)


swapaxes = transpose


def t(self: jax.Array) -> jax.Array:
    return jnp.transpose(self)


numpy_T = t


def movedim(self: jax.Array, source: int | Sequence[int], destination: int | Sequence[int]) -> jax.Array:
    return jnp.moveaxis(self, source, destination)


def expand(self: jax.Array, size: Sequence[int], *, implicit: bool = False) -> jax.Array:
    lead = len(size) - self.ndim
    size = [self.shape[i - lead] if s == -1 else s for i, s in enumerate(size)]
    return jnp.broadcast_to(self, size)


def broadcast_to(self: jax.Array, size: Sequence[int]) -> jax.Array:
    return expand(self, size)


def expand_as(self: jax.Array, other: jax.Array) -> jax.Array:
    return jnp.broadcast_to(self, other.shape)


def repeat(self: jax.Array, repeats: Sequence[int]) -> jax.Array:
    return jnp.tile(self, repeats)


tile = repeat


def repeat_interleave(
    self: jax.Array, repeats: int, dim: int | None = None, *, output_size: int | None = None
) -> jax.Array:
    return jnp.repeat(self, repeats, axis=dim, total_repeat_length=output_size)


def cat(tensors: Sequence[jax.Array], dim: int = 0) -> jax.Array:
    # PyTorch skips the legacy empty tensor of shape [0] whatever the others' rank.
    return jnp.concatenate([x for x in tensors if x.shape != (0,)], axis=dim)


concat = cat


def stack(tensors: Sequence[jax.Array], dim: int = 0) -> jax.Array:
    return jnp.stack(tensors, axis=dim)


def _cut(x: jax.Array, sizes: Sequence[int], dim: int) -> tuple[jax.Array, ...]:
    parts, start = [], 0
    for size in sizes:
        parts.append(lax.slice_in_dim(x, start, start + size, axis=dim % x.ndim))
        start += size
    return tuple(parts)


def split(self: jax.Array, split_size: int | Sequence[int], dim: int = 0) -> tuple[jax.Array, ...]:
    if not isinstance(split_size, int):
        return _cut(self, split_size, dim)
    total = self.shape[dim]
    return _cut(self, [min(split_size, total - i) for i in range(0, total, split_size)], dim)


split_with_sizes = split


def chunk(self: jax.Array, chunks: int, dim: int = 0) -> tuple[jax.Array, ...]:
    return split(self, -(-self.shape[dim] // chunks), dim)


def tensor_split(
    self: jax.Array, indices_or_sections: int | Sequence[int], dim: int = 0
) -> tuple[jax.Array, ...]:
    return tuple(jnp.array_split(self, indices_or_sections, axis=dim))


def unbind(self: jax.Array, dim: int = 0) -> tuple[jax.Array, ...]:
    return tuple(
        lax.index_in_dim(self, i, axis=dim % self.ndim, keepdims=False) for i in range(self.shape[dim])
    )


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def pad(self: jax.Array, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> jax.Array:
    """`pad` counts from the last dimension: (left, right, top, bottom, ...). Negative widths crop."""
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)][::-1]
    pairs = [(0, 0)] * (self.ndim - len(pairs)) + pairs
    if mode == "constant":
        fill = jnp.asarray(0 if value is None else value, self.dtype)
        return lax.pad(self, fill, [(a, b, 0) for a, b in pairs])
    return jnp.pad(self, pairs, mode=_PAD_MODES[mode])


def constant_pad_nd(self: jax.Array, pad_widths: Sequence[int], value: float = 0) -> jax.Array:
    return pad(self, pad_widths, "constant", value)


def reflection_pad1d(self: jax.Array, padding: Sequence[int]) -> jax.Array:
    return pad(self, padding, "reflect")


def reflection_pad2d(self: jax.Array, padding: Sequence[int]) -> jax.Array:
    return pad(self, padding, "reflect")


def replication_pad2d(self: jax.Array, padding: Sequence[int]) -> jax.Array:
    return pad(self, padding, "replicate")


def roll(self: jax.Array, shifts: int | Sequence[int], dims: int | Sequence[int] | None = ()) -> jax.Array:
    if dims in ((), None):
        return jnp.roll(self, shifts)
    return jnp.roll(self, shifts, axis=dims)


def flip(self: jax.Array, dims: Sequence[int]) -> jax.Array:
    return jnp.flip(self, dims)


def narrow(self: jax.Array, dim: int, start: int, length: int) -> jax.Array:
    return lax.slice_in_dim(self, start, start + length, axis=dim % self.ndim)


def diagonal(self: jax.Array, offset: int = 0, dim1: int = 0, dim2: int = 1) -> jax.Array:
    return jnp.diagonal(self, offset, dim1, dim2)


def unfold(self: jax.Array, dimension: int, size: int, step: int) -> jax.Array:
    """Windows of `size` every `step` along a dimension, as a new last dimension."""
    dimension = dimension % self.ndim
    count = (self.shape[dimension] - size) // step + 1
    index = jnp.arange(count)[:, None] * step + jnp.arange(size)
    windows = jnp.take(self, index.reshape(-1), axis=dimension)
    windows = windows.reshape(*self.shape[:dimension], count, size, *self.shape[dimension + 1 :])
    return jnp.moveaxis(windows, dimension + 1, -1)


def pixel_shuffle(self: jax.Array, upscale_factor: int) -> jax.Array:
    r = upscale_factor
    *lead, c, h, w = self.shape
    x = self.reshape(*lead, c // r**2, r, r, h, w)
    n = len(lead)
    x = jnp.transpose(x, (*range(n + 1), n + 3, n + 1, n + 4, n + 2))
    return x.reshape(*lead, c // r**2, h * r, w * r)


def pixel_unshuffle(self: jax.Array, downscale_factor: int) -> jax.Array:
    r = downscale_factor
    *lead, c, h, w = self.shape
    x = self.reshape(*lead, c, h // r, r, w // r, r)
    n = len(lead)
    x = jnp.transpose(x, (*range(n + 1), n + 2, n + 4, n + 1, n + 3))
    return x.reshape(*lead, c * r**2, h // r, w // r)


def channel_shuffle(self: jax.Array, groups: int) -> jax.Array:
    b, c, *space = self.shape
    x = jnp.swapaxes(self.reshape(b, groups, c // groups, *space), 1, 2)
    return x.reshape(self.shape)


def _patch_index(size: int, kernel: int, dilation: int, stride: int, padding: int) -> jax.Array:
    """[out, kernel] positions in the padded input."""
    out = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    return jnp.arange(out)[:, None] * stride + jnp.arange(kernel) * dilation


def im2col(
    self: jax.Array,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> jax.Array:
    """Sliding blocks [B, C, H, W] -> [B, C * kh * kw, L]."""
    b, c, h, w = self.shape
    (kh, kw), (ph, pw) = kernel_size, padding
    rows = _patch_index(h, kh, dilation[0], stride[0], ph)
    cols = _patch_index(w, kw, dilation[1], stride[1], pw)
    x = jnp.pad(self, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    x = x[:, :, rows[:, :, None, None], cols[None, None]]  # [B, C, oh, kh, ow, kw]
    return jnp.transpose(x, (0, 1, 3, 5, 2, 4)).reshape(b, c * kh * kw, -1)


def col2im(
    self: jax.Array,
    output_size: Sequence[int],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> jax.Array:
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
