"""Who is measured by the last stage besides: finalists are added while a model left out may be much better.

How many finalists it takes depends on how well the earlier scores foretell accuracy, which nobody knows before some
models have reached the last stage. So it goes on in rounds. Each regresses what the last stage found on the scores
(`vtabjax.ranking.left_out`), asks for the chance that a model left out would beat the best one by more than `MARGIN`,
and, where it is above `add_chance`, measures the models that are most likely to do so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vtabjax.ranking import left_out

MARGIN = 0.01  # of accuracy: one point
_AT_ONCE = 0.25  # of the count asked for: a round for each model would leave other workers waiting


class Round(NamedTuple):
    """What one look at the chances says.

    Attributes:
      chance: that a model left out would beat the best by more than `MARGIN`; None: cannot be said.
      at_most: the upper end of its interval.
      rows: who is measured next, the likeliest first; empty where it ends.
      own: each one's own chance.
    """

    chance: float | None
    at_most: float | None
    rows: list[int]
    own: list[float]


def most(n: int, add_at_most: float) -> float:
    """What the last stage may cost, in models that are measured on all tasks, those never dropped aside.

    Args:
      n: how many finalists were asked for.
      add_at_most: times this.
    """
    return round(n * add_at_most, 9)


def room(cap: float, measured: Sequence[float]) -> int:
    """How many more models may be measured: what is left, at what a model took until now.

    A model that was stopped has cost only its share, so that the cells which stopping saves are there for others.

    Args:
      cap: see `most`.
      measured: which share of the tasks each model was measured on.

    >>> room(50, [1.0] * 20), room(50, [1.0] * 5 + [0.25] * 20)
    (30, 100)
    """
    if not measured:
        return int(cap)
    left = cap - sum(measured)
    return max(0, int(round(left / (sum(measured) / len(measured)), 9)))


def look(
    accuracy: np.ndarray,
    scores: Sequence[np.ndarray],
    candidates: np.ndarray,
    *,
    n: int,
    room: int,
    add_chance: float,
    winner: int,
    n_draws: int = 1000,
    seed: int = 0,
) -> Round:
    """Whether it goes on, and with whom.

    Args:
      accuracy: [M, T], NaN where the last stage has not measured.
      scores: of the stages before, [M, T] each.
      candidates: who may be measured, bool [M].
      n: how many finalists were asked for.
      room: how many more may be measured.
      add_chance: see the module; 1: nobody is added.
      winner: the best one's row.
      n_draws: of the regression.
      seed: of these.
    """
    if room <= 0 or add_chance >= 1 or not candidates.any():
        return Round(None, None, [], [])
    found = left_out.estimate(accuracy, scores, winner=winner, margin=MARGIN, n_draws=n_draws, seed=seed)
    chance, high = found.chance_missed.value, found.chance_missed.high
    if chance is None or chance <= add_chance:
        return Round(chance, high, [], [])
    own = np.where(candidates, np.nan_to_num(found.by_model), -1.0)
    at_once = min(room, max(1, round(_AT_ONCE * n)), int(candidates.sum()))
    rows = np.argsort(-own, kind="stable")[:at_once]
    return Round(chance, high, [int(i) for i in rows], [float(own[i]) for i in rows])


def listed(
    rounds: Sequence[Mapping[str, Any]], cap: float = 0.0, measured: Sequence[float] = ()
) -> dict[str, Any]:
    """The entry "added" of selection.json.

    Args:
      rounds: of `Round`, with names instead of rows under "models".
      cap: see `most`.
      measured: see `room`.
    """
    last = rounds[-1] if rounds else {"chance": None, "at_most": None}
    models = [
        {"model": model, "chance": chance}
        for row in rounds
        for model, chance in zip(row["models"], row["own"], strict=True)
    ]
    return {
        "models": models,
        "margin": MARGIN,
        "chance": last["chance"],
        "chance_at_most": last["at_most"],
        "taken": round(sum(measured), 3),
        "at_most": cap,
    }
