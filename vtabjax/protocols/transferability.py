"""Transferability scores: how well features (or a source head's probabilities) tell the classes of a task apart.

Every function takes all labelled examples of a task, computes in float64 and returns a float, higher meaning better.
docs/scores.md says what each is worth; where a published implementation differs from the paper, the docstring says
what is done here. None of them has a meaning across tasks: they order models on one task.

`h_score`, `transrate` and `sfda` rank noise above information once there are as many features as examples
(`UNSAFE_WHEN_WIDE`): then give them `pca(features, 64)`, for every model alike.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike

from vtabjax.protocols._arrays import check_choice, check_features, check_score_memory, check_task, class_sums
from vtabjax.protocols._decompose import centred_svd, principal_components, svd
from vtabjax.protocols._sfda import sfda

__all__ = [
    "UNSAFE_WHEN_WIDE",
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


def pca(features: ArrayLike, n_components: int | float = 64) -> np.ndarray:
    """Principal components of features, to bring models of different width to the same one.

    Args:
      features: [N, D].
      n_components: how many, or the share of the variance to keep at least (in (0, 1)).

    Returns:
      [N, d] float64, d at most `n_components` and the rank of the centred features.
    """
    x = check_features(features)
    if not n_components > 0 or (isinstance(n_components, float) and n_components >= 1):
        raise ValueError(f"n_components={n_components!r}; give a positive integer or a share in (0, 1)")
    check_score_memory(x, f"pca of features {list(x.shape)}", "give it fewer examples")
    return principal_components(x, n_components)


def leep(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Log expected empirical prediction: Nguyen et al., "LEEP" (ICML 2020, arXiv 2002.12462), eq. 2.

    With P(y, z) = mean over examples of 1[y_i = y] p_iz:  mean_i log sum_z P(y_i | z) p_iz. At most 0; about minus the
    entropy of the labels for an uninformative model. Source classes of no probability are left out.

    Args:
      probabilities: [N, Z], each row a distribution over the source model's classes (softmax of its logits). A model
        without a classifier has no LEEP.
      labels: integers [N].

    Raises:
      ValueError: rows are not distributions, labels do not fit, or there is one class only.
    """
    p, y, _ = _distributions(probabilities, labels)
    return _leep(p, y)


def nce(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Negative conditional entropy: Tran et al., "Transferability and Hardness" (ICCV 2019, arXiv 1908.08142).

    -H(Y | Z) in nats with Z the most probable source class (the first of equals). In [-log C, 0].

    Args:
      probabilities: [N, Z]; logits do as well only after softmax, as for `leep`.
      labels: integers [N].

    Raises:
      ValueError: as `leep`.
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
    """
    return min(n_examples, max(n_classes, min(5 * n_classes, n_examples // 5)))


def nleep(
    features: ArrayLike,
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
      ValueError: features or labels do not fit, one class only, or K outside 1..N.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    x, y, n_classes = check_task(features, labels)
    k = nleep_components(len(x), n_classes) if n_components is None else n_components
    if not 1 <= k <= len(x):
        raise ValueError(f"n_components={k} for {len(x)} examples; give a number from 1 to {len(x)}")
    if n_seeds < 1:
        raise ValueError(f"n_seeds={n_seeds}; give a positive number")
    z = principal_components(x, 0.8)
    if z.shape[1] == 0:  # constant features: every posterior is the same
        return _leep(np.ones((len(y), 1)), y)
    z /= np.sqrt(np.mean(z**2))
    kind = "diag" if len(z) < k * z.shape[1] / 2 else "full"
    scores = []
    for s in range(seed, seed + n_seeds):
        mixture = GaussianMixture(k, covariance_type=kind, reg_covar=1e-6, random_state=s)
        with warnings.catch_warnings():
            # Fewer distinct examples than components, or 100 steps: the posteriors are valid all the same.
            warnings.simplefilter("ignore", ConvergenceWarning)
            scores.append(_leep(mixture.fit(z).predict_proba(z), y))
    return float(np.mean(scores))


def logme(features: ArrayLike, labels: ArrayLike) -> float:
    """Log maximum evidence: You et al., "LogME" (ICML 2021, arXiv 2102.11005), eq. 2-3.

    For each class, y (its indicator, [N]) ~ N(X w, 1/b), w ~ N(0, 1/a); the evidence maximised over a and b, divided
    by N, and averaged over the classes present. Only t = a/b matters: with b at its optimum N / q(t),

        log p(y) = -N/2 log(2 pi e) + N/2 log(N / q(t)) - 1/2 sum_k log(1 + s_k / t),  q = y' (I + XX'/t)^-1 y,

    s_k the eigenvalues of XX', which is maximised over t in [e^-30, e^30] times the largest s_k. The published
    implementation omits the prior's term for directions outside the row space and so rewards D > N without bound.
    Features are neither centred nor scaled. No upper limit: a class that is an exact linear function of the features
    hits the limit of t.

    Args:
      features: [N, D].
      labels: integers [N].

    Raises:
      ValueError: features or labels do not fit, or there is one class only.
    """
    from scipy.optimize import minimize_scalar

    x, y, n_classes = check_task(features, labels)
    n = len(x)
    u, s, _ = svd(x, 0.0)
    indicators = np.eye(n_classes)[y]
    base = -0.5 * n * (np.log(2 * np.pi) + 1)
    if not len(s):
        return float(np.mean([base + 0.5 * n * np.log(n / c) for c in indicators.sum(0)]) / n)
    s = (s / s[0]) ** 2
    explained = (u.T @ indicators).T ** 2
    total = indicators.sum(0)
    rest = total - explained.sum(1)
    rest[rest < 1e-12 * total] = 0.0  # in the span of the features but for rounding

    def negative_evidence(log_t: np.ndarray, c: np.ndarray) -> np.ndarray:
        t = np.exp(log_t)
        q = rest[c, None] + explained[c] @ (t / (s[:, None] + t))
        return -(base + 0.5 * n * np.log(n / q) - 0.5 * np.log1p(s[:, None] / t).sum(0))

    grid = np.linspace(-30, 30, 241)
    values = negative_evidence(grid, np.arange(n_classes))
    best = []
    for c in range(n_classes):
        i = values[c].argmin()
        bounds = grid[max(i - 1, 0)], grid[min(i + 1, len(grid) - 1)]
        found = minimize_scalar(
            lambda v, c=c: negative_evidence(np.array([v]), np.array([c]))[0, 0],
            bounds=bounds,
            method="bounded",
            options={"xatol": 1e-9},
        )
        best.append(-min(found.fun, values[c, i]))
    return float(np.mean(best) / n)


def h_score(features: ArrayLike, labels: ArrayLike) -> float:
    """H-score: Bao et al., "An Information-Theoretic Approach to Transferability" (ICIP 2019), definition 2.

    tr(Cov(f)^+ Cov(E[f | y])): the sum of squared canonical correlations of features and classes, in [0, C - 1],
    from the singular vectors U of the centred features: sum_c |sum_{i in c} U_i|^2 / n_c. Directions that are rounding
    count for nothing. With D >= N - 1 it is C - 1 for almost any features.

    Args:
      features: [N, D].
      labels: integers [N].

    Raises:
      ValueError: features or labels do not fit, or there is one class only.
    """
    x, y, n_classes = check_task(features, labels)
    u, _, _ = centred_svd(x)
    sums, counts = class_sums(u, y, n_classes)
    return float((sums**2 / counts[:, None]).sum())


def regularized_h_score(features: ArrayLike, labels: ArrayLike) -> float:
    """H-score with a shrunken covariance: Ibrahim et al., "Newer is not always better" (arXiv 2110.06893), eq. 4.

    (1 - a) tr(S_a^-1 B) with S_a = (1 - a) S + a tr(S)/D I, S the covariance (1/N), a the shrinkage of Ledoit and
    Wolf (2004), B the covariance of the class means (1/(N - 1), as in the published code). 0 for constant features.

    Args:
      features: [N, D].
      labels: integers [N].

    Raises:
      ValueError: features or labels do not fit, or there is one class only.
    """
    x, y, n_classes = check_task(features, labels)
    u, s, _ = centred_svd(x)
    if not len(s):
        return 0.0
    n, d = x.shape
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


def transrate(features: ArrayLike, labels: ArrayLike, *, eps: float = 1e-4, weighted: bool = False) -> float:
    """TransRate: Huang et al., "Frustratingly Easy Transferability Estimation" (ICML 2022, arXiv 2106.09362), eq. 4.

    R(Z) - R(Z | Y) in nats with R(Z) = 1/2 log det(I + Z'Z / (N eps)) of the centred features and R(Z | Y) the mean
    over classes of R(Z_c), centred alike. It depends on the features' scale and grows with D.

    Args:
      features: [N, D].
      labels: integers [N].
      eps: the squared distortion.
      weighted: weigh classes by their frequency, as coding-rate theory does, instead of equally, as published.

    Raises:
      ValueError: features or labels do not fit, one class only, or eps is not positive.
    """
    x, y, n_classes = check_task(features, labels)
    if not 0 < eps < np.inf:
        raise ValueError(f"eps={eps!r}; give a positive number")
    u, s, _ = centred_svd(x)
    z = u * s  # a rotation of the centred features

    def rate(singular_values: np.ndarray, n: int) -> float:
        return 0.5 * np.log1p(singular_values**2 / (n * eps)).sum()

    counts = np.bincount(y)
    rates = [rate(np.linalg.svd(z[y == c], compute_uv=False), counts[c]) for c in range(n_classes)]
    return float(rate(s, len(y)) - np.average(rates, weights=counts if weighted else None))


def gbc(
    features: ArrayLike, labels: ArrayLike, *, covariance: str = "spherical", n_components: int = 64
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
      ValueError: features or labels do not fit, one class only, or covariance is unknown.
    """
    check_choice(covariance, ("spherical", "diagonal"), "covariance")
    x, y, n_classes = check_task(features, labels)
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


def parc(
    features: ArrayLike, labels: ArrayLike, *, n_components: int = 32, max_examples: int = 5000, seed: int = 0
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
      ValueError: features or labels do not fit, or there is one class only.
    """
    from scipy.stats import rankdata

    x, y, _ = check_task(features, labels)
    if n_components < 1:
        raise ValueError(f"n_components={n_components}; give a positive number")
    if len(x) > max_examples:
        chosen = np.sort(np.random.default_rng(seed).choice(len(x), max_examples, replace=False))
        x, y = x[chosen], y[chosen]
    z = principal_components(x, int(n_components))
    if z.shape[1] < 2:
        return float("nan")
    z /= z.std(0)
    z -= z.mean(1, keepdims=True)
    norm = np.sqrt((z * z).sum(1, keepdims=True))
    z /= np.where(norm > 0, norm, 1)
    upper = np.triu_indices(len(z), 1)
    ranks = rankdata(1 - (z @ z.T)[upper])
    differ = rankdata(y[upper[0]] != y[upper[1]])
    if np.ptp(differ) == 0 or np.ptp(ranks) == 0:
        return float("nan")
    return float(100 * np.corrcoef(ranks, differ)[0, 1])


def _leep(p: np.ndarray, y: np.ndarray) -> float:
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
            f"probabilities is no distribution in row {row} (smallest {p[row].min():.4g}, sum {p[row].sum():.4g}); "
            "give the softmax of the source model's logits"
        )
    return p, y, n_classes
