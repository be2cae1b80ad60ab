"""Who has won among the finalists, and who cannot be told apart from the winner."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vtabjax import ranking
from vtabjax.ranking import resampling

_RIDGE = 0.1  # of the fit that is shown where the maximum-likelihood estimate is not finite, as in the report
_ROUNDS = 20  # resamples of each task's examples, each a round of EPP
# With fewer tasks EPP's intervals, of as many clusters, tell nothing apart.
FEWEST_TASKS = 5


class Verdict(NamedTuple):
    """A ranking of the finalists.

    Attributes:
      order: rows, the best first.
      mean: mean score over the tasks, [M].
      behind: by how much the mean is behind the leader's, [M].
      behind_low: lower end of its 95 % interval by a paired bootstrap of the examples, [M]; NaN without examples.
      behind_high: upper end.
      strength: EPP, relative to the leader, [M]; None for one task.
      strength_low: lower end of its 95 % interval, NaN where it is unbounded (a model that never won or tied).
      strength_high: upper end.
      contenders: rows that cannot be told apart from the leader, which is the first of them, in `order`.
      method: how that was judged, in words.
    """

    order: list[int]
    mean: np.ndarray
    behind: np.ndarray
    behind_low: np.ndarray
    behind_high: np.ndarray
    strength: np.ndarray | None
    strength_low: np.ndarray | None
    strength_high: np.ndarray | None
    contenders: list[int]
    method: str

    @property
    def clear(self) -> bool:
        """Whether there is a clear winner."""
        return len(self.contenders) == 1


def judge(
    scores: np.ndarray,
    correct: Sequence[np.ndarray] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Verdict:
    """Ranks the finalists.

    Five tasks or more: by Elo-based Predictive Power (`vtabjax.ranking.epp`), whose rounds are resamples of each task's
    examples, clustered by task; a model contends with the leader unless the 95 % interval of its strength's distance
    lies below 0, or it never won or tied a round against the leader's group. Fewer tasks say next to nothing about
    others, so that EPP's intervals are of no use; there the mean accuracy on these tasks decides, and a model contends
    unless the 95 % interval of its distance, by a paired bootstrap of the examples, lies above 0.

    Args:
      scores: [M, T], all finite, M >= 1.
      correct: for each task bool [M, N_t], or None.
      resamples: of the paired bootstrap.
      seed: of all draws.
    """
    scores = np.asarray(scores, np.float64)
    m, t = scores.shape
    mean = scores.mean(1)
    strength = None if t == 1 or m == 1 else _strengths(scores, correct, seed)
    by_epp = strength is not None and (t >= FEWEST_TASKS or correct is None)
    # Equal strengths, and few tasks: by the mean.
    first = strength.shown if strength is not None and by_epp else mean
    order = [int(i) for i in np.lexsort((np.arange(m), -mean, -np.round(first, 9)))]
    leader = order[0]
    low = high = np.full(m, np.nan)
    if correct is not None:
        drawn = resampling.paired_means(correct, n_resamples=resamples, seed=seed)
        low, high = resampling.interval(drawn[:, [leader]] - drawn)
    relative = below = above = None
    if strength is not None:
        relative, below, above = strength.relative_to(leader)
    made = functools.partial(Verdict, order, mean, mean[leader] - mean, low, high, relative, below, above)
    if strength is not None and above is not None and by_epp:
        contending = ~strength.apart[leader] & ~(above < 0)
        contending[leader] = True
        return made([i for i in order if contending[i]], strength.method)
    if m == 1:
        return made(order, "a single finalist, so that there is nothing to compare")
    if correct is None:
        tied = [i for i in order if mean[i] == mean[leader]]
        return made(tied, "by the score alone: this protocol classifies nothing")
    near = [i for i in order if i == leader or not low[i] > 0]
    return made(near, _few_tasks(t))


def _few_tasks(t: int) -> str:
    tasks = "one task" if t == 1 else f"{t} tasks"
    return (
        f"95 % intervals of the differences of mean accuracy by a paired bootstrap of the examples: {tasks} cannot "
        f"tell how far EPP would hold on others (it judges from {FEWEST_TASKS} tasks on)"
    )


class _Strengths(NamedTuple):
    fit: ranking.Epp
    apart: np.ndarray  # bool [M, M]
    method: str

    @property
    def shown(self) -> np.ndarray:
        return self.fit.scores

    def relative_to(self, leader: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scores, errors = ranking.relative_to(self.fit, leader)
        half = np.where(self.apart[leader], np.nan, ranking.t_multiplier(self.fit.n_clusters) * errors)
        return scores, scores - half, scores + half


def _strengths(scores: np.ndarray, correct: Sequence[np.ndarray] | None, seed: int) -> _Strengths:
    rounds, clusters = scores, np.arange(scores.shape[1])
    kind = "tasks"
    if correct is not None:
        rounds, clusters = resampling.example_rounds(correct, n_resamples=_ROUNDS, seed=seed)
        kind = f"{_ROUNDS} resamples of each task's examples"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what it says is in `method`
        fit = ranking.epp(rounds, clusters=clusters)
        apart = fit.components[:, None] != fit.components[None, :]
        method = f"EPP over {kind}, 95 % intervals clustered by task"
        if not fit.finite:
            fit = ranking.epp(rounds, clusters=clusters, ridge=_RIDGE)
            method += (
                "; some models never beat others, so that their distance is unbounded (the fit is penalised)"
            )
    return _Strengths(fit, apart, method)
