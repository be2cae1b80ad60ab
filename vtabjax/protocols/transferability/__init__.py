"""Transferability scores: how well features (or a source head's probabilities) tell the classes of a task apart.

Every function takes all labelled examples of a task, computes in float64 and returns a float, higher meaning better.
docs/scores.md says what each is worth; where a published implementation differs from the paper, the docstring says
what is done here. None of them has a meaning across tasks: they order models on one task.

Scores of the same features share the decomposition that they begin with where they are given `Decomposed(features)`.

`h_score`, `transrate` and `sfda` rank noise above information once there are as many features as examples
(`UNSAFE_WHEN_WIDE`): then give them `pca(features, 64)`, for every model alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vtabjax.protocols.transferability._covariance_scores import gbc, h_score, regularized_h_score, transrate
from vtabjax.protocols.transferability._decompose import Decomposed, principal_components
from vtabjax.protocols.transferability._leep import leep, nce, nleep, nleep_components
from vtabjax.protocols.transferability._logme import logme
from vtabjax.protocols.transferability._parc import parc
from vtabjax.protocols.transferability._sfda import sfda

__all__ = [
    "UNSAFE_WHEN_WIDE",
    "Decomposed",
    "gbc",
    "h_score",
    "leep",
    "logme",
    "nce",
    "nleep",
    "nleep_components",
    "parc",
    "pca",
    "regularized_h_score",
    "sfda",
    "transrate",
]

UNSAFE_WHEN_WIDE = ("h_score", "transrate", "sfda")


def pca(features: ArrayLike | Decomposed, n_components: int | float = 64) -> np.ndarray:
    """Principal components of features, to bring models of different width to the same one.

    Args:
      features: [N, D].
      n_components: how many, or the share of the variance to keep at least (in (0, 1)).

    Returns:
      [N, d] float64, d at most `n_components` and the rank of the centred features.

    >>> features = [[0.0, 0.1], [0.1, 0.0], [1.0, 0.9], [0.9, 1.0]]
    >>> pca(features, 1).round(2).ravel()
    array([-0.64, -0.64,  0.64,  0.64])
    """
    x = Decomposed.of(features)
    if not n_components > 0 or (isinstance(n_components, float) and n_components >= 1):
        raise ValueError(f"n_components={n_components!r}; give a positive integer or a fraction in (0, 1)")
    return principal_components(x, n_components)
