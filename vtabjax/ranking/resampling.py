"""Uncertainty by resampling: tasks for the strengths, examples for accuracies and their differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

from vtabjax.ranking import _bradley_terry as bt

# The penalty that stands in where the strengths of a resample have no finite estimate: small enough to leave a model
# that is never beaten far ahead (about ln(10 x matches) ahead of the others).
STAND_IN = 0.1
_FITS = 1000  # models up to which each resample is fitted


class Bootstrap(NamedTuple):
    """Strengths in resamples of tasks.

    Attributes:
      scores: [B, M], each row with mean zero; NaN for a model that has no match in a resample.
      n_penalised: in how many resamples the estimate is not finite (a model wins every match of the tasks drawn), so
        that the fit with `ridge=STAND_IN` stands in.
      one_step: whether each is one Newton step from the strengths of all tasks instead of a fit.
    """

    scores: np.ndarray
    n_penalised: int
    one_step: bool = False


# Systems of a few hundred unknowns: threads wait for each other longer than they work.
@threadpool_limits.wrap(limits=1)
def bootstrap(
    scores: ArrayLike,
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    higher_is_better: bool = True,
    tie_margin: float = 0.0,
    ridge: float | None = None,
    clusters: Sequence | np.ndarray | None = None,
) -> Bootstrap:
    """Fits `vtabjax.ranking.epp` to tasks drawn with replacement: the alternative to its standard errors.

    Whole clusters (by default rounds, that is, tasks) are drawn, because matches of one task are not independent.
    Counts are added up per task once, so a resample costs one weighted sum and a few Newton steps from the strengths
    of all tasks. With more than 1,000 models a resample is a single step with the Hessian of all tasks, which costs one
    product of a vector instead of seconds (the score bootstrap of Kline and Santos, "A score based approach to wild
    bootstrap inference", J. Econometric Methods 2012, with multinomial weights).

    Args:
      scores: [M, R], one row per model, one column per round; NaN where not run.
      n_resamples: B.
      seed: of the draws.
      higher_is_better: see `epp`; so are the others.
      tie_margin: largest difference that is a tie.
      ridge: strength of the penalty in every resample, or None for maximum likelihood.
      clusters: the cluster of each round, [R].

    Raises:
      ValueError: as `epp`, or fewer than one resample.

    >>> scores = [[0.9, 0.8, 0.7], [0.8, 0.9, 0.6], [0.7, 0.6, 0.8]]
    >>> first_share(bootstrap(scores, n_resamples=100).scores).argmax().item()
    0
    """
    s, clusters = bt.validate_scores(scores, higher_is_better, tie_margin, ridge, clusters)
    if n_resamples < 1:
        raise ValueError(f"n_resamples={n_resamples}; give 1 or more")
    wins = bt.wins_by_cluster(s, clusters, tie_margin)
    n_clusters, n_models = wins.shape[:2]
    weights = np.random.default_rng(seed).multinomial(
        n_clusters, np.full(n_clusters, 1 / n_clusters), n_resamples
    )
    total = wins.sum(0)
    of_all = ridge or (0.0 if bt.is_connected(total) else STAND_IN)
    start = bt.fit(total, of_all)
    if n_models > _FITS:
        return Bootstrap(_steps(wins, weights, start, of_all), 0, one_step=True)
    strengths, n_penalised = np.full((n_resamples, n_models), np.nan), 0
    for row, weight in zip(strengths, weights, strict=True):
        drawn = np.tensordot(weight, wins, 1)
        here = np.flatnonzero((drawn + drawn.T).sum(1))
        if len(here) == 0:
            continue
        if len(here) < n_models:
            drawn = drawn[np.ix_(here, here)]
        penalty = ridge
        if penalty is None and not bt.is_connected(drawn):
            penalty, n_penalised = STAND_IN, n_penalised + 1
        row[here] = bt.fit(drawn, penalty or 0.0, start[here])
    return Bootstrap(strengths, n_penalised)


def _steps(wins: np.ndarray, weights: np.ndarray, start: np.ndarray, penalty: float) -> np.ndarray:
    """A Newton step from the strengths of all tasks for each resample, [B, M].

    Args:
      wins: [G, M, M], of each cluster.
      weights: how often each is drawn, [B, G].
      start: the strengths of all, [M].
      penalty: of these.
    """
    from scipy.linalg import cho_factor, cho_solve

    p = bt.sigmoid(start[:, None] - start[None, :])
    gradients = np.array([((w + w.T) * p - w).sum(1) for w in wins])  # they and the penalty's add up to 0
    met = wins.sum(0)
    met += met.T
    centre = bt.means(met)
    factor = cho_factor(bt.hessian(met, p, penalty) + (0.0 if penalty else centre), overwrite_a=True)
    steps = cho_solve(factor, -((weights - 1.0) @ gradients).T)
    strengths = start + (steps if penalty else steps - centre @ steps).T
    played = np.array([(w + w.T).any(1) for w in wins])
    strengths[weights @ played == 0] = np.nan
    return strengths


def interval(samples: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval over resamples, [B, ...] -> two of [...]; NaN where there is no sample.

    >>> low, high = interval(np.arange(101.0))
    >>> low.round(1).item(), high.round(1).item()
    (2.5, 97.5)
    """
    samples = np.asarray(samples, np.float64)
    nothing = np.isnan(samples).all(0)
    low, high = np.nanquantile(np.where(nothing, 0.0, samples), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.where(nothing, np.nan, low), np.where(nothing, np.nan, high)


def first_share(samples: np.ndarray) -> np.ndarray:
    """In what fraction of the resamples each model is the best, [B, M] -> [M]; models that tie share it.

    Resamples without any estimate do not count; NaN where there is no other.

    >>> first_share(np.array([[2.0, 1.0], [1.0, 2.0], [3.0, 3.0], [4.0, 1.0]]))
    array([0.625, 0.375])
    """
    samples = samples[~np.isnan(samples).all(1)]
    if not len(samples):
        return np.full(samples.shape[1], np.nan)
    best = samples == np.nanmax(samples, axis=1, keepdims=True)
    return (best / best.sum(1, keepdims=True)).mean(0)


def example_rounds(
    correct: Sequence[np.ndarray],
    *,
    n_resamples: int = 20,
    seed: int = 0,
    groups: Sequence[np.ndarray | None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Rounds of EPP as resamples of each task's examples: a lead that other test examples would undo counts less.

    Every model sees the same draw of a task's examples.

    Args:
      correct: for each task bool [M, N_t], whether each model classified each example correctly; a row of a float
        array may be NaN where a model was not run.
      n_resamples: rounds per task.
      seed: of the draws.
      groups: for each task int [N_t], equal for examples that belong together, which are drawn together; None for a
        task whose examples are independent, or for all.

    Returns:
      Accuracies [M, T * n_resamples], and the task of each round, [T * n_resamples], for `clusters`.

    >>> correct = [np.array([[True, True, False], [True, False, False]])]
    >>> scores, task = example_rounds(correct, n_resamples=4)
    >>> scores.shape, task.tolist()
    ((2, 4), [0, 0, 0, 0])
    """
    rng = np.random.default_rng(seed)
    own = [None] * len(correct) if groups is None else groups
    rounds = [_resampled(c, n_resamples, rng, g) for c, g in zip(correct, own, strict=True)]
    return np.concatenate(rounds, axis=1), np.repeat(np.arange(len(correct)), n_resamples)


def paired_means(
    correct: Sequence[np.ndarray],
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    groups: Sequence[np.ndarray | None] | None = None,
) -> np.ndarray:
    """Mean accuracy over the tasks in resamples of their examples, [B, M].

    Every model sees the same draws, so the difference of two columns is a paired bootstrap of their difference. The
    tasks stay: this is the uncertainty from so many test examples, not from so few tasks.

    Args:
      correct: see `example_rounds`.
      n_resamples: B.
      seed: of the draws.
      groups: see `example_rounds`.

    >>> correct = [np.array([[True, True, False], [True, False, False]])]
    >>> (paired_means(correct)[:, 0] >= paired_means(correct)[:, 1]).all().item()
    True
    """
    rng = np.random.default_rng(seed)
    own = [None] * len(correct) if groups is None else groups
    drawn = [_resampled(c, n_resamples, rng, g) for c, g in zip(correct, own, strict=True)]
    return np.mean(drawn, axis=0).T


def _resampled(
    correct: np.ndarray, n_resamples: int, rng: np.random.Generator, groups: np.ndarray | None = None
) -> np.ndarray:
    """Accuracies in resamples of the examples (of whole groups, where there are some), [M, B]."""
    hits = np.asarray(correct, np.float32)
    sizes = np.ones(hits.shape[1], np.float32)
    if groups is not None:
        number = np.unique(groups, return_inverse=True)[1]
        sizes = np.bincount(number).astype(np.float32)
        hits = np.stack([np.bincount(number, row) for row in hits]).astype(np.float32)
    n = len(sizes)
    out = np.empty((len(hits), n_resamples))
    at_once = max(1, 8_000_000 // n)
    for i in range(0, n_resamples, at_once):
        draws = rng.integers(0, n, (min(at_once, n_resamples - i), n), dtype=np.int32)
        counts = np.array([np.bincount(draw, minlength=n) for draw in draws], np.float32)
        # Integers below 2^24: exact.
        out[:, i : i + at_once] = (hits @ counts.T).astype(np.float64) / (sizes @ counts.T)
    return out


def group_interval(
    correct: np.ndarray, groups: np.ndarray, *, level: float = 0.95, n_resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The interval of an accuracy whose examples belong together: percentiles over resamples of whole groups.

    Where all examples are right, or all wrong, resamples show nothing; then it is Wilson's, of as many examples as
    there are groups.

    Args:
      correct: bool [N].
      groups: int [N], equal for examples of one group.
      level: of the interval.
      n_resamples: how many.
      seed: of the draws.

    >>> low, high = group_interval(np.repeat([True, True, True, False], 5), np.repeat([0, 1, 2, 3], 5))
    >>> low <= 0.25, high
    (True, 1.0)
    """
    accuracy = float(np.mean(correct))
    if accuracy in (0.0, 1.0):
        low, high = wilson(np.asarray(accuracy), np.asarray(len(np.unique(groups))), level)
        return (0.0, float(high)) if accuracy == 0 else (float(low), 1.0)
    rng = np.random.default_rng(seed)
    low, high = interval(_resampled(np.asarray(correct)[None], n_resamples, rng, groups)[0], level)
    return float(low), float(high)


def wilson(accuracy: np.ndarray, n: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's interval of a proportion seen on n examples, elementwise.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference" (JASA 1927).

    >>> low, high = wilson(0.8, 200)
    >>> round(low.item(), 3), round(high.item(), 3)
    (0.739, 0.85)
    """
    from scipy import stats

    z = stats.norm.ppf((1 + level) / 2)
    p, n = np.asarray(accuracy, np.float64), np.asarray(n, np.float64)
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return middle - half, middle + half
