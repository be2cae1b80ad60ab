"""Singular values and vectors of centred features in float64, what scores and linear evaluation begin with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

_GRAM_RANGE = 1e-7  # of the eigenvalues: the smallest then still has a relative error below 1e-8


def centred(x: np.ndarray) -> np.ndarray:
    """`x` [N, D] in float64 less its column means; columns that are constant become exactly zero."""
    x = np.asarray(x, np.float64)
    c = x - x.mean(0)
    # The mean of equal numbers may be off by a rounding, which would pass for a direction of its own.
    return np.where(np.ptp(x, axis=0) > 0, c - c.mean(0), 0.0)


class Factors(NamedTuple):
    """Singular values and vectors of a matrix [N, D] without the directions that are rounding.

    Attributes:
      u: left singular vectors [N, r].
      s: singular values, largest first [r].
      vt: right singular vectors [r, D]; None where they follow from `matrix`, of which most uses need few.
      matrix: [N, D].
    """

    u: np.ndarray
    s: np.ndarray
    vt: np.ndarray | None
    matrix: np.ndarray

    def right(self, d: int) -> np.ndarray:
        """The first d right singular vectors [d, D]."""
        return self.vt[:d] if self.vt is not None else (self.u[:, :d].T @ self.matrix) / self.s[:d, None]

    def along(self, vector: np.ndarray) -> np.ndarray:
        """V' `vector`: coordinates [r] of a vector [D]."""
        return self.vt @ vector if self.vt is not None else self.u.T @ (self.matrix @ vector) / self.s

    def combine(self, coordinates: np.ndarray) -> np.ndarray:
        """V `coordinates`: the vector [D] of coordinates [r], or the vectors [D, K] of [r, K]."""
        if self.vt is not None:
            return self.vt.T @ coordinates
        return self.matrix.T @ (self.u @ (coordinates.T / self.s).T)


@threadpool_limits.wrap(limits=1)  # more are no faster here, many times slower beside other work
def factors(x: np.ndarray, largest: float) -> Factors:
    """Singular values and vectors of centred `x` [N, D].

    Args:
      x: float64, of column means 0.
      largest: the largest number `x` was computed from; where a mean was subtracted, rounding is relative to it.
    """
    if not x.any():
        return Factors(np.zeros((len(x), 0)), np.zeros(0), np.zeros((0, x.shape[1])), x)
    eps = np.finfo(np.float64).eps
    found = _from_gram(x)
    if found is not None and found.s[-1] > eps * (max(x.shape) * found.s[0] + np.sqrt(x.size) * largest):
        return found
    u, s, vt = _svd(x)
    keep = s > eps * (max(x.shape) * s[0] + np.sqrt(x.size) * largest)
    return Factors(u[:, keep], s[keep], vt[keep], x)


def _svd(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    import scipy.linalg

    try:
        return np.linalg.svd(x, full_matrices=False)
    except np.linalg.LinAlgError:  # the faster algorithm did not converge; the older one does
        return scipy.linalg.svd(x, full_matrices=False, lapack_driver="gesvd")


def _from_gram(x: np.ndarray) -> Factors | None:
    """From the eigenvectors of xx' or x'x, whichever is smaller, several times as fast as an SVD.

    Squaring doubles the digits lost: singular values s have a relative error of about eps (s_max / s)^2. None where
    that is more than `_GRAM_RANGE` allows, which includes all matrices of deficient rank.
    """
    n, d = x.shape
    used = x.any(0)  # dead features are no loss of rank that matters
    n_used = int(used.sum())
    if n_used >= n - 1:
        # x has no part along (1, ..., 1): in a basis of the others (Householder's) nothing is lost.
        y = x[1:] - x[0] / (1 + np.sqrt(n))
        eigenvalues, vectors = np.linalg.eigh(y @ y.T)
        if not _in_range(eigenvalues):
            return None
        total = vectors.sum(0)
        u = np.concatenate([-total[None] / np.sqrt(n), vectors - total / (n + np.sqrt(n))])
        return Factors(np.ascontiguousarray(u[:, ::-1]), np.sqrt(eigenvalues[::-1]), None, x)
    y = x if n_used == d else x[:, used]
    eigenvalues, vectors = np.linalg.eigh(y.T @ y)
    if not _in_range(eigenvalues):
        return None
    s = np.sqrt(eigenvalues[::-1])
    vt = np.zeros((n_used, d))
    vt[:, used] = vectors.T[::-1]
    return Factors((x @ vt.T) / s, s, vt, x)


def _in_range(eigenvalues: np.ndarray) -> bool:
    return len(eigenvalues) > 0 and bool(eigenvalues[0] > _GRAM_RANGE * eigenvalues[-1])
