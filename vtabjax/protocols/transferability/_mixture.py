"""Gaussian mixtures, from many seeds on the same examples."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from threadpoolctl import threadpool_limits

_STEPS = 100  # of expectation maximisation, at most; these three are scikit-learn's
_TOLERANCE = 1e-3  # the gain in mean log likelihood that ends it
_REGULARISATION = 1e-6  # added to all variances
_DISTANCES_AHEAD = 4096  # examples, of which all distances are computed once for all seeds (134 MB)


@threadpool_limits.wrap(limits=1)
def posteriors(z: np.ndarray, n_components: int, seeds: Iterable[int]) -> list[np.ndarray]:
    """Probabilities [N, K] of the components given each example, for the mixture fitted from every seed.

    Covariances are full, or diagonal where there are fewer examples than N < K d / 2. The mixtures are those of
    scikit-learn's GaussianMixture with the same seed, but for rounding. Of diagonal ones, which are those of many
    components, it would take most of the time to find where to begin, and to multiply by probabilities of 0.

    Args:
      z: [N, d] of mean 0.
      n_components: K.
      seeds: for the choice of where to begin.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    with warnings.catch_warnings():
        # Fewer distinct examples than components, or 100 steps: the posteriors are valid all the same.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if len(z) < n_components * z.shape[1] / 2:
            return list(_diagonal(z, n_components, seeds))
        return [
            GaussianMixture(n_components, reg_covar=_REGULARISATION, random_state=s).fit(z).predict_proba(z)
            for s in seeds
        ]


def _diagonal(z: np.ndarray, n_components: int, seeds: Iterable[int]) -> Iterator[np.ndarray]:
    import scipy.sparse
    from sklearn.cluster import KMeans

    n, d = z.shape
    squares = np.concatenate([z**2, z], axis=1)
    distances = _squared_distances(z)
    for seed in seeds:
        random = np.random.RandomState(seed)
        start = z[_spread(distances, n, n_components, random)]
        clusters = KMeans(n_components, init=start, n_init=1, random_state=random).fit(z).labels_
        share = scipy.sparse.csr_array((np.ones(n), (np.arange(n), clusters)), (n, n_components))
        before, converged = -np.inf, False
        for _ in range(_STEPS + 1):
            sizes = share.sum(0) + 10 * np.finfo(np.float64).eps
            moments = (share.T @ squares) / sizes[:, None]
            means = moments[:, d:]
            precisions = 1 / (moments[:, :d] - means**2 + _REGULARISATION)
            p, likelihood = _expectation(squares, sizes / sizes.sum(), means, precisions)
            if converged:
                break
            converged, before = abs(likelihood - before) < _TOLERANCE, likelihood
            share = scipy.sparse.csr_array(p * (p > 1e-30))  # nearly all are 0 but for rounding
        yield p


def _expectation(
    squares: np.ndarray, weights: np.ndarray, means: np.ndarray, precisions: np.ndarray
) -> tuple[np.ndarray, float]:
    """Posterior probabilities [N, K] and the mean log likelihood; `squares` [N, 2 d] are z^2 and z side by side."""
    d = means.shape[1]
    logs = squares @ np.concatenate([precisions, -2 * means * precisions], axis=1).T
    logs += (means**2 * precisions).sum(1)
    logs *= -0.5
    logs += 0.5 * np.log(precisions).sum(1) + np.log(weights)
    largest = logs.max(1, keepdims=True)
    p = np.exp(logs - largest)
    total = p.sum(1, keepdims=True)
    return p / total, float((np.log(total) + largest).mean()) - 0.5 * d * np.log(2 * np.pi)


def _squared_distances(z: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function from indices of examples to their squared distances from all, [., N]."""
    norms = (z * z).sum(1)

    def between(rows: np.ndarray | slice) -> np.ndarray:
        return np.maximum(norms[rows, None] + norms - 2 * z[rows] @ z.T, 0)

    if len(z) > _DISTANCES_AHEAD:
        return between
    return between(slice(None)).__getitem__


def _spread(
    distances: Callable[[np.ndarray], np.ndarray], n: int, n_clusters: int, random: np.random.RandomState
) -> np.ndarray:
    """Examples to begin k-means at: scikit-learn's greedy k-means++ (Arthur and Vassilvitskii, SODA 2007)."""
    n_trials = 2 + int(np.log(n_clusters))
    chosen = [int(random.choice(n, p=np.full(n, 1 / n)))]
    closest = distances(np.array(chosen))[0]
    total = closest.sum()
    for _ in range(1, n_clusters):
        at = np.searchsorted(np.cumsum(closest), random.uniform(size=n_trials) * total)
        candidates = np.minimum(at, n - 1)
        closer = np.minimum(closest, distances(candidates))
        totals = closer.sum(1)
        best = int(totals.argmin())
        closest, total = closer[best], totals[best]
        chosen.append(int(candidates[best]))
    return np.array(chosen)
