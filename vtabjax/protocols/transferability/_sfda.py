"""Self-challenging Fisher discriminant analysis."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vtabjax.protocols._arrays import check_task, class_sums
from vtabjax.protocols._factors import centred


def sfda(features: ArrayLike, labels: ArrayLike) -> float:
    """Self-challenging Fisher discriminant analysis: Shao et al. (ECCV 2022, arXiv 2207.03036), section 3.

    Linear discriminant analysis with the within-class covariance S shrunken by max(exp(-5 sigma(S)), 1e-10); every
    example is moved towards the mean of the other classes' means by its probability (softmax taken twice, as
    published) of being wrong; the mean probability of the right class under a second analysis with the same shrinkage.
    In (0, 1]. It depends on the features' scale and is 1 for almost any features with D >= N.

    Args:
      features: [N, D]; not modified.
      labels: integers [N].

    Raises:
      ValueError: features or labels do not fit, or there is only one class.

    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(60) % 3
    >>> features = rng.normal(size=(60, 5)) + np.eye(5)[labels]
    >>> round(sfda(features, labels), 3)
    0.416
    """
    from scipy.special import softmax

    x, y, n_classes = check_task(features, labels)
    x = centred(x)  # a shift changes nothing but the rounding
    probabilities, shrinkage = _discriminant(x, y, n_classes, None)
    confidence = softmax(probabilities, axis=1)[np.arange(len(y)), y][:, None]
    sums, counts = class_sums(x, y, n_classes)
    means = sums / counts[:, None]
    others = (means.sum(0) - means) / (n_classes - 1)
    mixed = confidence * x + (1 - confidence) * others[y]
    probabilities, _ = _discriminant(mixed, y, n_classes, shrinkage)
    return float(probabilities[np.arange(len(y)), y].mean())


def _discriminant(
    x: np.ndarray, y: np.ndarray, n_classes: int, shrinkage: float | None
) -> tuple[np.ndarray, float]:
    """Class probabilities [N, C] of linear discriminant analysis, and the shrinkage used."""
    import scipy.linalg
    from scipy.special import softmax

    sums, counts = class_sums(x, y, n_classes)
    means = sums / counts[:, None]
    within = x - means[y]
    s = within.T @ within / len(x)
    if shrinkage is None:
        shrinkage = max(np.exp(-5 * _largest_eigenvalue(s)), 1e-10)
    d = x.shape[1]
    scale = np.trace(s) / d
    s = (1 - shrinkage) * s
    # Classes without any spread: what keeps the matrix invertible then is relative to the features' own variance.
    s.flat[:: d + 1] += shrinkage * scale or 1e-10 * (np.mean(x * x) or 1.0)
    coefficients = scipy.linalg.solve(s, means.T, assume_a="pos", check_finite=False).T
    intercepts = -0.5 * (means * coefficients).sum(1) + np.log(counts / len(y))
    return softmax(x @ coefficients.T + intercepts, axis=1), float(shrinkage)


def _largest_eigenvalue(a: np.ndarray) -> float:
    """The published estimate: three double steps of power iteration from the row sums."""
    x = a.sum(1)
    y = x
    for _ in range(3):
        y = a @ x
        if not (size := np.linalg.norm(y)):  # row sums of zero say nothing
            return float(np.linalg.eigvalsh(a)[-1])
        y /= size
        x = a @ y
        x /= np.linalg.norm(x)
    return float(x @ a @ y)
