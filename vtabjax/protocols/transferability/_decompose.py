"""Centring, ranks and principal components in float64, the same for every score."""

from __future__ import annotations

import hashlib

import numpy as np


def centred(x: np.ndarray) -> np.ndarray:
    """`x` [N, D] in float64 less its column means; columns that are constant become exactly zero."""
    x = np.asarray(x, np.float64)
    c = x - x.mean(0)
    # The mean of equal numbers may be off by a rounding, which would pass for a direction of its own.
    return np.where(np.ptp(x, axis=0) > 0, c - c.mean(0), 0.0)


def svd(x: np.ndarray, largest: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thin singular value decomposition of `x` [N, D] without the directions that are rounding: U, s, V'.

    Args:
      x: float64.
      largest: the largest number `x` was computed from; where a mean was subtracted, rounding is relative to it.
    """
    import scipy.linalg

    if not x.any():
        return np.zeros((len(x), 0)), np.zeros(0), np.zeros((0, x.shape[1]))
    try:
        u, s, vt = np.linalg.svd(x, full_matrices=False)
    except np.linalg.LinAlgError:  # the faster algorithm did not converge; the older one does
        u, s, vt = scipy.linalg.svd(x, full_matrices=False, lapack_driver="gesvd")
    eps = np.finfo(np.float64).eps
    keep = s > eps * (max(x.shape) * s[0] + np.sqrt(x.size) * largest)
    return u[:, keep], s[keep], vt[keep]


_last: dict[bytes, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}


def centred_svd(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`svd` of the centred features [N, D]. The last one is kept, since most scores of a task begin with it."""
    x = np.ascontiguousarray(features)
    key = hashlib.blake2b(x.view(np.uint8).data, key=repr((x.shape, x.dtype)).encode()).digest()
    if key not in _last:
        result = svd(centred(x), float(np.abs(x).max(initial=0.0)))
        for array in result:
            array.flags.writeable = False
        _last.clear()
        if x.size <= 1 << 24:
            _last[key] = result
        return result
    return _last[key]


def principal_components(features: np.ndarray, n_components: int | float) -> np.ndarray:
    """Coordinates [N, d] of `features` [N, D] along their principal components, largest first.

    Signs are scikit-learn's: the entry of largest magnitude of each component is positive.

    Args:
      features: [N, D].
      n_components: d, or the share of the variance to keep at least, in (0, 1). Components without variance are
        never returned.
    """
    u, s, vt = centred_svd(features)
    if not isinstance(n_components, int | np.integer):
        share = np.cumsum(s**2) / max((s**2).sum(), np.finfo(float).tiny)
        n_components = int(np.searchsorted(share, n_components)) + 1
    d = min(n_components, len(s))
    sign = np.sign(vt[np.arange(d), np.abs(vt[:d]).argmax(1)]) if d else np.ones(0)
    return u[:, :d] * s[:d] * sign
