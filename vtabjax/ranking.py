"""Ranking models over tasks, and judging how far a cheap proxy can be trusted."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np

TOP = (1, 3, 5)


def agreement(proxy, accuracy, *, top: tuple[int, ...] = TOP) -> dict[str, float]:
    """How well a proxy orders models as fine-tuning does, on one task.

    With a* the best accuracy and T_k the k models of highest proxy (equal ones by index):

      - "weighted_kendall": Vigna, "A Weighted Correlation Index for Rankings with Ties" (WWW 2015), additive
        hyperbolic weights, averaged over both rank orders, as `scipy.stats.weightedtau` does by default.
      - "kendall": Kendall's tau-b; "pearson"; "spearman".
      - "rel@k" = max accuracy in T_k / a*; "regret@k" = a* - max accuracy in T_k;
        "hit@k" = 1 if T_k holds a model of accuracy a*, else 0.
      - "n": how many models were compared.

    Args:
      proxy: the proxy's value for each model, higher meaning better, [M]. NaN where the model has none (not
        applicable, not run): such models are left out.
      accuracy: what fine-tuning reached, [M]; NaN where it was not run.
      top: the values of k. Where k exceeds the number of models, T_k is all of them.

    Returns:
      The names above with their values. Correlations are NaN where an input is constant or fewer than two models
      remain; Pearson's also where a proxy is infinite; everything is NaN where no model remains.

    Raises:
      ValueError: shapes differ or are not [M].
    """
    p, a = np.asarray(proxy, np.float64), np.asarray(accuracy, np.float64)
    if p.ndim != 1 or p.shape != a.shape:
        raise ValueError(
            f"proxy has shape {p.shape} and accuracy {a.shape}; give one number per model to each, [M]"
        )
    both = ~(np.isnan(p) | np.isnan(a))
    p, a = p[both], a[both]
    out = dict.fromkeys(("weighted_kendall", "kendall", "pearson", "spearman"), np.nan)
    if len(p) > 1 and np.ptp(_ranks(p)) > 0 and np.ptp(_ranks(a)) > 0:
        from scipy import stats

        out["weighted_kendall"] = float(stats.weightedtau(p, a).statistic)
        out["kendall"] = float(stats.kendalltau(p, a, variant="b").statistic)
        out["spearman"] = float(stats.spearmanr(p, a).statistic)
        if np.isfinite(p).all() and np.isfinite(a).all():
            out["pearson"] = float(stats.pearsonr(p, a).statistic)
    best = a.max() if len(a) else np.nan
    chosen = a[np.argsort(-p, kind="stable")]
    for k in top:
        reached = chosen[:k].max() if len(a) else np.nan
        out[f"rel@{k}"] = float(reached / best) if best != 0 else np.nan
        out[f"regret@{k}"] = float(best - reached)
        out[f"hit@{k}"] = float(reached == best) if len(a) else np.nan
    return out | {"n": int(both.sum())}


def _ranks(x: np.ndarray) -> np.ndarray:
    return np.unique(x, return_inverse=True)[1]


class Epp(NamedTuple):
    """A ranking of M models by Elo-based Predictive Power.

    Attributes:
      scores: strengths b, [M]: P(i beats j) = 1 / (1 + exp(b_j - b_i)). Mean zero, within each component where the
        fit is not finite; Elo points are 1500 + 400 / ln(10) * b.
      standard_errors: of `scores`, [M]; clustered by round. NaN with a single round and for a model alone in its
        component.
      covariance: of `scores`, [M, M]; zero between components that were fitted apart. The variance of the
        difference of i and j is c_ii + c_jj - 2 c_ij.
      components: number of each model's strongly connected component in the graph "won or tied at least half a
        match against", [M]; no model was beaten or held by one of a component of a higher number.
      finite: whether there is one component, that is, whether the maximum-likelihood estimate is finite.
      deviance: twice the log-likelihood ratio to the saturated model, over unordered pairs (of one component).
      df: its degrees of freedom, pairs that met - (M - 1) (M - number of components where fitted apart). The
        chi-squared test of the deviance takes matches for independent, which matches in one round are not.
    """

    scores: np.ndarray
    standard_errors: np.ndarray
    covariance: np.ndarray
    components: np.ndarray
    finite: bool
    deviance: float
    df: int


def epp(scores, *, higher_is_better: bool = True, tie_margin: float = 0.0, ridge: float | None = None) -> Epp:
    """Elo-based Predictive Power: the Bradley-Terry model over models' scores in several rounds.

    Gosiewska, Woznica and Biecek, "Interpretable meta-score for model performance" (Nature Machine Intelligence
    2022, arXiv 2006.02293). Two models with finite scores in the same round (a task, say) play one match; the better
    one wins, a difference of at most `tie_margin` is half a win for each. The strengths b minimise

        NLL(b) = - sum_{i != j} wins_ij log sigma(b_i - b_j)   (+ ridge / 2 |b|^2).

    Unlike the authors' package: each match counts once (there, twice, so standard errors are sqrt(2) too small), no
    reference player whose error is lost, and standard errors allow for matches of a round sharing their task: the
    sandwich H^+ (sum_r u_r u_r') H^+ with u_r the gradient of round r, without small-sample factor.

    The estimate is finite exactly if the graph "won or tied at least half a match against" is strongly
    connected (Ford, 1957). Where it is not, each strongly connected component is fitted by itself, scores of
    different components cannot be compared, and a warning says so. `ridge` fits all models together in any case.

    Args:
      scores: [M, R], one row per model, one column per round; NaN where not run.
      higher_is_better: False for errors, ranks and losses.
      tie_margin: largest difference that is a tie.
      ridge: strength of the penalty, or None for maximum likelihood.

    Raises:
      ValueError: not [M, R] with two models or more, a negative or infinite margin, a ridge that is not positive.
    """
    s = np.asarray(scores, np.float64)
    if s.ndim != 2 or s.shape[0] < 2 or s.shape[1] < 1:
        raise ValueError(
            f"scores has shape {s.shape}; give one row per model (two at least) and one column per round"
        )
    if not 0 <= tie_margin < np.inf:
        raise ValueError(f"tie_margin={tie_margin!r}; give 0 or a positive number")
    if ridge is not None and not 0 < ridge < np.inf:
        raise ValueError(f"ridge={ridge!r}; give a positive number, or None for maximum likelihood")
    s = s if higher_is_better else -s
    m, n_rounds = s.shape
    wins = np.zeros((m, m))
    for r in range(n_rounds):
        wins += _outcomes(s[:, r], tie_margin)[0]
    components = _components(wins)
    finite = components.max() == 0

    if ridge is None and not finite:
        sizes = np.bincount(components)
        warnings.warn(
            f"the {m} models fall into {len(sizes)} groups without a win or tie against the ones above, so their "
            "distance is unbounded: scores are comparable within a group only (Epp.components). More rounds, a "
            "tie_margin or ridge=0.1 (a penalised fit of all models together) connect them",
            stacklevel=2,
        )
        together = components[:, None] == components[None, :]
    else:
        together = np.ones((m, m), bool)
    wins = np.where(together, wins, 0.0)
    met = wins + wins.T
    b = _fit(wins, ridge or 0.0)

    # H + sum over components of 11'/n is invertible, and equals H on what is orthogonal to the components' means.
    p = _sigmoid(b[:, None] - b[None, :])
    centre = together / together.sum(1, keepdims=True)
    if ridge is None:
        bread = np.linalg.inv(_hessian(met, p, 0.0) + centre) - centre
    else:
        bread = np.linalg.inv(_hessian(met, p, ridge))
    meat = np.zeros((m, m))
    for r in range(n_rounds):
        won, played = _outcomes(s[:, r], tie_margin)
        u = np.where(together, won - played * p, 0.0).sum(1)
        meat += np.outer(u, u)
    covariance = bread @ meat @ bread if n_rounds > 1 else np.full((m, m), np.nan)
    covariance = np.where(together, (covariance + covariance.T) / 2, 0.0)
    variances = np.maximum(np.diag(covariance), 0.0)
    errors = np.where(together.sum(1) > 1, np.sqrt(variances), np.nan)

    pairs = np.triu(met, 1) > 0
    deviance = (
        2 * (_xlogy(wins, np.where(met > 0, wins / np.where(met > 0, met, 1), 1)) - _xlogy(wins, p)).sum()
    )
    groups = 1 if ridge is not None else components.max() + 1
    return Epp(
        b, errors, covariance, components, bool(finite), float(deviance), int(pairs.sum() - (m - groups))
    )


def _outcomes(s: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Of one round: what row won against column (1, 0.5, 0) and whether they met, [M, M] each."""
    ran = np.isfinite(s)
    x = np.where(ran, s, 0.0)
    difference = x[:, None] - x[None, :]
    met = ran[:, None] & ran[None, :]
    np.fill_diagonal(met, False)
    # 0.85 - 0.84 is a little more than 0.01 in binary.
    won = np.where(np.abs(difference) <= margin * (1 + 1e-9), 0.5, difference > 0)
    return won * met, met


def _components(wins: np.ndarray) -> np.ndarray:
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


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(x / 2))


def _xlogy(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x * np.log(np.where(x > 0, y, 1.0)), 0.0)


def _hessian(met: np.ndarray, p: np.ndarray, ridge: float) -> np.ndarray:
    w = met * p * (1 - p)
    return np.diag(w.sum(1) + ridge) - w


def _fit(wins: np.ndarray, ridge: float) -> np.ndarray:
    """The strengths [M] that minimise NLL + ridge / 2 |b|^2, by Newton's method; mean zero in each component."""
    from scipy.sparse.csgraph import connected_components

    m = len(wins)
    met = wins + wins.T
    label = connected_components(met > 0, directed=False)[1]
    together = label[:, None] == label[None, :]
    centre = together / together.sum(1, keepdims=True)

    def objective(b):
        d = b[:, None] - b[None, :]
        return (wins * np.logaddexp(0, -d)).sum() + ridge / 2 * b @ b

    b = np.zeros(m)
    value = objective(b)
    for _ in range(200):
        p = _sigmoid(b[:, None] - b[None, :])
        gradient = (met * p - wins).sum(1) + ridge * b
        step = np.linalg.solve(_hessian(met, p, ridge) + (0 if ridge else centre), -gradient)
        decrease = -gradient @ step
        last = decrease <= 1e-12 * max(1.0, value)  # from here one full step squares what is left
        size = 1.0
        while not last and (new := objective(b + size * step)) > value - 1e-4 * size * decrease:
            size /= 2
        b = b + size * step
        b -= 0.0 if ridge else centre @ b
        if last:
            break
        value = new
    return b
