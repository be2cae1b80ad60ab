"""Sprites: a renderer for the factors of dSprites, so that two structured tasks need no download.

dSprites (github.com/google-deepmind/dsprites-dataset) holds every combination of 3 shapes x 6 scales x
40 orientations x 32 x 32 positions as a binary 64 x 64 image. Here: the same factors, shapes of our own.
"""

from __future__ import annotations

import numpy as np

SIZE = 64
# shape (square, ellipse, heart), scale, orientation, x position, y position
FACTOR_SIZES = (3, 6, 40, 32, 32)
_BLOCK = 128  # images rendered at once: some 30 MB of temporaries


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
    images = np.empty((len(factors), SIZE, SIZE), np.uint8)
    for start in range(0, len(factors), _BLOCK):
        images[start : start + _BLOCK] = _render(factors[start : start + _BLOCK])
    return images


def _render(factors: np.ndarray) -> np.ndarray:
    shape, scale, orientation, x, y = factors.T[:, :, None, None]
    size = 0.5 + 0.1 * scale
    angle = 2 * np.pi * orientation / 39
    # One step moves by one pixel. The centre keeps 16.5 pixels from every edge; no shape reaches further.
    pixel = np.arange(SIZE) + 0.5
    dx = (pixel[None, None, :] - (16.5 + x)) / size
    dy = (pixel[None, :, None] - (16.5 + y)) / size
    u = np.cos(angle) * dx + np.sin(angle) * dy
    v = np.cos(angle) * dy - np.sin(angle) * dx
    square = np.maximum(np.abs(u), np.abs(v)) < 10.8
    ellipse = (u / 14.3) ** 2 + (v / 8.7) ** 2 < 1
    # (a^2 + b^2 - 1)^3 < a^2 b^3, the point down (image rows run downwards).
    a, b = u / 10.8, -v / 10.8
    heart = (a * a + b * b - 1) ** 3 < a * a * b**3
    return np.where(shape == 0, square, np.where(shape == 1, ellipse, heart))
