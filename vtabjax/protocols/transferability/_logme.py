"""The evidence of a linear model on the features."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vtabjax.protocols._arrays import check_task
from vtabjax.protocols.transferability._decompose import svd


def logme(features: ArrayLike, labels: ArrayLike) -> float:
    """Log maximum evidence: You et al., "LogME" (ICML 2021, arXiv 2102.11005), eq. 2-3.

    For each class, y (its indicator, [N]) ~ N(X w, 1/b), w ~ N(0, 1/a); the evidence maximised over a and b, divided
    by N, and averaged over the classes present. Only t = a/b matters: with b at its optimum N / q(t),

        log p(y) = -N/2 log(2 pi e) + N/2 log(N / q(t)) - 1/2 sum_k log(1 + s_k / t),  q = y' (I + XX'/t)^-1 y,

    s_k the eigenvalues of XX', which is maximised over t in [e^-30, e^30] times the largest s_k. The published
    implementation omits the prior's term for directions outside the row space and so rewards D > N without bound.
    Features are neither centred nor scaled. No upper limit: a class that is an exact linear function of the features
    hits the limit of t.

    Args:
      features: [N, D].
      labels: integers [N].

    Raises:
      ValueError: features or labels do not fit, or there is only one class.

    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(60) % 3
    >>> features = rng.normal(size=(60, 5)) + np.eye(5)[labels]
    >>> round(logme(features, labels), 3)
    -0.762
    """
    from scipy.optimize import minimize_scalar

    x, y, n_classes = check_task(features, labels)
    n = len(x)
    u, s, _ = svd(x, 0.0)
    indicators = np.eye(n_classes)[y]
    base = -0.5 * n * (np.log(2 * np.pi) + 1)
    if not len(s):
        return float(np.mean([base + 0.5 * n * np.log(n / c) for c in indicators.sum(0)]) / n)
    s = (s / s[0]) ** 2
    explained = (u.T @ indicators).T ** 2
    total = indicators.sum(0)
    rest = total - explained.sum(1)
    rest[rest < 1e-12 * total] = 0.0  # in the span of the features but for rounding

    def negative_evidence(log_t: np.ndarray, c: np.ndarray) -> np.ndarray:
        t = np.exp(log_t)
        q = rest[c, None] + explained[c] @ (t / (s[:, None] + t))
        return -(base + 0.5 * n * np.log(n / q) - 0.5 * np.log1p(s[:, None] / t).sum(0))

    grid = np.linspace(-30, 30, 241)
    values = negative_evidence(grid, np.arange(n_classes))
    best = []
    for c in range(n_classes):
        i = values[c].argmin()
        bounds = grid[max(i - 1, 0)], grid[min(i + 1, len(grid) - 1)]
        optimum = minimize_scalar(
            lambda v, c=c: negative_evidence(np.array([v]), np.array([c]))[0, 0],
            bounds=bounds,
            method="bounded",
            options={"xatol": 1e-9},
        )
        best.append(-min(optimum.fun, values[c, i]))
    return float(np.mean(best) / n)
