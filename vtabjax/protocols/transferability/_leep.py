"""Scores from a source head's probabilities, or from those of a mixture in their place."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vtabjax.protocols._arrays import check_task
from vtabjax.protocols.transferability._decompose import Decomposed, decomposed_task, principal_components
from vtabjax.protocols.transferability._mixture import posteriors


def leep(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Log expected empirical prediction: Nguyen et al., "LEEP" (ICML 2020, arXiv 2002.12462), eq. 2.

    With P(y, z) = mean over examples of 1[y_i = y] p_iz:  mean_i log sum_z P(y_i | z) p_iz. At most 0; about minus the
    entropy of the labels for an uninformative model. Source classes of no probability are left out.

    Args:
      probabilities: [N, Z], each row a distribution over the source model's classes (softmax of its logits). A model
        without a classifier has no LEEP.
      labels: integers [N].

    Raises:
      ValueError: rows are not distributions, labels do not fit, or there is only one class.

    >>> probabilities = [[0.8, 0.2], [0.7, 0.3], [0.1, 0.9], [0.2, 0.8]]
    >>> round(leep(probabilities, [0, 0, 1, 1]), 3)
    -0.384
    """
    p, y, _ = _distributions(probabilities, labels)
    return _mean_log_prediction(p, y)


def nce(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Negative conditional entropy: Tran et al., "Transferability and Hardness" (ICCV 2019, arXiv 1908.08142).

    -H(Y | Z) in nats with Z the most probable source class (the first of equals). In [-log C, 0].

    Args:
      probabilities: [N, Z]; logits do as well only after softmax, as for `leep`.
      labels: integers [N].

    Raises:
      ValueError: as `leep`.

    >>> probabilities = [[0.8, 0.2], [0.7, 0.3], [0.1, 0.9], [0.2, 0.8]]
    >>> nce(probabilities, [0, 0, 1, 1])
    0.0
    """
    p, y, n_classes = _distributions(probabilities, labels)
    joint = np.zeros((n_classes, p.shape[1]))
    np.add.at(joint, (y, p.argmax(1)), 1.0 / len(y))
    z = joint.sum(0)
    seen = joint > 0
    return float((joint[seen] * np.log((joint / np.where(z > 0, z, 1))[seen])).sum())


def nleep_components(n_examples: int, n_classes: int) -> int:
    """How many mixture components `nleep` uses by default.

    The paper's five per class, but not so many that a component explains single examples: with fewer than five
    examples each the score approaches 0 for any model. At least one per class where there are enough examples.

    >>> nleep_components(1000, 10)
    50
    """
    return min(n_examples, max(n_classes, min(5 * n_classes, n_examples // 5)))


def nleep(
    features: ArrayLike | Decomposed,
    labels: ArrayLike,
    *,
    n_components: int | None = None,
    seed: int = 0,
    n_seeds: int = 5,
) -> float:
    """LEEP for models without a classifier: Li et al., "Ranking Neural Checkpoints" (CVPR 2021, arXiv 2011.11200).

    Principal components that hold 80 % of the variance, a Gaussian mixture on them, and LEEP of the mixture's
    posterior probabilities; the mean over mixtures fitted from `n_seeds` initialisations. Covariances are full, or
    diagonal where there are fewer examples than N < K d / 2; their regularisation is 1e-6 of the mean variance.

    Args:
      features: [N, D].
      labels: integers [N].
      n_components: K (None: `nleep_components`).
      seed: first of the `n_seeds` consecutive seeds.
      n_seeds: how many; single ones differ noticeably.

    Raises:
      ValueError: features or labels do not fit, only one class, or K outside 1..N.

    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(60) % 3
    >>> features = rng.normal(size=(60, 5)) + np.eye(5)[labels]
    >>> round(nleep(features, labels, n_seeds=1), 2)
    -0.67
    """
    x, y, n_classes = decomposed_task(features, labels)
    k = nleep_components(len(y), n_classes) if n_components is None else n_components
    if not 1 <= k <= len(y):
        raise ValueError(f"n_components={k} for {len(y)} examples; give a number from 1 to {len(y)}")
    if n_seeds < 1:
        raise ValueError(f"n_seeds={n_seeds}; give a positive number")
    z = principal_components(x, 0.8)
    if z.shape[1] == 0:  # constant features: every posterior is the same
        return _mean_log_prediction(np.ones((len(y), 1)), y)
    z /= np.sqrt(np.mean(z**2))
    mixtures = posteriors(z, k, range(seed, seed + n_seeds))
    return float(np.mean([_mean_log_prediction(p, y) for p in mixtures]))


def _mean_log_prediction(p: np.ndarray, y: np.ndarray) -> float:
    joint = np.zeros((y.max() + 1, p.shape[1]))
    np.add.at(joint, y, p)
    z = joint.sum(0)
    conditional = joint / np.where(z > 0, z, 1)
    return float(np.log((conditional[y] * p).sum(1)).mean())


def _distributions(probabilities: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray, int]:
    p, y, n_classes = check_task(probabilities, labels, "probabilities")
    off = np.abs(p.sum(1) - 1)
    if (p < 0).any() or off.max() > 1e-2:
        row = int(np.flatnonzero((p < 0).any(1))[0] if (p < 0).any() else off.argmax())
        raise ValueError(
            f"probabilities is not a distribution in row {row} (smallest {p[row].min():.4g}, sum {p[row].sum():.4g}); "
            "give the softmax of the source model's logits"
        )
    return p, y, n_classes
