"""Scores from the covariances of features, over all examples and within classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vtabjax.protocols._arrays import check_choice, class_sums
from vtabjax.protocols.transferability._decompose import Decomposed, decomposed_task, principal_components


def h_score(features: ArrayLike | Decomposed, labels: ArrayLike) -> float:
    """H-score: Bao et al., "An Information-Theoretic Approach to Transferability" (ICIP 2019), definition 2.

    tr(Cov(f)^+ Cov(E[f | y])): the sum of squared canonical correlations of features and classes, in [0, C - 1],
    from the singular vectors U of the centred features: sum_c |sum_{i in c} U_i|^2 / n_c. Directions that are rounding
    count for nothing. With D >= N - 1 it is C - 1 for almost any features.

    Args:
      features: [N, D].
      labels: integers [N].

    Raises:
      ValueError: features or labels do not fit, or there is only one class.

    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(60) % 3
    >>> features = rng.normal(size=(60, 5)) + np.eye(5)[labels]
    >>> round(h_score(features, labels), 3)
    0.751
    """
    x, y, n_classes = decomposed_task(features, labels)
    u = x.factors.u
    sums, counts = class_sums(u, y, n_classes)
    return float((sums**2 / counts[:, None]).sum())


def regularized_h_score(features: ArrayLike | Decomposed, labels: ArrayLike) -> float:
    """H-score with a shrunken covariance: Ibrahim et al., "Newer is not always better" (arXiv 2110.06893), eq. 4.

    (1 - a) tr(S_a^-1 B) with S_a = (1 - a) S + a tr(S)/D I, S the covariance (1/N), a the shrinkage of Ledoit and
    Wolf (2004), B the covariance of the class means (1/(N - 1), as in the published code). 0 for constant features.

    Args:
      features: [N, D].
      labels: integers [N].

    Raises:
      ValueError: features or labels do not fit, or there is only one class.

    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(60) % 3
    >>> features = rng.normal(size=(60, 5)) + 3 * np.eye(5)[labels]
    >>> round(regularized_h_score(features, labels), 3)
    1.454
    """
    x, y, n_classes = decomposed_task(features, labels)
    u, s = x.factors[:2]
    if not len(s):
        return 0.0
    n, d = x.array.shape
    variances = s**2 / n
    mean = variances.sum() / d
    # Ledoit and Wolf: the squared error of S estimated from the fourth moments, over its distance from the target.
    norms = ((u * s) ** 2).sum(1)
    error = ((norms**2).sum() / n - (variances**2).sum()) / (n * d)
    distance = (variances**2).sum() / d - mean**2
    alpha = 0.0 if error <= 0 else min(error, distance) / distance if distance > 0 else 1.0
    sums, counts = class_sums(u * s, y, n_classes)
    between = (sums**2 / counts[:, None]).sum(0) / (n - 1)
    return float((1 - alpha) * (between / ((1 - alpha) * variances + alpha * mean)).sum())


def transrate(
    features: ArrayLike | Decomposed, labels: ArrayLike, *, eps: float = 1e-4, weighted: bool = False
) -> float:
    """TransRate: Huang et al., "Frustratingly Easy Transferability Estimation" (ICML 2022, arXiv 2106.09362), eq. 4.

    R(Z) - R(Z | Y) in nats with R(Z) = 1/2 log det(I + Z'Z / (N eps)) of the centred features and R(Z | Y) the mean
    over classes of R(Z_c), centred alike. It depends on the features' scale and grows with D.

    Args:
      features: [N, D].
      labels: integers [N].
      eps: the squared distortion.
      weighted: weigh classes by their frequency, as coding-rate theory does, instead of equally, as published.

    Raises:
      ValueError: features or labels do not fit, only one class, or eps is not positive.

    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(60) % 3
    >>> features = rng.normal(size=(60, 5)) + np.eye(5)[labels]
    >>> round(transrate(features, labels), 3)
    0.329
    """
    x, y, n_classes = decomposed_task(features, labels)
    if not 0 < eps < np.inf:
        raise ValueError(f"eps={eps!r}; give a positive number")
    u, s = x.factors[:2]
    z = u * s  # a rotation of the centred features

    def rate(singular_values: np.ndarray, n: int) -> float:
        return 0.5 * np.log1p(singular_values**2 / (n * eps)).sum()

    counts = np.bincount(y)
    rates = [rate(np.linalg.svd(z[y == c], compute_uv=False), counts[c]) for c in range(n_classes)]
    return float(rate(s, len(y)) - np.average(rates, weights=counts if weighted else None))


def gbc(
    features: ArrayLike | Decomposed,
    labels: ArrayLike,
    *,
    covariance: str = "spherical",
    n_components: int = 64,
) -> float:
    """Gaussian Bhattacharyya coefficient: Pandy et al. (CVPR 2022, arXiv 2111.12780), eq. 3-5.

    Minus the sum over ordered pairs of classes of exp(-D_B) with

        D_B = 1/8 m' S^-1 m + 1/2 log(|S| / sqrt(|S_i| |S_j|)),    S = (S_i + S_j) / 2,

    on the first principal components. 0 is best, -C (C - 1) worst. Variances below 1e-4 (those of a class with a
    single example, say) are raised to that.

    Args:
      features: [N, D].
      labels: integers [N].
      covariance: "spherical" (one variance per class) or "diagonal".
      n_components: principal components, at most.

    Raises:
      ValueError: features or labels do not fit, only one class, or covariance is unknown.

    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(60) % 3
    >>> features = rng.normal(size=(60, 5)) + np.eye(5)[labels]
    >>> round(gbc(features, labels), 3)
    -4.174
    """
    check_choice(covariance, ("spherical", "diagonal"), "covariance")
    x, y, n_classes = decomposed_task(features, labels)
    if n_components < 1:
        raise ValueError(f"n_components={n_components}; give a positive number")
    z = principal_components(x, int(n_components))
    sums, counts = class_sums(z, y, n_classes)
    means = sums / counts[:, None]
    variances = class_sums((z - means[y]) ** 2, y, n_classes)[0] / counts[:, None]
    if covariance == "spherical" and z.shape[1]:
        variances = np.repeat(variances.mean(1, keepdims=True), z.shape[1], axis=1)
    variances = np.maximum(variances, 1e-4)
    score = 0.0
    for i in range(n_classes - 1):
        v = (variances[i] + variances[i + 1 :]) / 2
        distance = ((means[i] - means[i + 1 :]) ** 2 / v).sum(1) / 8
        distance += 0.5 * (np.log(v) - 0.5 * (np.log(variances[i]) + np.log(variances[i + 1 :]))).sum(1)
        score -= 2 * np.exp(-distance).sum()
    return float(score)
