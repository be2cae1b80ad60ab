"""The last stage in rounds of seeds, where there are too few tasks for rounds of tasks: who needs no further seeds.

A model's result on a task is the median over the seeds of fine-tuning (the lower middle one of an even number). The
chance of being first is that of `stopping.chance_of_being_first` with seeds for tasks: y_ms is the model's mean
accuracy over its tasks with seed s, less the mean of all models; theta_m and the seeds to come are drawn,

    theta_m | done ~ N(mean of y_m, sigma^2 / n),   y_ms | theta_m ~ N(theta_m, sigma^2),

and the median over all seeds decides. It is farther from theta_m than the mean would be (with normal deviations its
variance is 1.35 times the mean's for three seeds, 1.43 times for five, pi / 2 times for many), so that chances by the
mean would be too far from one half; on the other hand the median of three lies between the two that are done. With two
tasks it is the median of the tasks' mean, and not the mean of the tasks' medians that the result has.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vtabjax import results
from vtabjax.results import Cell
from vtabjax.sweep.select import stopping
from vtabjax.sweep.select.scores import Record
from vtabjax.sweep.select.stopping import Stopped


class SeedScores(NamedTuple):
    """What models reached with the first n seeds.

    Attributes:
      models: specs, [M].
      scores: mean accuracy over the tasks with each seed, [M, n]; NaN where there is none.
      correct: for each task bool [M, n, N_t], rows of models without a score all False; None where results do not say
        which examples were right with each seed, or where the models saw different examples.
      reached: model -> task -> the median over these seeds, of the models that have all.
    """

    models: list[str]
    scores: np.ndarray
    correct: list[np.ndarray] | None
    reached: dict[str, dict[str, float]]


def rounds(n: int, most: int = stopping.MOST_ROUNDS) -> list[int]:
    """How many of n seeds are done after each round: two after the first one, the others in parts of about equal size.

    >>> rounds(3), rounds(5), rounds(10), rounds(2)
    ([2, 3], [2, 3, 4, 5], [2, 5, 8, 10], [2])
    """
    if n < 3:
        return [n]
    later = min(most - 1, n - 2)
    return [2 + math.ceil((n - 2) * i / later) for i in range(later + 1)]


def scores(
    models: Sequence[str], tasks: Sequence[str], records: Mapping[tuple[str, str], Record | None], n: int
) -> SeedScores:
    """The first n seeds of results with as many or more.

    Args:
      models: specs.
      tasks: names.
      records: (model, task) -> the result.
      n: how many seeds.
    """
    found = np.full((len(models), n, len(tasks)), np.nan)
    for i, model in enumerate(models):
        for j, task in enumerate(tasks):
            if record := records.get((model, task)):
                found[i, :, j] = [seed["accuracy"] for seed in record["chosen"]["seeds"][:n]]
    there = {m: row for m, row in zip(models, found, strict=True) if np.isfinite(row).all()}
    reached = {
        model: {task: statistics.median_low(row[:, j].tolist()) for j, task in enumerate(tasks)}
        for model, row in there.items()
    }
    own = [{model: records[model, task] or {} for model in there} for task in tasks]
    correct = [_correct(of_task, models, n) for of_task in own]
    known = [c for c in correct if c is not None]
    return SeedScores(list(models), found.mean(2), known if len(known) == len(tasks) else None, reached)


def _correct(records: Mapping[str, Record], models: Sequence[str], n: int) -> np.ndarray | None:
    """Which examples of a task were right with each of the seeds, bool [M, n, N]; None where that is not known."""
    kept = {m: [seed.get("correct") for seed in r["chosen"]["seeds"][:n]] for m, r in records.items()}
    examples = {(str(sorted((r.get("data") or {}).items())), r["n_examples"]) for r in records.values()}
    if len(examples) != 1 or any(bits is None for seeds in kept.values() for bits in seeds):
        return None
    nothing = np.zeros((n, examples.pop()[1]), bool)
    rows = {m: np.array([results.unpack(bits) for bits in seeds]) for m, seeds in kept.items()}
    return np.array([rows.get(m, nothing) for m in models])


def decide(
    found: SeedScores, to_come: int, stop_chance: float, never: Sequence[str], seed: int
) -> dict[str, float]:
    """Who is not trained with further seeds: model -> its chance of being first. See `stopping.decide`.

    Args:
      found: the seeds that are done, of the models that are still trained.
      to_come: how many others there are.
      stop_chance: who has less than this is stopped.
      never: models that are not.
      seed: of the draws.
    """
    rows = np.flatnonzero(np.isfinite(found.scores).all(1)).tolist()
    if len(rows) < 2 or found.scores.shape[1] < 2 or not to_come:
        return {}
    correct = None if found.correct is None else [c[rows] for c in found.correct]
    chances = stopping.chance_of_being_first(
        found.scores[rows], to_come, correct, by_rank=False, by_median=True, seed=seed
    )
    return stopping.with_too_little([found.models[i] for i in rows], chances, stop_chance, never)


def stopped(
    found: SeedScores,
    model: str,
    chance: float,
    total: int,
    missing: Sequence[Cell],
    seconds: Callable[[Cell], float | None],
) -> Stopped:
    """A model that is stopped, and what that saves.

    Args:
      found: the seeds that are done.
      model: its spec.
      chance: of its being first.
      total: how many seeds there are.
      missing: cells with all seeds that have no result yet, of all models.
      seconds: what the other seeds of a cell are expected to take, or None.
    """
    n = found.scores.shape[1]
    row = stopping.of(model, n, total, chance, missing, seconds)
    return row._replace(cells=row.cells * (total - n), unit="seeds", reached=found.reached[model])
