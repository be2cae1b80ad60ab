"""How far the best of many models exceeds a bar, where their deviations are distributed as those that were seen."""

from __future__ import annotations

import numpy as np

from vtabjax.ranking import _joint_normal as jn

# Differences of accuracy below this are rounding.
TIE = 1e-9
# Where distribution functions of standardised residuals are tabulated.
_GRID = np.linspace(-6.0, 8.0, 141)


def residual_shapes(joint: jn.JointNormal, columns: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Log distribution functions of standardised residuals on `_GRID`, [D, G]: resampled ones, normal ones, in turn."""
    from scipy import special

    tuned = ~np.isnan(columns[:, -1])
    mean, spread = jn.conditional(joint, columns[tuned, :-1])
    residual = np.where(spread > 0, (columns[tuned, -1] - mean) / np.where(spread > 0, spread, 1.0), 0.0)
    n = residual.shape[1]
    width = 0.9 * n**-0.2
    shares = rng.dirichlet(np.ones(n), len(residual))
    centres = np.sqrt(1 - width**2) * residual
    shapes = np.empty((len(residual), len(_GRID)))
    for i, (centre, share) in enumerate(zip(centres, shares, strict=True)):
        shapes[i] = (
            special.ndtr((_GRID[:, None] - centre) / width) @ share if i % 2 == 0 else special.ndtr(_GRID)
        )
    return np.where(shapes > 1 - 1e-13, 0.0, np.log(np.maximum(shapes, 1e-300)))


def _interpolated(shapes: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The tabulated functions [D, G] at z [D, L]; `np.interp` takes one function at a time."""
    position = np.clip((z - _GRID[0]) / (_GRID[1] - _GRID[0]), 0.0, len(_GRID) - 1.0)
    index = np.minimum(position.astype(int), len(_GRID) - 2)
    below = np.take_along_axis(shapes, index, axis=1)
    return below + (position - index) * (np.take_along_axis(shapes, index + 1, axis=1) - below)


def exceeding(
    mean: np.ndarray, spread: np.ndarray, shape: np.ndarray, bar: np.ndarray, ceiling: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of normal values: each one's chance to exceed a bar [D, L], that of any [D], the best's expected excess [D]."""

    def log_below(level: np.ndarray) -> np.ndarray:
        gap = level[:, None] + TIE - mean
        z = np.where(spread > 0, gap / np.where(spread > 0, spread, 1.0), np.copysign(np.inf, gap))
        return _interpolated(shape, z)

    room = ceiling - bar
    possible = room > TIE
    below = log_below(bar)
    own = np.where(possible[:, None], -np.expm1(below), 0.0)
    some = np.where(possible, -np.expm1(below.sum(1)), 0.0)
    # Above 6 standard deviations nothing is left to integrate.
    width = np.clip((mean + 6 * spread - bar[:, None]).max(1), 0.0, np.maximum(room, 0.0))
    nodes, weights = np.polynomial.legendre.leggauss(16)
    excess = np.zeros(len(bar))
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        excess += weight * -np.expm1(log_below(bar + node * width).sum(1))
    return own, some, excess * width
