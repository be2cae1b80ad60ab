"""Which finalists need no further training: the last stage goes in rounds of tasks, and looks at the chances.

With fewer than three tasks it goes in rounds of seeds (`vtabjax.sweep.select.seeds`).

What decides in the end is a sum over the tasks (`verdict.judge`): of accuracies, or, from `verdict.FEWEST_TASKS` tasks
on, of ranks, because models that all met each other on all tasks have strengths in the order of their wins. A finalist
is behind by sums over the tasks that are done; what the others will add is not known. With y_mt a model's value on a
task less the task's mean, n tasks done, r to come,

    y_mt = theta_m + e_mt,   e_mt ~ N(0, sigma^2),
    sum over the r to come | done ~ r mean_m + sqrt(r + r^2 / n) sigma z,

theta with a flat prior, sigma^2 = SSE / chi^2 with (M - 1)(n - 1) degrees of freedom, SSE that of the two-way table
of models and tasks (the posterior of a normal two-way layout; Gelman et al., "Bayesian Data Analysis", 3.2). After two
tasks with few models the tails of this are heavy, so that hardly anybody is stopped; after one, nobody is. In each
draw the examples of the tasks that are done are drawn again, too, the same for all models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from vtabjax.ranking import resampling
from vtabjax.results import Cell
from vtabjax.sweep.select import verdict
from vtabjax.sweep.select.scores import StageScores

T = TypeVar("T")
# More rounds stop a model earlier; each loads the models again.
MOST_ROUNDS = 4
_EXAMPLE_DRAWS = 200


class Stopped(NamedTuple):
    """A finalist that was not trained to its end.

    Attributes:
      after: how many tasks it was trained on, or with how many seeds.
      chance: its chance of being first, as seen then.
      cells: that were saved; of seeds, retrainings.
      hours: of computing that these would have taken; None where costs are not known.
      total: how many tasks or seeds there are.
      unit: "tasks" or "seeds".
      reached: task -> what it reached with the seeds that are done; None for tasks, whose results say it.
    """

    after: int
    chance: float
    cells: int
    hours: float | None
    total: int
    unit: str = "tasks"
    reached: dict[str, float] | None = None


def rounds(tasks: Sequence[T], most: int = MOST_ROUNDS) -> list[list[T]]:
    """Tasks in rounds of about the same size, the first of two or more; neighbours in the list in different ones.

    Lists of tasks are ordered by kind (VTAB's: natural, specialised, structured), and each round should have all kinds.

    >>> rounds(["a", "b", "c", "d", "e"])
    [['a', 'e'], ['b'], ['c'], ['d']]
    """
    n = max(1, min(most, len(tasks) - 1))
    return [list(tasks[i::n]) for i in range(n)]


def chance_of_being_first(
    scores: np.ndarray,
    to_come: int,
    correct: Sequence[np.ndarray] | None = None,
    *,
    by_rank: bool,
    by_median: bool = False,
    n_draws: int = 20_000,
    seed: int = 0,
) -> np.ndarray:
    """Each model's chance of being first when all tasks are done (see the module), [M]; the chances add up to 1.

    Args:
      scores: on the tasks that are done, [M, n], all finite; n >= 2 where some are to come.
      to_come: r, tasks that are not done.
      correct: for each task that is done bool [M, N_t]; None: the scores count as they are. Where the columns of
        scores are no tasks, but means over the tasks with different seeds: for each task bool [M, n, N_t].
      by_rank: whether ranks decide, or else the scores' sums.
      by_median: whether it is the median of the columns that decides (the lower middle one), not their sum.
      n_draws: of the tasks to come.
      seed: of all draws.

    Raises:
      ValueError: fewer than two tasks are done, so that nothing is known of how a model's tasks differ.
    """
    scores = np.asarray(scores, np.float64)
    m, n = scores.shape
    if to_come and n < 2:
        raise ValueError(f"{n} task is done; how models differ from task to task shows from two on")
    done = scores[:, :, None] if correct is None else _drawn(correct, seed)
    values = _values(done, by_rank)  # [M, n, draws]
    rng = np.random.default_rng(seed)
    drawn = rng.integers(values.shape[2], size=n_draws)
    total = values.sum(1)[:, drawn]
    sigma = np.zeros(n_draws)
    if to_come:
        y = _values(scores[:, :, None], by_rank)[:, :, 0]
        y = y - y.mean(0)
        apart = y - y.mean(1, keepdims=True)
        sigma = np.sqrt((apart**2).sum() / rng.chisquare(max(1, (m - 1) * (n - 1)), n_draws))
    if by_median:
        theta = total / n + sigma / np.sqrt(n) * rng.standard_normal((m, n_draws))
        others = theta[:, None] + sigma * rng.standard_normal((m, to_come, n_draws))
        every = np.concatenate([values[:, :, drawn], others], axis=1)
        total = np.sort(every, axis=1)[:, (n + to_come - 1) // 2]
    elif to_come:
        spread = np.sqrt(to_come + to_come**2 / n) * sigma
        total = total * (1 + to_come / n) + spread * rng.standard_normal((m, n_draws))
    best = np.isclose(total, total.max(0), rtol=0, atol=1e-9)
    return (best / best.sum(0)).mean(1)


def _drawn(correct: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """Scores with the examples drawn again, the same for all models and all seeds, [M, n, draws]."""
    m = len(correct[0])
    rows = [c.reshape(-1, c.shape[-1]) for c in correct]
    drawn, _ = resampling.example_rounds(rows, n_resamples=_EXAMPLE_DRAWS, seed=seed)
    if correct[0].ndim == 2:
        return drawn.reshape(m, len(correct), -1)
    return drawn.reshape(m, -1, len(correct), _EXAMPLE_DRAWS).mean(2)


def _values(scores: np.ndarray, by_rank: bool) -> np.ndarray:
    """What is added up over the tasks, [M, n, draws]: the more the better."""
    if not by_rank:
        return scores
    from scipy import stats

    return -stats.rankdata(-scores, axis=0)


def decide(
    found: StageScores, to_come: Sequence[str], stop_chance: float, never: Sequence[str], seed: int
) -> dict[str, float]:
    """Who is not trained further: model -> its chance of being first.

    Args:
      found: the tasks that are done, of the models that are still trained. One without a score on one of them is no
        longer a finalist; it stops nobody, and is not stopped.
      to_come: the other tasks.
      stop_chance: who has less than this is stopped.
      never: models that are not.
      seed: of the draws.
    """
    there = [m for m, well in zip(found.models, found.scored, strict=True) if well]
    if len(there) < 2 or len(found.tasks) < 2 or not to_come:
        return {}
    these = found.of(there)
    by_rank = these.correct is None or len(found.tasks) + len(to_come) >= verdict.FEWEST_TASKS
    chances = chance_of_being_first(these.scores, len(to_come), these.correct, by_rank=by_rank, seed=seed)
    return with_too_little(there, chances, stop_chance, never)


def with_too_little(
    models: Sequence[str], chances: np.ndarray, stop_chance: float, never: Sequence[str]
) -> dict[str, float]:
    """Those who are stopped, with their chances of being first [M]."""
    # Where many are alike all of them have little chance; who has most of it goes on.
    low = (chances < stop_chance) & (chances < chances.max())
    return {m: float(chances[i]) for i, m in enumerate(models) if low[i] and m not in never}


def of(
    model: str,
    after: int,
    total: int,
    chance: float,
    missing: Sequence[Cell],
    seconds: Callable[[Cell], float | None],
) -> Stopped:
    """A model that is stopped, and what that saves.

    Args:
      model: its spec.
      after: how many tasks are done.
      total: how many there are.
      chance: of its being first.
      missing: cells of the other tasks that have no result yet, of all models.
      seconds: what a cell is expected to take, or None.
    """
    cells = [cell for cell in missing if cell.model == model]
    known = [s for s in map(seconds, cells) if s is not None]
    hours = sum(known) / 3600 if len(known) == len(cells) else None
    return Stopped(after, chance, len(cells), hours, total)


def listed(stopped: Mapping[str, Stopped]) -> dict[str, Any]:
    """The entry "stopped" of selection.json: who, what that saved in all, and at what risk."""
    hours = [row.hours for row in stopped.values() if row.hours is not None]
    return {
        "models": [{"model": model, **row._asdict()} for model, row in stopped.items()],
        "cells": sum(row.cells for row in stopped.values()),
        "hours": round(sum(hours), 6) if len(hours) == len(stopped) else None,
        # At most: the chances that one of them would have been first add up.
        "chance": min(1.0, sum(row.chance for row in stopped.values())),
    }
