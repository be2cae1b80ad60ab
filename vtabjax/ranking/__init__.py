"""Ranking models over tasks: Elo-based Predictive Power, what follows from it, and Top-k counts.

`resampling` has the bootstrap, `proxy_agreement` how far a cheap proxy's order can be trusted.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

from vtabjax.ranking import _bradley_terry as bt
from vtabjax.ranking.proxy_agreement import agreement

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "ELO",
    "Epp",
    "GoodnessOfFit",
    "WinProbabilities",
    "agreement",
    "elo",
    "epp",
    "goodness_of_fit",
    "ranks",
    "relative_to",
    "top_counts",
    "win_probabilities",
]

# Elo points per unit of strength: 400 points are odds of ten to one.
ELO = 400 / math.log(10)


class Epp(NamedTuple):
    """A ranking of M models by Elo-based Predictive Power.

    Attributes:
      scores: strengths b, [M]: P(i beats j) = 1 / (1 + exp(b_j - b_i)). Mean zero, within each component where the
        fit is not finite; Elo points are 1500 + 400 / ln(10) * b.
      standard_errors: of `scores`, [M]; clustered by round (or as `clusters` says). NaN with a single cluster and for
        a model alone in its component.
      covariance: of `scores`, [M, M]; zero between components that were fitted apart. The variance of the
        difference of i and j is c_ii + c_jj - 2 c_ij.
      components: number of each model's strongly connected component in the graph "won or tied at least half a
        match against", [M]; no model was beaten or held by one of a component of a higher number.
      finite: whether there is one component, that is, whether the maximum-likelihood estimate is finite.
      deviance: twice the log-likelihood ratio to the saturated model, over unordered pairs (of one component).
      df: its degrees of freedom, pairs that met - (M - 1) (M - number of components where fitted apart). The
        chi-squared test of the deviance takes matches for independent, which matches in one round are not.
      wins: of row against column, ties half, [M, M]: what was fitted. Zero between components that were fitted apart.
      n_clusters: how many clusters the covariance was estimated from.
      penalised: whether `ridge` was given.
      names: of the models, where the scores were a data frame with an index; otherwise their row numbers.
    """

    scores: np.ndarray
    standard_errors: np.ndarray
    covariance: np.ndarray
    components: np.ndarray
    finite: bool
    deviance: float
    df: int
    wins: np.ndarray
    n_clusters: int
    penalised: bool
    names: tuple[Any, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """One row per model, the strongest first (within each component): "strength", its "standard_error", "elo",
        "component"."""
        import pandas as pd

        columns = {
            "strength": self.scores,
            "standard_error": self.standard_errors,
            "elo": elo(self.scores),
            "component": self.components,
        }
        frame = pd.DataFrame(columns, pd.Index(self.names or range(len(self.scores)), name="model"))
        return frame.sort_values(["component", "strength"], ascending=[True, False], kind="stable")

    def __repr__(self) -> str:
        best = self.to_frame()["strength"].head(3)
        shown = ", ".join(f"{name} {strength:+.2f}" for name, strength in best.items())
        more = ", ..." if len(self.scores) > 3 else ""
        apart = "" if self.finite or self.penalised else f"; {self.components.max() + 1} groups apart"
        return f"Epp({len(self.scores)} models, {self.n_clusters} clusters: {shown}{more}{apart})"


# A few hundred unknowns: threads of the linear algebra wait for each other longer than they work.
@threadpool_limits.wrap(limits=1)
def epp(
    scores: ArrayLike,
    *,
    higher_is_better: bool = True,
    tie_margin: float = 0.0,
    ridge: float | None = None,
    clusters: Sequence | np.ndarray | None = None,
) -> Epp:
    """Elo-based Predictive Power: the Bradley-Terry model over models' scores in several rounds.

    Gosiewska, Woznica and Biecek, "Interpretable meta-score for model performance" (Nature Machine Intelligence
    2022, arXiv 2006.02293). Two models with finite scores in the same round (a task, say) play one match; the better
    one wins, a difference of at most `tie_margin` is half a win for each. The strengths b minimise

        NLL(b) = - sum_{i != j} wins_ij log sigma(b_i - b_j)   (+ ridge / 2 |b|^2).

    Unlike the authors' package: each match counts once (there, twice, so standard errors are sqrt(2) too small), no
    reference player whose error is lost, and standard errors allow for matches of a round sharing their task: the
    sandwich H^+ (sum_r u_r u_r') H^+ with u_r the gradient of round r, without small-sample factor. Rounds that share
    a task (resamples of its examples: `vtabjax.ranking.resampling.example_rounds`) belong to one of the `clusters`.

    The estimate is finite exactly if the graph "won or tied at least half a match against" is strongly
    connected (Ford, 1957). Where it is not, each strongly connected component is fitted separately, scores of
    different components cannot be compared, and a warning says so. `ridge` fits all models together in any case.

    Args:
      scores: [M, R], one row per model, one column per round; NaN where not run. Of a data frame the index is kept as
        the models' names.
      higher_is_better: False for errors, ranks and losses.
      tie_margin: largest difference that is a tie.
      ridge: strength of the penalty, or None for maximum likelihood.
      clusters: the cluster of each round, [R], any labels; None: every round is its own.

    Raises:
      ValueError: not [M, R] with two models or more, a negative or infinite margin, a ridge that is not positive,
        clusters that are not [R].

    >>> fit = epp([[0.9, 0.8, 0.7], [0.8, 0.9, 0.6], [0.7, 0.6, 0.8]])
    >>> fit.scores[0].round(3).item()
    0.468
    """
    s, clusters = bt.validate_scores(scores, higher_is_better, tie_margin, ridge, clusters)
    frame: Any = scores if hasattr(scores, "columns") else None
    names = () if frame is None else tuple(frame.index)
    n_models = len(s)
    wins = sum((bt.outcomes(column, tie_margin)[0] for column in s.T), np.zeros((n_models, n_models)))
    components = bt.components(wins)
    n_groups = 1 if ridge is not None else components.max() + 1
    if n_groups > 1:
        _warn_apart(n_models, n_groups)
        together = components[:, None] == components[None, :]
    else:
        together = np.ones((n_models, n_models), bool)
    wins = np.where(together, wins, 0.0)
    strengths = bt.fit(wins, ridge or 0.0)
    p = bt.sigmoid(strengths[:, None] - strengths[None, :])
    gradients = _cluster_gradients(s, clusters, tie_margin, p, together)
    covariance = _covariance(wins + wins.T, p, gradients, together, ridge)
    variances = np.maximum(np.diag(covariance), 0.0)
    n_pairs = (np.triu(wins + wins.T, 1) > 0).sum()
    return Epp(
        scores=strengths,
        standard_errors=np.where(together.sum(1) > 1, np.sqrt(variances), np.nan),
        covariance=covariance,
        components=components,
        finite=bool(components.max() == 0),
        deviance=_deviance(wins, p),
        df=int(n_pairs - (n_models - n_groups)),
        wins=wins,
        n_clusters=len(gradients),
        names=names,
        penalised=ridge is not None,
    )


def _warn_apart(n_models: int, n_groups: int) -> None:
    warnings.warn(
        f"the {n_models} models fall into {n_groups} groups without a win or tie against the ones above, so their "
        "distance is unbounded: scores are comparable within a group only (Epp.components). More rounds, a "
        "tie_margin or ridge=0.1 (a penalised fit of all models together) connect them",
        stacklevel=4,
    )


def _cluster_gradients(
    s: np.ndarray, clusters: np.ndarray, tie_margin: float, p: np.ndarray, together: np.ndarray
) -> np.ndarray:
    """What the rounds of each cluster contribute to the gradient of the log-likelihood, [G, M]."""
    gradients = np.zeros((clusters.max() + 1, len(s)))
    for r, cluster in enumerate(clusters):
        won, played = bt.outcomes(s[:, r], tie_margin)
        gradients[cluster] += np.where(together, won - played * p, 0.0).sum(1)
    return gradients


def _covariance(
    met: np.ndarray, p: np.ndarray, gradients: np.ndarray, together: np.ndarray, ridge: float | None
) -> np.ndarray:
    """The clustered covariance of the strengths, [M, M]: the sandwich H^+ (sum_r u_r u_r') H^+."""
    if ridge is None:
        # H + sum over components of 11'/n is invertible, and equals H on what is orthogonal to the components' means.
        centre = together / together.sum(1, keepdims=True)
        inverse = np.linalg.inv(bt.hessian(met, p, 0.0) + centre) - centre
    else:
        inverse = np.linalg.inv(bt.hessian(met, p, ridge))
    if len(gradients) > 1:
        covariance = inverse @ (gradients.T @ gradients) @ inverse
    else:
        covariance = np.full(met.shape, np.nan)
    return np.where(together, (covariance + covariance.T) / 2, 0.0)


def _deviance(wins: np.ndarray, p: np.ndarray) -> float:
    """Twice the log-likelihood ratio of win probabilities `p` [M, M] to the fraction of matches that each model won."""
    from scipy.special import xlogy

    met = wins + wins.T
    share = np.where(met > 0, wins / np.where(met > 0, met, 1), 1)
    return float(2 * (xlogy(wins, share) - xlogy(wins, p)).sum())


class WinProbabilities(NamedTuple):
    """How likely each model beats each other one on a new task like those seen, [M, M] each; 0.5 on the diagonal.

    NaN between models of components that were fitted apart: whoever met there, the one of the lower component number
    won.

    Attributes:
      p: row beats column.
      low: lower end of its interval; NaN where there is no standard error.
      high: upper end.
    """

    p: np.ndarray
    low: np.ndarray
    high: np.ndarray


def win_probabilities(fit: Epp, *, level: float = 0.95) -> WinProbabilities:
    """P(i beats j) = sigma(b_i - b_j), [M, M], with intervals from the clustered covariance (see `t_multiplier`).

    >>> scores = [[0.9, 0.8, 0.7], [0.8, 0.9, 0.6], [0.7, 0.6, 0.8]]
    >>> win_probabilities(epp(scores)).p.round(2)
    array([[0.5 , 0.61, 0.72],
           [0.39, 0.5 , 0.61],
           [0.28, 0.39, 0.5 ]])
    """
    apart = _apart(fit)
    difference = np.where(apart, np.nan, fit.scores[:, None] - fit.scores[None, :])
    v = np.diag(fit.covariance)
    error = np.sqrt(np.maximum(v[:, None] + v[None, :] - 2 * fit.covariance, 0.0))
    half = t_multiplier(fit.n_clusters, level) * np.where(apart, np.nan, error)
    low, high = difference - half, difference + half
    return WinProbabilities(p=bt.sigmoid(difference), low=bt.sigmoid(low), high=bt.sigmoid(high))


def t_multiplier(n_clusters: int, level: float = 0.95) -> float:
    """What a standard error is multiplied by to get half an interval: Student's t with n_clusters - 1 degrees of
    freedom, because the covariance is estimated from so many clusters. NaN for one.

    >>> round(t_multiplier(19), 3)
    2.101
    """
    from scipy import stats

    return float(stats.t.ppf((1 + level) / 2, n_clusters - 1)) if n_clusters > 1 else math.nan


def relative_to(fit: Epp, reference: int) -> tuple[np.ndarray, np.ndarray]:
    """Strengths with `reference` at zero, [M], and the standard errors of those differences, [M].

    NaN for models of other components where the fit is not finite.

    >>> scores = [[0.9, 0.8, 0.7], [0.8, 0.9, 0.6], [0.7, 0.6, 0.8]]
    >>> relative_to(epp(scores), 2)[0].round(2)
    array([0.94, 0.47, 0.  ])
    """
    v = np.diag(fit.covariance)
    variance = v + v[reference] - 2 * fit.covariance[:, reference]
    apart = _apart(fit)[:, reference]
    scores = np.where(apart, np.nan, fit.scores - fit.scores[reference])
    return scores, np.where(apart, np.nan, np.sqrt(np.maximum(variance, 0.0)))


def elo(scores: np.ndarray, *, base: float = 1500.0) -> np.ndarray:
    """Strengths in Elo points: base + 400 / ln(10) * b. Standard errors: times `ELO`.

    >>> elo([0.0, 1.0]).round()
    array([1500., 1674.])
    """
    return base + ELO * np.asarray(scores, np.float64)


class GoodnessOfFit(NamedTuple):
    """How well one strength per model explains who beat whom.

    Attributes:
      deviance: against the saturated model (every pair its own probability).
      df: its degrees of freedom.
      p_value: of the chi-squared test. It takes matches for independent, which those of one round are not: a small
        value is a hint, not proof.
      null_deviance: of equal strengths.
      explained: 1 - deviance / null_deviance.
      concordance: share of matches won by the stronger model (ties and equal strengths count half).
      matches: how many there were.
    """

    deviance: float
    df: int
    p_value: float
    null_deviance: float
    explained: float
    concordance: float
    matches: float


def goodness_of_fit(fit: Epp) -> GoodnessOfFit:
    """How well the strengths explain the matches they were fitted to; NaN where there is nothing to explain.

    >>> scores = [[0.9, 0.8, 0.7], [0.8, 0.9, 0.6], [0.7, 0.6, 0.8]]
    >>> goodness_of_fit(epp(scores)).matches
    9.0
    """
    from scipy import stats

    null = _deviance(fit.wins, np.full_like(fit.wins, 0.5))
    matches = float(fit.wins.sum())
    stronger = np.sign(fit.scores[:, None] - fit.scores[None, :]) / 2 + 0.5
    return GoodnessOfFit(
        deviance=fit.deviance,
        df=fit.df,
        p_value=float(stats.chi2.sf(fit.deviance, fit.df)) if fit.df > 0 else math.nan,
        null_deviance=null,
        explained=1 - fit.deviance / null if null > 0 else math.nan,
        concordance=float((fit.wins * stronger).sum() / matches) if matches else math.nan,
        matches=matches,
    )


def top_counts(scores: np.ndarray, k: int = 5) -> np.ndarray:
    """In how many rounds each model is among the k best, [M]; all that equal the k-th count.

    Args:
      scores: [M, R], higher is better, NaN where not run.
      k: how many count as the top.

    >>> top_counts([[0.9, 0.8], [0.8, 0.9], [0.7, 0.9]], k=1)
    array([1, 1, 1])
    """
    return (ranks(scores, method="min") <= k).sum(1)


def ranks(scores: np.ndarray, *, method: str = "average") -> np.ndarray:
    """Ranks within each round, 1 the best, NaN where not run, [M, R]; `method` as in `scipy.stats.rankdata`.

    >>> ranks([[0.9, 0.8], [0.8, 0.9], [0.7, np.nan]])
    array([[ 1.,  2.],
           [ 2.,  1.],
           [ 3., nan]])
    """
    from scipy import stats

    return stats.rankdata(-np.asarray(scores, np.float64), method=method, axis=0, nan_policy="omit")


def _apart(fit: Epp) -> np.ndarray:
    """[M, M], whether two models were fitted apart, so that nothing is known about their distance."""
    if fit.penalised:
        return np.zeros_like(fit.wins, bool)
    return fit.components[:, None] != fit.components[None, :]
