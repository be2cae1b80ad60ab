"""Who is first and who is second, and how sure that is: what headline and ranking chart say, from one place."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vtabjax.ranking import t_multiplier
from vtabjax.report.analysis import Analysis, Strengths

# An interval of a probability that leaves less than this out says nothing.
_NOTHING = 0.1


class Chance(NamedTuple):
    """Probability that the first beats the second on a new task, with its 95 % interval; fractions."""

    p: float
    low: float
    high: float

    @property
    def says_something(self) -> bool:
        """Whether the interval is not nearly all there is."""
        return self.high - self.low < 1 - _NOTHING


class Chances(NamedTuple):
    """One probability per model with its 95 % interval, fractions, [M] each."""

    p: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Standing(NamedTuple):
    """The first two of a board, and how far everybody is behind the first.

    Attributes:
      first: row of the best mean (of the strongest, where no model has all tasks).
      second: row of the next; None with one model.
      behind: fraction by which each mean is below the first's, [M]; NaN without a mean.
      low: lower end of its 95 % interval, [M]; NaN where unknown.
      high: upper end.
      over: what the intervals are over: "examples" (paired bootstrap of the test examples), "tasks" (Student's t over
        the differences on each task), or "" for no intervals.
      chance: that the first beats the second on a new task; None where unknown.
      clear: whether every interval that is known says that the first is before the second; None where none is known.
    """

    first: int
    second: int | None
    behind: np.ndarray
    low: np.ndarray
    high: np.ndarray
    over: str
    chance: Chance | None
    clear: bool | None

    @property
    def level_with_first(self) -> list[int]:
        """Rows other than the first whose interval holds no difference."""
        return [i for i in np.flatnonzero(self.low <= 0).tolist() if i != self.first]


def against_average(s: Strengths) -> Chances:
    """Each model's chance to beat one of average strength on a new task: sigma of its EPP, counted from the mean."""
    middle = 0.0 if s.reference is None else float(s.scores.mean())
    # Each counted from the mean has the fit's own error; that of a difference to a reference is another one.
    scores, half = s.scores - middle, t_multiplier(s.fit.n_clusters) * s.fit.standard_errors
    return Chances(*(1 / (1 + np.exp(-bound)) for bound in (scores, scores - half, scores + half)))


def standing(a: Analysis) -> Standing:
    """The first two of a board, and how sure their order is."""
    first = a.order[0]
    second = a.order[1] if len(a.order) > 1 else None
    behind = a.mean[first] - a.mean
    low, high, over = _intervals(a, first)
    chance = _chance(a, first, second)
    known = [] if chance is None else [chance.low > 0.5]
    if second is not None and np.isfinite(low[second]):
        known.append(bool(low[second] > 0))
    return Standing(first, second, behind, low, high, over, chance, all(known) if known else None)


def _intervals(a: Analysis, first: int) -> tuple[np.ndarray, np.ndarray, str]:
    unknown = np.full(len(a.mean), np.nan)
    d, values = a.differences, a.board.values
    if d is not None and len(d.rows) == a.complete.sum():
        low, high = unknown.copy(), unknown.copy()
        low[d.rows], high[d.rows] = d.low, d.high
        return low, high, "examples"
    n_tasks = values.shape[1]
    if n_tasks < 2 or not a.complete[first] or a.complete.sum() < 2:
        return unknown, unknown, ""
    apart = values[first] - values
    half = t_multiplier(n_tasks) * apart.std(axis=1, ddof=1) / np.sqrt(n_tasks)
    return apart.mean(axis=1) - half, apart.mean(axis=1) + half, "tasks"


def _chance(a: Analysis, first: int, second: int | None) -> Chance | None:
    if a.strengths is None or second is None:
        return None
    found = [float(matrix[first, second]) for matrix in a.strengths.wins]
    return Chance(*found) if np.isfinite(found).all() else None
