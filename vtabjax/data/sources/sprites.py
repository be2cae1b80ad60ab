"""Sprites: a renderer for the factors of dSprites, so that two structured tasks need no download.

dSprites (github.com/google-deepmind/dsprites-dataset) holds every combination of 3 shapes x 6 scales x
40 orientations x 32 x 32 positions as a binary 64 x 64 image. Here: the same factors, shapes of our own.
"""

from __future__ import annotations

import functools

import numpy as np

SIZE = 64
# shape (square, ellipse, heart), scale, orientation, x position, y position
FACTOR_SIZES = (3, 6, 40, 32, 32)
_WINDOW = 33  # no shape reaches further than 16 pixels from its centre


def all_factors(index: np.ndarray) -> np.ndarray:
    """Factors `[N, 5]` of the states number `index` `[N]` of all 737,280, the last factor varying fastest."""
    return np.stack(np.unravel_index(index, FACTOR_SIZES), axis=1)


def render(factors: np.ndarray) -> np.ndarray:
    """Draws sprites.

    Args:
      factors: `[N, 5]` integers: shape (0 square, 1 ellipse, 2 heart), scale (0 to 5: half to full size),
        orientation (0 to 39: a full turn, both ends included as in dSprites), x and y position (0 to 31).

    Returns:
      `[N, 64, 64]` uint8, 0 or 1. No sprite is cut off.

    Raises:
      ValueError: a factor is out of range.
    """
    factors = np.asarray(factors)
    if factors.ndim != 2 or factors.shape[1] != len(FACTOR_SIZES):
        raise ValueError(f"factors must have shape [N, 5], not {list(factors.shape)}")
    if np.any(factors < 0) or np.any(factors >= FACTOR_SIZES):
        raise ValueError(f"factors must lie in 0 ... {[n - 1 for n in FACTOR_SIZES]}")
    images = np.zeros((len(factors), SIZE, SIZE), np.uint8)
    windows = _windows()
    for image, (shape, scale, orientation, x, y) in zip(images, factors, strict=True):
        image[y : y + _WINDOW, x : x + _WINDOW] = windows[shape, scale, orientation]
    return images


@functools.cache
def _windows() -> np.ndarray:
    """Every shape, scale and orientation `[3, 6, 40, 33, 33]`; one step of a position moves it by one pixel."""
    shape, scale, orientation = np.ogrid[:3, :6, :40]
    offset = np.arange(_WINDOW) - _WINDOW // 2
    shape, scale, orientation = (a[..., None, None] for a in (shape, scale, orientation))
    size = 0.5 + 0.1 * scale
    angle = 2 * np.pi * orientation / 39
    dy, dx = offset[:, None] / size, offset[None, :] / size
    u = np.cos(angle) * dx + np.sin(angle) * dy
    v = np.cos(angle) * dy - np.sin(angle) * dx
    square = np.maximum(np.abs(u), np.abs(v)) < 10.8
    ellipse = (u / 14.3) ** 2 + (v / 8.7) ** 2 < 1
    # (a^2 + b^2 - 1)^3 < a^2 b^3, the point down (image rows run downwards).
    a, b = u / 10.8, -v / 10.8
    heart = (a * a + b * b - 1) ** 3 < a * a * b**3
    return np.where(shape == 0, square, np.where(shape == 1, ellipse, heart)).astype(np.uint8)
