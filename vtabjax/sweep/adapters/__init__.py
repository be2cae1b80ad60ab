"""From a cell's inputs to its outcome: what each protocol needs, and which settings change its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from vtabjax.protocols import Outcome
from vtabjax.sweep.adapters import knn, linear, transferability
from vtabjax.sweep.adapters._classified import with_groups

if TYPE_CHECKING:
    from vtabjax.sweep.inputs import CellContext

__all__ = ["PROTOCOLS", "Protocol", "with_groups"]


class Protocol(NamedTuple):
    """A protocol as the sweep sees it.

    Attributes:
      settings: config -> the settings that change its numbers, checked (ValueError: field, value, way out).
        "splits" among them names the splits it uses.
      run: (inputs, settings) -> outcome.
    """

    settings: Callable[[Any], dict[str, Any]]
    run: Callable[[CellContext, Mapping[str, Any]], Outcome]


# `adapters.finetune` imports JAX and the whole of fine-tuning, which a finished sweep does without.


def _finetune_settings(config: Any) -> dict[str, Any]:
    from vtabjax.sweep.adapters import finetune

    return finetune.settings(config)


def _finetune(inputs: CellContext, settings: Mapping[str, Any]) -> Outcome:
    from vtabjax.sweep.adapters import finetune

    return finetune.run(inputs, settings)


# To add a protocol: a file beside this one with a function from config to settings and one from inputs to an outcome, a
# line here, a config.
# What it gets: inputs.examples(split) (images, labels, ids), inputs.split(split) (features, labels, logits),
# inputs.parts, inputs.loaded.memo(key, make) for what serves all tasks of a model, inputs.mesh,
# inputs.folder for checkpoints, inputs.stages(name) to time, inputs.say(text) to tell.
PROTOCOLS: dict[str, Protocol] = {
    "knn": Protocol(knn.settings, knn.run),
    "linear": Protocol(linear.settings, linear.run),
    "transferability": Protocol(transferability.settings, transferability.run),
    "finetune": Protocol(_finetune_settings, _finetune),
}
