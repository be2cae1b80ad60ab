"""How far the best of many models with normal accuracies exceeds a bar."""

from __future__ import annotations

import numpy as np

# Differences of accuracy below this are rounding.
TIE = 1e-9


def exceeding(
    mean: np.ndarray, spread: np.ndarray, bar: np.ndarray, ceiling: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of normal values: each one's chance to exceed a bar [D, L], that of any [D], the best's expected excess [D]."""
    from scipy import special

    def log_below(level: np.ndarray) -> np.ndarray:
        gap = level[:, None] + TIE - mean
        z = np.where(spread > 0, gap / np.where(spread > 0, spread, 1.0), np.copysign(np.inf, gap))
        return special.log_ndtr(z)

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
