"""Who goes on to the next stage: the first by mean rank, whoever may belong there, and whoever is never dropped.

A stage after the first judges by its own scores and by those of the stages before it: two cheap scores with errors of
their own say more than the better one of them. Each is standardised per task over the models that are left, and they
are added up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vtabjax.ranking import resampling


class Before(NamedTuple):
    """What an earlier stage found about the models that are left.

    Attributes:
      scores: [M, T]; NaN where there is none, which counts as the task's mean.
      correct: for each task bool [M, N_t]; None: nothing is drawn again.
    """

    scores: np.ndarray
    correct: Sequence[np.ndarray] | None = None

    def of(self, rows: np.ndarray) -> Before:
        """Only some of the models."""
        return Before(self.scores[rows], None if self.correct is None else [c[rows] for c in self.correct])


class Kept(NamedTuple):
    """Who goes on.

    Attributes:
      kept: bool [M].
      mean_rank: of each model's score over the tasks, 1 the best, [M]; NaN without a score on every task.
      place: by mean rank, the mean score deciding ties, 1 the best, [M]; 0 without a score.
      chance: in what share of the resamples of the examples the model is among the first N, [M]; NaN where that is
        not known (no score, or a protocol that classifies nothing).
      reason: why, [M]: "first", "close", "always", "capped" (close, beyond the cap), "behind" or "no score".
      cap: how many may be kept, without those that are never dropped.
    """

    kept: np.ndarray
    mean_rank: np.ndarray
    place: np.ndarray
    chance: np.ndarray
    reason: list[str]
    cap: int


def choose(
    scores: np.ndarray,
    n: int,
    *,
    correct: Sequence[np.ndarray] | None = None,
    before: Sequence[Before] = (),
    keep_chance: float = 0.05,
    keep_at_most: float = 1.5,
    always: np.ndarray | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Kept:
    """Chooses.

    The first `n` by mean rank are kept. Scores come from few examples, so the border is blurred: the examples of
    every task are drawn again with replacement, the same for all models, and whoever is among the first `n` in more
    than `keep_chance` of the draws is kept as well, the most likely first, up to `keep_at_most` times `n` in all.

    Args:
      scores: [M, T], higher is better; NaN where a model has none.
      n: how many are wanted; at least 1.
      correct: for each task bool [M, N_t], whether each model is right about each example (rows of models without a
        score are not looked at); None where the scores are no accuracies.
      before: earlier stages, whose scores count as much as this one's (see the module).
      keep_chance: see above.
      keep_at_most: see above.
      always: bool [M], who goes on in any case, even without a score; they are counted neither in `n` nor in the cap
        unless they are among the first by their own score.
      resamples: draws.
      seed: of the draws.

    >>> choose(np.array([[0.9, 0.8], [0.5, 0.4], [0.8, 0.9]]), 1).reason
    ['first', 'behind', 'behind']
    """
    scores = np.asarray(scores, np.float64)
    m = len(scores)
    always = np.zeros(m, bool) if always is None else np.asarray(always, bool)
    scored = np.isfinite(scores).all(1)
    there = np.flatnonzero(scored)
    mean_rank, chance = np.full(m, np.nan), np.full(m, np.nan)
    place = np.zeros(m, int)
    earlier = [b.of(there) for b in before]
    judged = added_up([*(b.scores for b in earlier), scores[there]])
    mean_rank[there] = mean_ranks(judged)
    order = there[np.lexsort((there, -judged.mean(1), mean_rank[there]))]
    place[order] = np.arange(1, len(order) + 1)
    cap = max(n, math.floor(round(n * keep_at_most, 9)))
    if correct is not None and len(there):
        own = [c[there] for c in correct]
        chance[there] = chance_of_first(own, n, before=earlier, resamples=resamples, seed=seed)
    reason = ["behind" if s else "no score" for s in scored]
    for i in order[:n]:
        reason[i] = "first"
    # Ties in the chance go to the better place.
    close = sorted((i for i in order[n:] if chance[i] > keep_chance), key=lambda i: (-chance[i], place[i]))
    for number, i in enumerate(close, min(n, len(order))):
        reason[i] = "close" if number < cap else "capped"
    for i in np.flatnonzero(always):
        if reason[i] not in ("first", "close"):
            reason[i] = "always"
    kept = np.array([r in ("first", "close", "always") for r in reason])
    return Kept(kept, mean_rank, place, chance, reason, cap)


def mean_ranks(scores: np.ndarray) -> np.ndarray:
    """Mean over the tasks of each model's rank, 1 the best, ties the mean of their places: [M, T, ...] -> [M, ...]."""
    from scipy import stats

    return stats.rankdata(-scores, axis=0).mean(1)


def added_up(scores: Sequence[np.ndarray]) -> np.ndarray:
    """The scores of several stages as one, [M, T, ...] each: standardised per task and added. A single one stays.

    >>> added_up([np.array([[0.1], [0.3]]), np.array([[0.7], [0.9]])]).tolist()
    [[-2.0], [2.0]]
    """
    if len(scores) == 1:
        return scores[0]
    total = np.zeros(np.broadcast_shapes(*(s.shape for s in scores)))
    for values in scores:
        apart = values - np.nanmean(values, axis=0)
        spread = np.nanstd(values, axis=0)
        total += np.nan_to_num(apart / np.where(spread > 0, spread, 1.0))
    return total.round(12)  # ties stay ties


def chance_of_first(
    correct: Sequence[np.ndarray],
    n: int,
    *,
    before: Sequence[Before] = (),
    resamples: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """In what share of the resamples of the examples each model is among the first `n` by mean rank, [M].

    Of models that tie at the border each is counted as far as there is room: the shares of all add up to n.

    Args:
      correct: for each task bool [M, N_t].
      n: how many places there are.
      before: see `choose`; their examples are drawn again as well.
      resamples: draws.
      seed: of the draws.
    """
    m = len(correct[0])

    def drawn(correct: Sequence[np.ndarray], seed: int) -> np.ndarray:
        rounds, task = resampling.example_rounds(correct, n_resamples=resamples, seed=seed)
        return rounds.reshape(m, task.max() + 1, resamples)

    earlier = [
        b.scores[:, :, None] if b.correct is None else drawn(b.correct, seed + i)
        for i, b in enumerate(before, 1)
    ]
    ranks = mean_ranks(added_up([*earlier, drawn(correct, seed)]))  # [M, B]
    border = np.sort(ranks, axis=0)[min(n, m) - 1]
    inside, at = ranks < border - 1e-9, np.abs(ranks - border) <= 1e-9
    room = min(n, m) - inside.sum(0)
    return (inside + at * room / at.sum(0)).mean(1)
