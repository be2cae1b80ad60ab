"""Centring, ranks and principal components in float64, the same for every score."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

from vtabjax.protocols._arrays import check_classes, check_features, check_score_memory


def centred(x: np.ndarray) -> np.ndarray:
    """`x` [N, D] in float64 less its column means; columns that are constant become exactly zero."""
    x = np.asarray(x, np.float64)
    c = x - x.mean(0)
    # The mean of equal numbers may be off by a rounding, which would pass for a direction of its own.
    return np.where(np.ptp(x, axis=0) > 0, c - c.mean(0), 0.0)


@threadpool_limits.wrap(limits=1)  # more are no faster here, many times slower beside other work
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


class Decomposed:
    """Features [N, D] and the singular value decomposition of what is left of them without their mean.

    Most scores begin with it, and it takes longer than all else they do: computed when it is first needed, once.

    Attributes:
      array: the features in float64 [N, D].

    Raises:
      ValueError: features that are not finite numbers [N, D].
      MemoryError: float64 copies of them would not fit.
    """

    def __init__(self, features: ArrayLike):
        x = check_features(features)
        check_score_memory(
            x,
            f"a score of features {list(x.shape)}",
            "give it fewer examples, or features of fewer principal components",
        )
        self.array = x.astype(np.float64)

    @classmethod
    def of(cls, features: ArrayLike | Decomposed) -> Decomposed:
        """`features`, which may be a `Decomposed` already."""
        return features if isinstance(features, Decomposed) else cls(features)

    @functools.cached_property
    def svd(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """U [N, r], s [r], V' [r, D] of the centred features."""
        result = svd(centred(self.array), float(np.abs(self.array).max(initial=0.0)))
        for array in result:
            array.flags.writeable = False
        return result


def decomposed_task(
    features: ArrayLike | Decomposed, labels: ArrayLike
) -> tuple[Decomposed, np.ndarray, int]:
    """Features, labels as 0..C-1 over the classes present [N], and C.

    Raises:
      ValueError: features or labels do not fit, or there is only one class.
    """
    x = Decomposed.of(features)
    return x, *check_classes(labels, len(x.array))


def principal_components(features: Decomposed, n_components: int | float) -> np.ndarray:
    """Coordinates [N, d] of features [N, D] along their principal components, largest first.

    Signs are scikit-learn's: the entry of largest magnitude of each component is positive.

    Args:
      features: of N examples.
      n_components: d, or the share of the variance to keep at least, in (0, 1). Components without variance are
        never returned.
    """
    u, s, vt = features.svd
    if not isinstance(n_components, int | np.integer):
        share = np.cumsum(s**2) / max((s**2).sum(), np.finfo(float).tiny)
        n_components = int(np.searchsorted(share, n_components)) + 1
    d = min(n_components, len(s))
    sign = np.sign(vt[np.arange(d), np.abs(vt[:d]).argmax(1)]) if d else np.ones(0)
    return u[:, :d] * s[:d] * sign
