"""Nearest neighbours in a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vtabjax import options, tasks
from vtabjax.protocols import Outcome
from vtabjax.sweep.adapters import _classified
from vtabjax.sweep.adapters._splits import train_split

if TYPE_CHECKING:
    from vtabjax.sweep.inputs import CellContext, SplitFeatures


def settings(config: Any) -> dict[str, Any]:
    """The settings of a config that change a cell's numbers; raises ValueError for a field that makes no sense."""
    own = options.read(options.KnnOptions, config)
    return {"splits": [train_split(config)], "k": own.k, "metric": list(own.metric)}


def run(inputs: CellContext, settings: Mapping[str, Any]) -> Outcome:
    """From a cell's inputs to its outcome."""
    from vtabjax.protocols import knn

    split = inputs.split(settings["splits"][0])
    metrics: dict[str, Any] = {}
    predictions, notes = None, {}
    for metric in settings["metric"]:
        result = knn.leave_one_out(
            split.features,
            split.labels,
            k=settings["k"],
            metric=metric,
            mesh=inputs.own_mesh,
            groups=split.groups,
        )
        suffix = "" if predictions is None else f"_{metric}"
        metrics[f"accuracy{suffix}"] = float(result.accuracy)
        metrics[f"n_tied{suffix}"] = int(result.n_tied)
        if predictions is None:
            predictions = np.asarray(result.predictions)
            notes = _zero_distances(split, result.neighbours)
    assert predictions is not None  # there is a metric
    n_classes = tasks.get(inputs.task).num_classes
    return _classified.outcome(metrics, split.labels, predictions, n_classes, notes=notes)


def _zero_distances(split: SplitFeatures, neighbours: np.ndarray) -> dict[str, str]:
    from vtabjax.protocols import knn

    zero = knn.at_distance_zero(split.features, neighbours)
    if not zero.any():
        return {}
    same = int((split.labels[zero] == split.labels[neighbours[zero, 0]]).sum())
    n = int(zero.sum())
    return {
        "distance_zero": f"{n:,} of {len(zero):,} examples have the same features as their nearest neighbour: "
        f"{same:,} a neighbour of their own class, {n - same:,} one of another class"
    }
