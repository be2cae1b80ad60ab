"""Populations of models whose accuracies and scores have a known distribution, and the chance that this implies.

A population is a mixture of normal distributions. With model m from component c, on task t, in standard units,

    z_mt = centre_ct + h u_mt,    accuracy_mt = mean_t + scale_t z_mt,    score_smt = z_mt + noise e_smt,

u and e normal with variance 1 and correlation SHARED between tasks (a model is good or lucky on all of them in part);
the errors e of two stages correlate by STAGES_SHARE. "normal" has one component at 0 and h = 1. "published" has the
sixteen models of VTAB's own table as components and h = 0.5: nineteen tasks, some generative models far behind.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import NamedTuple

import _alternate
import numpy as np
from scipy import special

sys.path.insert(0, str(_alternate.ROOT))
from vtabjax import ranking
from vtabjax.report import published

SHARED = 0.5
STAGES_SHARE = 0.5


class Population(NamedTuple):
    """Where models are drawn from: centres [C, T] in standard units, h, the tasks' means [T] and scales [T]."""

    centres: np.ndarray
    h: float
    mean: np.ndarray
    scale: np.ndarray


class Drawn(NamedTuple):
    """Models: accuracies [M, T], the scores of two stages [2, M, T], and the noise of these."""

    accuracy: np.ndarray
    scores: np.ndarray
    noise: float


def published_table() -> np.ndarray:
    """The sixteen models' accuracies with 1,000 examples, [16, 19]."""
    boards = published.published_boards(published.read("vtab"))
    return next(board.values for board in boards if board.key.endswith("-1000"))


@functools.cache
def named(name: str, n_tasks: int) -> Population:
    """ "normal": accuracies of 60 +- 5 % on every task; "published": those of the table."""
    if name == "normal":
        return Population(np.zeros((1, n_tasks)), 1.0, np.full(n_tasks, 0.6), np.full(n_tasks, 0.05))
    table = published_table()[:, :n_tasks]
    mean, scale = table.mean(0), table.std(0)
    return Population((table - mean) / scale, 0.5, mean, scale)


def draw(population: Population, n_models: int, noise: float, rng: np.random.Generator) -> Drawn:
    n_components, n_tasks = population.centres.shape
    component = rng.integers(n_components, size=n_models)
    z = population.centres[component] + population.h * _correlated(rng, (n_models, n_tasks))
    return Drawn(population.mean + population.scale * z, scores_of(z, noise, rng), noise)


def scores_of(z: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Two stages' scores of models with standardised accuracies z [M, T]."""
    common, *own = (_correlated(rng, z.shape) for _ in range(3))
    errors = [np.sqrt(STAGES_SHARE) * common + np.sqrt(1 - STAGES_SHARE) * e for e in own]
    return np.array([z + noise * e for e in errors])


def examples(scores: np.ndarray, n: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Right and wrong on n examples of each task that give models' scores [M, T], as accuracies: T times bool [M, n].

    A model is right about the examples that it finds easiest; half of what it finds easy all models do, so that their
    errors correlate as those of networks do.
    """
    found = []
    for column in scores.T:
        easy = rng.standard_normal(n, np.float32) + rng.standard_normal((len(column), n), np.float32)
        right = np.rint(n * np.clip(column, 0, 1)).astype(int)
        # The least easy one that a model is right about; one that is never right needs more than any.
        border = np.column_stack([np.sort(easy, axis=1), np.full(len(column), np.inf, np.float32)])
        found.append(easy >= np.take_along_axis(border, (n - right)[:, None], axis=1))
    return found


def _correlated(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    models = rng.standard_normal((shape[0], 1))
    return np.sqrt(SHARED) * models + np.sqrt(1 - SHARED) * rng.standard_normal(shape)


@functools.cache
def noise_for(name: str, kendall: float, n_models: int = 300) -> float:
    """The noise at which a score's weighted Kendall correlation with accuracy is `kendall`, the mean over tasks.

    Args:
      name: see `named`; "sixteen" for the published table's own models.
      kendall: wanted.
      n_models: how many are compared; the correlation depends on it.
    """

    def reached(noise: float) -> float:
        rng = np.random.default_rng(0)
        if name == "sixteen":
            z = named("published", 19).centres
            found = [weighted_kendall(z, scores_of(z, noise, rng)[0]) for _ in range(20)]
        else:
            population = named(name, 1 if name == "normal" else 19)
            some = [draw(population, n_models, noise, rng) for _ in range(40 if name == "normal" else 4)]
            found = [weighted_kendall(d.accuracy, d.scores[0]) for d in some]
        return float(np.mean(found))

    low, high = 0.01, 20.0
    for _ in range(16):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if reached(middle) > kendall else (low, middle)
    return float(np.sqrt(low * high))


def weighted_kendall(accuracy: np.ndarray, score: np.ndarray) -> float:
    """The mean over tasks of Vigna's correlation, as the report has it."""
    values = [ranking.agreement(s, a)["weighted_kendall"] for a, s in zip(accuracy.T, score.T, strict=True)]
    return float(np.mean(values))


class Truth(NamedTuple):
    """What somebody would say who knew the population's parameters: chance missed, expected regret."""

    chance: float
    regret: float


def truth(population: Population, drawn: Drawn, second: np.ndarray, left: np.ndarray, bar: float) -> Truth:
    """Given the scores: of the first stage for all models, of the second where `second`, bool [M].

    Args:
      population: what the models were drawn from.
      drawn: the models.
      second: who was measured in the second stage.
      left: who was not fine-tuned.
      bar: the winner's mean accuracy.
    """
    below: list[Callable[[np.ndarray], np.ndarray]] = []
    highest = bar
    for stages, here in ((2, left & second), (1, left & ~second)):
        if here.any():
            weights, mean, spread = _mixture(population, drawn.scores[:stages, here], drawn.noise)
            highest = max(highest, float((mean + 6 * spread).max()))
            below.append(functools.partial(_log_below, weights, mean, spread))

    def exceeded(level: np.ndarray) -> np.ndarray:
        return -np.expm1(sum((f(level) for f in below), np.zeros(len(level))))

    grid = np.linspace(bar, highest, 160)
    return Truth(float(exceeded(grid[:1])[0]), float(np.trapezoid(exceeded(grid), grid)))


def _mixture(
    population: Population, scores: np.ndarray, noise: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean accuracy given scores [S, M, T]: components' weights [M, C], means [M, C], standard deviation."""
    n_stages, n_tasks = len(scores), scores.shape[-1]
    own = population.h**2
    errors = np.full((n_stages, n_stages), STAGES_SHARE) + (1 - STAGES_SHARE) * np.eye(n_stages)
    across = own + noise**2 * errors
    tasks = np.full((n_tasks, n_tasks), SHARED) + (1 - SHARED) * np.eye(n_tasks)
    apart = scores[:, :, None] - population.centres[None, None]
    distance = np.einsum(
        "smct,sr,tu,rmcu->mc", apart, np.linalg.inv(across), np.linalg.inv(tasks), apart, optimize=True
    )
    share = own * np.linalg.inv(across).sum(0)
    z = population.centres + np.einsum("s,smct->mct", share, apart)
    to_mean = population.scale / n_tasks
    spread = np.sqrt(own * (1 - share.sum()) * (to_mean @ tasks @ to_mean))
    return special.softmax(-distance / 2, axis=1), population.mean.mean() + z @ to_mean, float(spread)


def _log_below(weights: np.ndarray, mean: np.ndarray, spread: float, level: np.ndarray) -> np.ndarray:
    """Log probability that all models are below each level, [levels]."""
    return np.array(
        [
            np.log(np.maximum((weights * special.ndtr((v - mean) / spread)).sum(1), 1e-300)).sum()
            for v in level
        ]
    )
