"""Transferability scores in a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vtabjax import options
from vtabjax.protocols import Outcome
from vtabjax.runtime import bars
from vtabjax.sweep.adapters._splits import train_split

if TYPE_CHECKING:
    from vtabjax.sweep.inputs import CellContext

# vtabjax.protocols.transferability.UNSAFE_WHEN_WIDE, without importing it: settings are made for finished sweeps too.
_UNSAFE_WHEN_WIDE = ("h_score", "transrate", "sfda")


# Scores that are NaN on examples that leave nothing to compare.
_UNDEFINED = {
    "parc": "undefined: features of fewer than two directions, or no two examples of the same class: no correlation",
}


def settings(config: Any) -> dict[str, Any]:
    """The settings of a config that change a cell's numbers; raises ValueError for a field that makes no sense."""
    own = options.read(options.TransferabilityOptions, config)
    chosen: dict[str, Any] = {"splits": [train_split(config)], "scores": list(own.scores)}
    if set(own.scores) & set(_UNSAFE_WHEN_WIDE):
        chosen["pca_components"] = own.pca_components
    if "nleep" in own.scores:
        chosen |= {"seed": int(config.seed), "nleep_seeds": own.nleep_seeds}
    return chosen


def run(inputs: CellContext, settings: Mapping[str, Any]) -> Outcome:
    """From a cell's inputs to its outcome."""
    import scipy.special

    from vtabjax.protocols import transferability

    with_head = [s for s in ("leep", "nce") if s in settings["scores"]]
    split = inputs.split(settings["splits"][0], logits=bool(with_head))
    features = transferability.Decomposed(split.features)
    metrics: dict[str, float | None] = {}
    notes = {}
    for score in (bar := bars.bar(settings["scores"], "scores")):
        bar.set_postfix_str(score)
        first: np.ndarray | transferability.Decomposed = features
        arguments = {}
        if score in with_head:
            if split.logits is None:
                metrics[score], notes[score] = None, "not applicable: the model has no source classifier"
                continue
            first = scipy.special.softmax(split.logits.astype(np.float64), axis=1)
        elif score in _UNSAFE_WHEN_WIDE:
            first = components = transferability.pca(features, settings["pca_components"])
            if not components.shape[1]:
                metrics[score], notes[score] = None, "undefined: all examples have the same features"
                continue
            notes[score] = f"of {components.shape[1]} principal components"
        if score == "nleep":
            arguments = {"seed": settings["seed"], "n_seeds": settings["nleep_seeds"]}
            n = transferability.nleep_components(len(split.labels), len(np.unique(split.labels)))
            notes[score] = f"{n} mixture components"
        try:
            with inputs.stages(score):
                value = float(getattr(transferability, score)(first, split.labels, **arguments))
        except ValueError as e:  # undefined on these data, which no second try changes; the others are not
            inputs.stages.failed = None
            metrics[score], notes[score] = None, f"undefined: {e}"
            continue
        metrics[score] = value
        if np.isnan(value):
            metrics[score], notes[score] = None, _UNDEFINED[score]
    return Outcome(metrics, notes=notes)
