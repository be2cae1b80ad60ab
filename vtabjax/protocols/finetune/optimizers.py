"""The update of the weights: optax's transformations of the gradient, weight decay, learning rates by layer."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import optax
from jax.typing import ArrayLike

from vtabjax.protocols.finetune.settings import Settings

Tree = Any
Weights = tuple[dict[str, jax.Array], dict[str, jax.Array]]  # of the backbone and of the head


def transformation(
    settings: Settings, weight_decay: ArrayLike, no_decay: frozenset[str] = frozenset()
) -> optax.GradientTransformation:
    """What turns gradients into updates, before the learning rate.

    The weight decay may be an input of the compiled program, as the learning rate is.

    - sgd: ``m = momentum * m + g`` (Sutskever et al., ICML 2013, as PyTorch has it).
    - adam: Kingma and Ba, arXiv 1412.6980; beta 0.9 and 0.999, epsilon 1e-8.
    - adamw: adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101).
    - lamb: You et al., arXiv 1904.00962; epsilon 1e-6.
    - lion: Chen et al., arXiv 2302.06675; beta 0.9 and 0.99.

    The norm of the gradient is limited first. Weight decay is left out where the settings have none;
    weights of the backbone named in `no_decay` have none, either.
    """
    mask = functools.partial(decayed, no_decay=no_decay)
    decay = [optax.add_decayed_weights(weight_decay, mask)] if any(settings.weight_decay) else []
    steps = {
        "sgd": [*decay, _momentum(settings.momentum)],
        "adam": [*decay, optax.scale_by_adam()],
        "adamw": [optax.scale_by_adam(), *decay],
        "lamb": [optax.scale_by_adam(eps=1e-6), *decay, optax.scale_by_trust_ratio()],
        "lion": [optax.scale_by_lion(), *decay],
    }[settings.optimizer]
    return optax.chain(*([optax.clip_by_global_norm(settings.clip)] if settings.clip else []), *steps)


def _momentum(decay: float) -> optax.GradientTransformation:
    """`optax.trace` with the terms in the order of the first release, whose numbers stay so to the bit."""

    def update(gradient: Tree, state: optax.TraceState, _: Tree = None) -> tuple[Tree, optax.TraceState]:
        trace = jax.tree.map(lambda m, g: decay * m + g, state.trace, gradient)
        return trace, optax.TraceState(trace)

    return optax.GradientTransformation(optax.trace(decay).init, update)


def decayed(weights: Weights, no_decay: frozenset[str] = frozenset()) -> Tree:
    """Which weights decay: those with at least two dimensions; biases, norms and scales do not."""
    backbone, head = weights
    several = {name: w.ndim > 1 and name not in no_decay for name, w in backbone.items()}
    return several, {name: w.ndim > 1 for name, w in head.items()}


class Optimizer:
    """One update of the weights of backbone and head.

    Args:
      settings: see `transformation`; `layer_decay`.
      layers_above: name of a weight of the backbone -> number of layers from it to the head, which counts: 1 in the
        last block. Only for a `layer_decay`; what is missing learns as fast as the head.
      no_decay: see `transformation`.
    """

    def __init__(self, settings: Settings, layers_above: Mapping[str, int], no_decay: frozenset[str]):
        self._settings, self._no_decay = settings, no_decay
        self._layer_decay, self._layers_above = settings.layer_decay, layers_above

    def initial_state(self, weights: Weights) -> Tree:
        """The state before the first step; its arrays have the weights' shapes and dtypes."""
        return transformation(self._settings, 0, self._no_decay).init(weights)

    def update(
        self, gradient: Weights, state: Tree, weights: Weights, rate: jax.Array, weight_decay: ArrayLike
    ) -> tuple[Weights, Tree]:
        """(new weights, new state) of one step with a learning rate and a weight decay."""
        step = transformation(self._settings, weight_decay, self._no_decay)
        updates, state = step.update(gradient, state, weights)
        if self._layer_decay == 1:
            return jax.tree.map(lambda w, u: w - rate * u, weights, updates), state
        backbone = {
            k: w - rate * self._layer_decay ** self._layers_above.get(k, 0) * updates[0][k]
            for k, w in weights[0].items()
        }
        return (backbone, jax.tree.map(lambda w, u: w - rate * u, weights[1], updates[1])), state
