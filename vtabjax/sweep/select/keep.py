"""Who goes on to the next stage: the first by mean rank, whoever may belong there, and whoever is never dropped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vtabjax.ranking import resampling


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
    mean_rank[there] = mean_ranks(scores[there])
    order = there[np.lexsort((there, -scores[there].mean(1), mean_rank[there]))]
    place[order] = np.arange(1, len(order) + 1)
    cap = max(n, math.floor(round(n * keep_at_most, 9)))
    if correct is not None and len(there):
        chance[there] = chance_of_first([c[there] for c in correct], n, resamples=resamples, seed=seed)
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


def chance_of_first(
    correct: Sequence[np.ndarray], n: int, *, resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """In what share of the resamples of the examples each model is among the first `n` by mean rank, [M].

    Of models that tie at the border each is counted as far as there is room: the shares of all add up to n.

    Args:
      correct: for each task bool [M, N_t].
      n: how many places there are.
      resamples: draws.
      seed: of the draws.
    """
    rounds, task = resampling.example_rounds(correct, n_resamples=resamples, seed=seed)
    m = len(rounds)
    by_task = rounds.reshape(m, task.max() + 1, resamples)
    ranks = mean_ranks(by_task)  # [M, B]
    border = np.sort(ranks, axis=0)[min(n, m) - 1]
    inside, at = ranks < border - 1e-9, np.abs(ranks - border) <= 1e-9
    room = min(n, m) - inside.sum(0)
    return (inside + at * room / at.sum(0)).mean(1)
