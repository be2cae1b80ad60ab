"""From a cell's inputs to its outcome: what each protocol needs, and which settings change its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vtabjax import options
from vtabjax.protocols import Outcome

if TYPE_CHECKING:
    from vtabjax.sweep.inputs import Inputs, Split

SCORES = options.SCORES


class Protocol(NamedTuple):
    """A protocol as the sweep sees it.

    Attributes:
      settings: config -> the settings that change its numbers, checked (ValueError: field, value, way out).
        "splits" among them names the splits it uses.
      run: (inputs, settings) -> outcome.
    """

    settings: Callable[[Any], dict[str, Any]]
    run: Callable[[Inputs, Mapping[str, Any]], Outcome]


def _train_split(config: Any) -> str:
    return "trainval" if config.suite == "vtab_full" else "train800val200"


def _knn_settings(config: Any) -> dict[str, Any]:
    own = options.read(options.KnnOptions, config)
    return {"splits": [_train_split(config)], "k": own.k, "metric": list(own.metric)}


def _knn(inputs: Inputs, settings: Mapping[str, Any]) -> Outcome:
    from vtabjax.protocols import knn

    split = inputs.split(settings["splits"][0])
    metrics: dict[str, float | None] = {}
    correct, notes = None, {}
    for metric in settings["metric"]:
        found = knn.leave_one_out(
            split.features, split.labels, k=settings["k"], metric=metric, mesh=inputs.own_mesh
        )
        suffix = "" if correct is None else f"_{metric}"
        metrics[f"accuracy{suffix}"] = float(found.accuracy)
        metrics[f"n_tied{suffix}"] = int(found.n_tied)
        if correct is None:
            correct = np.asarray(found.predictions) == split.labels
            notes = _zero_distances(split, found.neighbours)
    return Outcome(metrics, correct, notes=notes)


def _zero_distances(split: Split, neighbours: np.ndarray) -> dict[str, str]:
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


def _linear_settings(config: Any) -> dict[str, Any]:
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


def _linear(inputs: Inputs, settings: Mapping[str, Any]) -> Outcome:
    from vtabjax.protocols import linear

    splits = [inputs.split(name)[:2] for name in settings["splits"]]
    grid = np.logspace(np.log10(settings["c_min"]), np.log10(settings["c_max"]), settings["c_count"])
    found = linear.evaluate(*splits, c_grid=grid)
    return Outcome(
        {"accuracy": float(found.test_accuracy), "val_accuracy": float(found.val_accuracy)},
        np.asarray(found.correct, bool),
        {"c": float(found.best_c), "at_grid_end": bool(found.at_grid_end)},
    )


# vtabjax.protocols.transferability.UNSAFE_WHEN_WIDE, without importing it: settings are made for finished sweeps too.
_UNSAFE_WHEN_WIDE = ("h_score", "transrate", "sfda")

# Scores that are NaN on examples that leave nothing to compare.
_UNDEFINED = {
    "parc": "undefined: features of fewer than two directions, or no two examples of the same class: no correlation",
}


def _transferability_settings(config: Any) -> dict[str, Any]:
    own = options.read(options.TransferabilityOptions, config)
    settings: dict[str, Any] = {"splits": [_train_split(config)], "scores": list(own.scores)}
    if set(own.scores) & set(_UNSAFE_WHEN_WIDE):
        settings["pca_components"] = own.pca_components
    if "nleep" in own.scores:
        settings |= {"seed": int(config.seed), "nleep_seeds": own.nleep_seeds}
    return settings


def _transferability(inputs: Inputs, settings: Mapping[str, Any]) -> Outcome:
    from vtabjax.protocols import transferability

    with_head = [s for s in ("leep", "nce") if s in settings["scores"]]
    split = inputs.split(settings["splits"][0], logits=bool(with_head))
    metrics: dict[str, float | None] = {}
    notes = {}
    for score in settings["scores"]:
        first, options = split.features, {}
        if score in with_head:
            if split.logits is None:
                metrics[score], notes[score] = None, "not applicable: the model has no source classifier"
                continue
            first = _softmax(split.logits)
        elif score in _UNSAFE_WHEN_WIDE:
            first = transferability.pca(split.features, settings["pca_components"])
            if not first.shape[1]:
                metrics[score], notes[score] = None, "undefined: all examples have the same features"
                continue
            notes[score] = f"of {first.shape[1]} principal components"
        if score == "nleep":
            options = {"seed": settings["seed"], "n_seeds": settings["nleep_seeds"]}
            components = transferability.nleep_components(len(split.labels), len(np.unique(split.labels)))
            notes[score] = f"{components} mixture components"
        try:
            with inputs.stages(score):
                metrics[score] = float(getattr(transferability, score)(first, split.labels, **options))
        except ValueError as e:  # undefined on these data, which no second try changes; the others are not
            inputs.stages.failed = None
            metrics[score], notes[score] = None, f"undefined: {e}"
        if metrics[score] is not None and np.isnan(metrics[score]):
            metrics[score], notes[score] = None, _UNDEFINED[score]
    return Outcome(metrics, notes=notes)


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def _finetune_settings(config: Any) -> dict[str, Any]:
    from vtabjax.sweep.adapters import finetune

    return finetune.settings(config)


def _finetune(inputs: Inputs, settings: Mapping[str, Any]) -> Outcome:
    from vtabjax.sweep.adapters import finetune

    return finetune.run(inputs, settings)


# To add a protocol: a function from config to settings, one from inputs to an outcome, a line here, a config.
# What it gets: inputs.examples(split) (images, labels, ids), inputs.split(split) (features, labels, logits),
# inputs.model.parts, inputs.model.once(key, make) for what serves all tasks of a model, inputs.mesh,
# inputs.folder for checkpoints, inputs.stages(name) to time, inputs.say(text) to tell.
PROTOCOLS: dict[str, Protocol] = {
    "knn": Protocol(_knn_settings, _knn),
    "linear": Protocol(_linear_settings, _linear),
    "transferability": Protocol(_transferability_settings, _transferability),
    "finetune": Protocol(_finetune_settings, _finetune),
}
