"""What models cost, and which no other one beats in cost and accuracy."""

from __future__ import annotations

import numpy as np

from vtabjax.report.boards import Board


def costs(board: Board) -> dict[str, np.ndarray]:
    """What each model costs, [M] each, NaN where unknown: "parameters", "GFLOPs" of an image, and "images/s", of which
    more is cheaper."""
    return {
        "parameters": np.array([np.nan if m.parameters is None else m.parameters for m in board.models]),
        "GFLOPs": np.array([np.nan if m.gflops is None else m.gflops for m in board.models]),
        "images/s": np.array([m.images_per_second or np.nan for m in board.models]),
    }


def front(unit: str, cost: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """`pareto` of one of the `costs`."""
    return pareto(-cost if unit == "images/s" else cost, gain)


def pareto(cost: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Which points no other one beats in both (lower cost, higher gain), bool [N]; False where either is NaN."""
    unbeaten = np.zeros(len(cost), bool)
    best = -np.inf
    for i in np.lexsort((-gain, cost)):  # NaN come last
        if np.isfinite(cost[i]) and np.isfinite(gain[i]) and gain[i] > best:
            unbeaten[i], best = True, gain[i]
    return unbeaten
