"""95 % intervals of means over tasks: what other test examples of the same tasks would change."""

from __future__ import annotations

import numpy as np

from vtabjax.report.analysis import Analysis

Interval = tuple[np.ndarray, np.ndarray]


def mean_intervals(a: Analysis) -> dict[str, Interval]:
    """Intervals of each model's means, by the name of their column: low and high, [M] each, NaN where not known.

    The plain mean has that of the paired bootstrap where there is one. Elsewhere the tasks' own intervals are added up
    as those of independent samples: half the width is sqrt(sum of (w_t h_t)^2) for weights w_t and halves h_t.
    """
    n_tasks = len(a.board.tasks)
    weights = {"mean": np.full(n_tasks, 1 / n_tasks)}
    for group, members in a.groups.items():
        weights[group] = np.zeros(n_tasks)
        weights[group][members] = 1 / len(members)
    if a.mean_of_groups is not None:
        weights["mean of groups"] = np.mean([weights[group] for group in a.groups], axis=0)
    found = {name: _added(a, w) for name, w in weights.items()}
    if a.differences is not None:
        d, (low, high) = a.differences, found["mean"]
        low[d.rows], high[d.rows] = d.mean_low, d.mean_high
    return found


def _added(a: Analysis, weights: np.ndarray) -> Interval:
    """The interval of a weighted mean, from those of the tasks that have a weight."""
    used = weights > 0
    mean = a.board.values[:, used] @ weights[used]
    half = np.sqrt((((a.high - a.low)[:, used] / 2 * weights[used]) ** 2).sum(1))
    return np.clip(mean - half, 0, 1), np.clip(mean + half, 0, 1)
