"""The Bradley-Terry model's parts: what a round's matches were, whether the fit is finite, and the fit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def validate_scores(
    scores: ArrayLike,
    higher_is_better: bool,
    tie_margin: float,
    ridge: float | None,
    clusters: Sequence | np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The scores, higher better, [M, R], and the number of each round's cluster, [R].

    Raises:
      ValueError: they do not fit, as `vtabjax.ranking.epp` says.
    """
    s = np.asarray(scores, np.float64)
    if s.ndim != 2 or s.shape[0] < 2 or s.shape[1] < 1:
        raise ValueError(
            f"scores has shape {s.shape}; give one row per model (at least two) and one column per round"
        )
    if not 0 <= tie_margin < np.inf:
        raise ValueError(f"tie_margin={tie_margin!r}; give 0 or a positive number")
    if ridge is not None and not 0 < ridge < np.inf:
        raise ValueError(f"ridge={ridge!r}; give a positive number, or None for maximum likelihood")
    numbers = np.unique(
        np.arange(s.shape[1]) if clusters is None else np.asarray(clusters), return_inverse=True
    )[1]
    if numbers.shape != (s.shape[1],):
        raise ValueError(f"clusters has shape {numbers.shape}; give one label per round, [{s.shape[1]}]")
    return (s if higher_is_better else -s), numbers


def outcomes(s: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Of one round: what row won against column (1, 0.5, 0) and whether they met, [M, M] each."""
    ran = np.isfinite(s)
    x = np.where(ran, s, 0.0)
    difference = x[:, None] - x[None, :]
    met = ran[:, None] & ran[None, :]
    np.fill_diagonal(met, False)
    # 0.85 - 0.84 is a little more than 0.01 in binary.
    won = np.where(np.abs(difference) <= margin * (1 + 1e-9), 0.5, difference > 0)
    return won * met, met


def wins_by_cluster(s: np.ndarray, clusters: np.ndarray, margin: float) -> np.ndarray:
    """Wins of row against column over the rounds (columns of `s`) of each cluster, [G, M, M]."""
    wins = np.zeros((clusters.max() + 1, len(s), len(s)))
    for r, g in enumerate(clusters):
        wins[g] += outcomes(s[:, r], margin)[0]
    return wins


def components(wins: np.ndarray) -> np.ndarray:
    """Strongly connected components of wins > 0, [M], numbered so that wins go from lower to higher numbers."""
    from scipy.sparse.csgraph import connected_components

    n, label = connected_components(wins > 0, directed=True, connection="strong")
    member = np.eye(n)[label]
    beats = (member.T @ wins @ member > 0) & ~np.eye(n, dtype=bool)
    number, left = np.zeros(n, int), list(dict.fromkeys(label))  # in the order of the models
    for i in range(n):
        top = next(c for c in left if not beats[left, c].any())
        number[top] = i
        left.remove(top)
    return number[label]


def is_connected(wins: np.ndarray) -> bool:
    """Whether all models are in one strongly connected component, that is, the estimate is finite."""
    beats = wins > 0
    return _reaches_all(beats) and _reaches_all(beats.T)


def _reaches_all(edges: np.ndarray) -> bool:
    """Whether the first model reaches all others along `edges`; in dense graphs after a step or two."""
    reached, new = np.zeros(len(edges), bool), np.zeros(len(edges), bool)
    new[0] = True
    while new.any():
        reached |= new
        new = edges[new].any(0) & ~reached
    return bool(reached.all())


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) without overflow."""
    return 0.5 * (1 + np.tanh(x / 2))


def hessian(met: np.ndarray, p: np.ndarray, ridge: float) -> np.ndarray:
    """Of NLL + ridge / 2 |b|^2, from matches and win probabilities, [M, M]."""
    w = met * p * (1 - p)
    return np.diag(w.sum(1) + ridge) - w


def means(met: np.ndarray) -> np.ndarray:
    """What takes the mean of each component of models that met, times strengths, [M, M]."""
    from scipy.sparse.csgraph import connected_components

    if _reaches_all(met > 0):
        return np.full(met.shape, 1 / len(met))
    label = connected_components(met > 0, directed=False)[1]
    together = label[:, None] == label[None, :]
    return together / together.sum(1, keepdims=True)


def fit(wins: np.ndarray, ridge: float = 0.0, start: np.ndarray | None = None) -> np.ndarray:
    """The strengths [M] that minimise NLL + ridge / 2 |b|^2, by Newton's method; mean zero in each component.

    Args:
      wins: of row against column, [M, M]. Without `ridge` every connected component has to be strongly connected.
      ridge: strength of the penalty; 0 for maximum likelihood.
      start: strengths to start from.
    """
    from scipy.linalg import cho_factor, cho_solve

    met = wins + wins.T
    centre = means(met)
    # Singular along each component's mean, which the likelihood does not see; ridge sees it.
    anchor = 0.0 if ridge else centre

    def objective(b: np.ndarray) -> float:
        d = b[:, None] - b[None, :]
        return (wins * np.logaddexp(0, -d)).sum() + ridge / 2 * b @ b

    b = np.zeros(len(wins)) if start is None else np.array(start)
    value = None
    for _ in range(200):
        p = sigmoid(b[:, None] - b[None, :])
        gradient = (met * p - wins).sum(1) + ridge * b
        step = cho_solve(cho_factor(hessian(met, p, ridge) + anchor), -gradient)
        decrease = -gradient @ step
        # Within this distance of the minimum a full step always goes down, so nothing has to be compared.
        near = np.abs(step).max() < 0.5
        size = 1.0
        if not near:
            value = objective(b) if value is None else value
            while (new := objective(b + size * step)) > value - 1e-4 * size * decrease:
                size /= 2
            value = new
        else:
            value = None
        b = b + size * step
        b -= 0.0 if ridge else centre @ b
        # Newton's method converges quadratically: what is left after this step is the square of it.
        if np.abs(step).max() < 1e-8:
            break
    return b
