"""Agreement of distances between features with differences between labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vtabjax.protocols.transferability._decompose import Decomposed, decomposed_task, principal_components


def parc(
    features: ArrayLike | Decomposed,
    labels: ArrayLike,
    *,
    n_components: int = 32,
    max_examples: int = 5000,
    seed: int = 0,
) -> float:
    """Pairwise annotation representation comparison: Bolya et al. (NeurIPS 2021, arXiv 2111.06977), section 4.

    100 times Spearman's correlation, over pairs of examples, of 1 - Pearson correlation of their standardised
    principal components with whether their labels differ. In [-100, 100]. Equal label distances are exact ties here;
    in the published code rounding orders them. Components have scikit-learn's signs, on which the score depends.

    Args:
      features: [N, D].
      labels: integers [N].
      n_components: principal components, at most; fewer where D or the rank is smaller.
      max_examples: where there are more, a random subset of as many is used (memory grows with the square).
      seed: of that choice.

    Returns:
      The score; NaN where features have fewer than two directions, which leaves no correlation to take.

    Raises:
      ValueError: features or labels do not fit, or there is only one class.

    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(60) % 3
    >>> features = rng.normal(size=(60, 5)) + np.eye(5)[labels]
    >>> round(parc(features, labels), 2)
    19.89
    """
    from scipy.stats import rankdata

    x, y, _ = decomposed_task(features, labels)
    if n_components < 1:
        raise ValueError(f"n_components={n_components}; give a positive number")
    if len(y) > max_examples:
        chosen = np.sort(np.random.default_rng(seed).choice(len(y), max_examples, replace=False))
        x, y = Decomposed(x.array[chosen]), y[chosen]
    z = principal_components(x, int(n_components))
    if z.shape[1] < 2:
        return float("nan")
    z /= z.std(0)
    z -= z.mean(1, keepdims=True)
    norm = np.sqrt((z * z).sum(1, keepdims=True))
    z /= np.where(norm > 0, norm, 1)
    upper = np.triu_indices(len(z), 1)
    ranks = rankdata(1 - (z @ z.T)[upper])
    differ = (y[upper[0]] != y[upper[1]]).astype(
        np.float64
    )  # two values: their ranks are as good as they are
    if np.ptp(differ) == 0 or np.ptp(ranks) == 0:
        return float("nan")
    return float(100 * np.corrcoef(ranks, differ)[0, 1])
