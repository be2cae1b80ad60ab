"""Linear evaluation in a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vtabjax import options, tasks
from vtabjax.protocols import Outcome
from vtabjax.sweep.adapters import _classified

if TYPE_CHECKING:
    from vtabjax.sweep.inputs import CellContext


def settings(config: Any) -> dict[str, Any]:
    """The settings of a config that change a cell's numbers; raises ValueError for a field that makes no sense."""
    own = options.read(options.LinearOptions, config)
    if own.c_min > own.c_max:
        raise options.UsageError(
            f"config.c_min={own.c_min:g} and config.c_max={own.c_max:g}: need 0 < c_min <= c_max"
        )
    full = config.suite == "vtab_full"
    return {
        "splits": ["train", "val", "test"] if full else ["train800", "val200", "test"],
        "c_min": own.c_min,
        "c_max": own.c_max,
        "c_count": own.c_count,
    }


def run(inputs: CellContext, settings: Mapping[str, Any]) -> Outcome:
    """From a cell's inputs to its outcome."""
    from vtabjax.protocols import linear

    splits = [inputs.split(name)[:2] for name in settings["splits"]]
    grid = np.logspace(np.log10(settings["c_min"]), np.log10(settings["c_max"]), settings["c_count"])
    result = linear.evaluate(*splits, c_grid=grid)
    return _classified.outcome(
        {"accuracy": float(result.test_accuracy), "val_accuracy": float(result.val_accuracy)},
        np.asarray(splits[-1][1]),
        result.predictions,
        tasks.get(inputs.task).num_classes,
        confidence=result.confidence,
        chosen={"c": float(result.best_c), "at_grid_end": bool(result.at_grid_end)},
    )
