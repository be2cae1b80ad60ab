"""What the scores of the same features share: their decomposition, and principal components."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import ArrayLike

from vtabjax.protocols._arrays import check_classes, check_features, check_score_memory
from vtabjax.protocols._factors import Factors, centred, factors


class Decomposed:
    """Features [N, D] and the singular values and vectors of what is left of them without their mean.

    Most scores begin with these, which take longer than all else they do: computed when first needed, once.

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
    def factors(self) -> Factors:
        """Of the centred features."""
        result = factors(centred(self.array), float(np.abs(self.array).max(initial=0.0)))
        for array in result:
            if array is not None:
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
    u, s = features.factors[:2]
    if not isinstance(n_components, int | np.integer):
        share = np.cumsum(s**2) / max((s**2).sum(), np.finfo(float).tiny)
        n_components = int(np.searchsorted(share, n_components)) + 1
    d = min(n_components, len(s))
    vt = features.factors.right(d)
    sign = np.sign(vt[np.arange(d), np.abs(vt).argmax(1)])
    return u[:, :d] * s[:d] * sign
