"""The evidence of a linear model on the features."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from vtabjax.protocols.transferability._decompose import Decomposed, decomposed_task

_GOLDEN = (np.sqrt(5) - 1) / 2


def logme(features: ArrayLike | Decomposed, labels: ArrayLike) -> float:
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
    x, y, n_classes = decomposed_task(features, labels)
    n = len(y)
    sizes = np.bincount(y).astype(np.float64)
    base = -0.5 * n * (np.log(2 * np.pi) + 1)
    model = _fit(x, np.eye(n_classes)[y])
    if model is None:
        return float(np.mean(base + 0.5 * n * np.log(n / sizes)) / n)

    def evidence(log_t: np.ndarray) -> np.ndarray:
        q, log_det = model.at(np.exp(log_t))
        return base + 0.5 * n * np.log(n / q) - 0.5 * log_det

    grid = np.linspace(-30, 30, 241)
    values = evidence(grid[None])
    highest = values.argmax(1)
    low, high = grid[np.maximum(highest - 1, 0)], grid[np.minimum(highest + 1, len(grid) - 1)]
    best = values.max(1)
    for _ in range(43):  # golden section for all classes at once, to 1e-9
        width = _GOLDEN * (high - low)
        left, right = high - width, low + width
        at_left, at_right = evidence(np.stack([left, right], axis=1)).T
        best = np.maximum(best, np.maximum(at_left, at_right))
        low, high = np.where(at_left < at_right, left, low), np.where(at_left < at_right, high, right)
    return float(np.mean(best) / n)


class _Model(NamedTuple):
    """XX' and the classes' indicators in a basis of the examples in which (I + XX'/t)^-1 needs no inversion.

    With X = U S V' + 1 m' (m the mean) and e = 1 / sqrt(N), XX' is, in the basis [U, e], the arrow

        [[S^2, S w], [w' S, |w|^2 + rest]],    w = sqrt(N) V' m,    rest = N |m|^2 - |w|^2,

    so that one decomposition, that of the centred features, serves this score as all others. Everything is divided by
    the largest eigenvalue of XX'.

    Attributes:
      s: singular values S [r].
      w: see above, [r].
      rest: see above.
      y: the indicators along U, [C, r].
      y_mean: along e, [C].
      y_rest: the squared norms of what is outside, [C].
    """

    s: np.ndarray
    w: np.ndarray
    rest: float
    y: np.ndarray
    y_mean: np.ndarray
    y_rest: np.ndarray

    def at(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """q(t) = y' (I + XX'/t)^-1 y and log det(I + XX'/t), [C, T], at t [C or 1, T]."""
        inverse = 1 / (self.s**2 + t[..., None])  # [C or 1, T, r]
        share = t[..., None] * inverse
        corner = 1 + (self.rest + share @ self.w**2) / t  # the Schur complement of the arrow's tip
        tip = self.y_mean[:, None] - (inverse @ (self.s * self.w * self.y)[..., None])[..., 0]
        q = self.y_rest[:, None] + (share @ (self.y**2)[..., None])[..., 0] + tip**2 / corner
        return q, np.log(corner) + np.log1p(self.s**2 / t[..., None]).sum(-1)


def _fit(x: Decomposed, indicators: np.ndarray) -> _Model | None:
    """The model of features and indicators [N, C]; None where all features are zero."""
    n = len(indicators)
    u, s = x.factors[:2]
    mean = np.sqrt(n) * x.array.mean(0)
    largest = max(s[0] if len(s) else 0.0, float(np.linalg.norm(mean)))
    if not largest:
        return None
    # As for singular values: a mean that is rounding is no direction of the features.
    rounding = np.finfo(np.float64).eps * max(x.array.shape) * largest
    mean = mean if np.linalg.norm(mean) > rounding else np.zeros_like(mean)
    w = x.factors.along(mean)
    outside = mean - x.factors.combine(w)
    rest = float(outside @ outside) if np.linalg.norm(outside) > rounding else 0.0
    scale = np.sqrt(_largest_eigenvalue(s, w, rest))
    y, y_mean = indicators.T @ u, indicators.sum(0) / np.sqrt(n)
    total = indicators.sum(0)
    in_span = (y**2).sum(1) + y_mean**2
    y_rest = total - in_span
    y_rest[y_rest < 1e-12 * total] = 0.0  # in the span of the features but for rounding
    return _Model(s / scale, w / scale, rest / scale**2, y, y_mean, y_rest)


def _largest_eigenvalue(s: np.ndarray, w: np.ndarray, rest: float) -> float:
    """Of the arrow [[S^2, S w], [w' S, |w|^2 + rest]]: the largest root of its secular equation."""
    from scipy.optimize import brentq

    tip = float(w @ w + rest)
    lowest = max(float(s[0]) ** 2 if len(s) else 0.0, tip)

    def secular(v: float) -> float:
        return tip - v + float(((s * w) ** 2 / (v - s**2)).sum())

    low, high = lowest * (1 + 1e-12), (float(s[0]) ** 2 if len(s) else 0.0) + tip
    if high <= low or secular(low) <= 0:
        return lowest
    return float(brentq(secular, low, high * (1 + 1e-12), rtol=1e-12))
