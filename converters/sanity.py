"""Whether the weights of a checkpoint file know more than random ones, by nearest neighbours on the embedded digits.

Names and shapes that fit do not prove that a file holds what it should: a run that diverged, a network saved before
training, weights of another preprocessing all load. Features of trained weights separate handwritten digits better
than features of the same architecture with random weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vtabjax.graph import Graph
from vtabjax.model import apply, normalise
from vtabjax.specs import Spec, SpecError

TASK, SPLIT = "digits", "train800"
_EXAMPLES, _BATCH = 300, 50
_WARNING = (
    "no better than random weights, within what chance gives: these may not be the weights they should be"
)


def check(
    graph: Graph, variables: Mapping[str, np.ndarray], info: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Leave-one-out accuracy (1-NN) of a model's features on digits, beside the same architecture with random weights.

    Args:
      graph, variables: a converted model.
      info: what is known of it, as in model.json.

    Returns:
      {"task", "examples", "accuracy", "random", "warning"}: fractions, "random" being the best of a few seeds; warning
      None where the weights do better. None for models that do not take square pictures in colour.
    """
    from vtabjax import data
    from vtabjax.protocols import knn

    channels, height, width = graph.input_size
    if channels != 3 or height != width or "features" not in graph.outputs:
        return None
    examples = data.load(TASK, SPLIT, image_size=height)
    count = _examples(info["parameters"], height)
    images, labels = examples.images[:count], examples.labels[:count]

    @jax.jit
    def features(weights: Mapping[str, Any], batch: Any) -> Any:
        return apply(graph, weights, normalise(batch / np.float32(255), info))[0]["features"]

    found = []
    # Small networks with random weights differ much: the best of a few is what has to be beaten.
    seeds = range(3 if count == _EXAMPLES else 1)
    for weights in (dict(variables), *(_random(info, variables, seed) for seed in seeds)):
        rows = [features(weights, images[i : i + _BATCH]) for i in range(0, count, _BATCH)]
        found.append(np.concatenate([np.asarray(row) for row in rows]))
    if not all(np.isfinite(rows).all() for rows in found):
        return {
            "task": TASK,
            "examples": count,
            "accuracy": None,
            "random": None,
            "warning": "features are not finite",
        }
    right = [np.asarray(knn.leave_one_out(rows, labels).predictions) == labels for rows in found]
    best = max(right[1:], key=lambda bits: bits.sum())
    won, lost = int((right[0] & ~best).sum()), int((best & ~right[0]).sum())
    # The difference on the same pictures has the standard error sqrt(won + lost).
    worse = won - lost <= 2 * (won + lost) ** 0.5
    return {
        "task": TASK,
        "examples": count,
        "accuracy": float(right[0].mean()),
        "random": float(best.mean()),
        "warning": _WARNING if worse else None,
    }


def _examples(parameters: int, size: int) -> int:
    """Fewer where each costs much; a multiple of the batch, so that one program is compiled."""
    return 100 if parameters * size**2 > 25e6 * 112**2 else _EXAMPLES


def _random(info: Mapping[str, Any], variables: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """The variables as the architecture initialises them; what it does not have so, with its numbers shuffled."""
    from . import sources

    source = "torchvision" if info["source"] == "openselfsup" else info["source"]
    try:
        spec = Spec(source, info["architecture"], seed=seed)
        fresh = sources.build(spec, info["input_size"][1]).module.state_dict()
    except SpecError:  # a source without random initialisation
        fresh = {}
    rng = np.random.default_rng(seed)
    state = {k: v.numpy() for k, v in fresh.items()}
    return {
        k: state[k].astype(v.dtype)
        if k in state and state[k].shape == v.shape
        else rng.permutation(v.ravel()).reshape(v.shape)
        for k, v in variables.items()
    }
