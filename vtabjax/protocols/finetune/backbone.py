"""What lies below the head in fine-tuning: a converted model whose weights are trained, or features as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vtabjax import model
from vtabjax.model import compiling
from vtabjax.model.running import run
from vtabjax.ops import channels_last
from vtabjax.protocols.finetune import stem
from vtabjax.protocols.finetune.adaptation import adapt
from vtabjax.protocols.finetune.layers import layers_above
from vtabjax.protocols.finetune.settings import Settings


class Frozen(NamedTuple):
    """The part of a model that no step changes; see `stem.Stem`.

    Attributes:
      compute: (buffers, inputs [B, ...], frozen) -> what the rest starts from, each [B, ...].
      forward: `Backbone.forward` with that in place of the inputs.
      share: of the operations of a pass.
      example_bytes: that what the rest starts from takes for one example.
    """

    compute: Callable[[Mapping, jax.Array, Mapping], Any]
    forward: Callable[[Mapping, Mapping, Any, bool, Mapping], tuple[jax.Array, dict]]
    share: float
    example_bytes: int


class Backbone(NamedTuple):
    """What lies below the head.

    Attributes:
      forward: (parameters, buffers, inputs [B, ...], train, frozen) -> (features [B, D], new buffers).
      parameters: what is trained, {name: array}.
      buffers: running statistics and the like.
      width: D.
      input_shape: shape of one input.
      input_dtype: its dtype.
      compiler_options: for `jax.jit`.
      frozen: weights that are neither trained nor have an optimizer's state, {name: array}.
      layers_above: of what is trained, {name: layers up to the head}; see `optimizers.Optimizer`.
      below: what is computed once for all steps where there is room for it; None: nothing.
      no_decay: of what is trained, besides biases and norms, what has no weight decay.
    """

    forward: Callable[[Mapping, Mapping, jax.Array, bool, Mapping], tuple[jax.Array, dict]]
    parameters: dict[str, np.ndarray]
    buffers: dict[str, np.ndarray]
    width: int
    input_shape: tuple[int, ...]
    input_dtype: Any
    compiler_options: Mapping[str, str] = {}
    frozen: Mapping[str, np.ndarray] = {}
    layers_above: Mapping[str, int] = {}
    no_decay: frozenset[str] = frozenset()
    below: Frozen | None = None


def _saved(primitive: Any, *_: Any, **params: Any) -> bool:
    """What rematerialisation keeps: results of convolutions and of products with weights."""
    if primitive.name == "dot_general":
        return not params["dimension_numbers"][1][0]  # not the attention maps, whose products are batched
    return primitive.name == "conv_general_dilated"


def trainable(
    parts: model.SavedModel, settings: Settings, layers: Mapping[str, int] | None = None
) -> Backbone:
    """A converted model of which the scope's part is trained. Inputs are images [B, S, S, C] from 0 to 255.

    Batch norm uses and updates the batch's statistics where all weights are trained; in the other scopes it is part of
    the frozen model and uses the running ones.

    Args:
      parts: the model.
      settings: see `Settings`.
      layers: for ``layer_decay``, the number of layers above each weight; by default `layers_above` of the graph.

    Raises:
      scopes.ScopeError: the model has nothing that the scope trains.
    """
    if layers is None:
        layers = layers_above(parts.graph) if settings.layer_decay != 1 else {}
    adapted = adapt(parts, settings)
    graph, trained = adapted.graph, frozenset(adapted.trained)
    places = {name: adapted.beside.get(name, name) for name in adapted.trained}
    param_dtype, compute_dtype = settings.param_dtype, jnp.dtype(settings.dtype)
    kinds = {k: v.kind for k, v in graph.variables.items()}

    def cast(name: str, dtype: Any = param_dtype) -> np.ndarray:
        value = np.asarray(adapted.added[name] if name in adapted.added else parts.variables[name])
        floating = jnp.issubdtype(value.dtype, jnp.floating)
        return value.astype(dtype if floating else jax.dtypes.canonicalize_dtype(value.dtype))

    def normalised(images: jax.Array) -> jax.Array:
        return model.normalise(images.astype(param_dtype) / 255, parts.info).astype(compute_dtype)

    def computed_in(parameters: Mapping, buffers: Mapping, frozen: Mapping) -> dict[str, jax.Array]:
        # Running statistics stay wide: a bfloat16 average would stop moving.
        variables = {**frozen, **buffers, **{k: v.astype(compute_dtype) for k, v in parameters.items()}}
        for name, value in buffers.items():
            if kinds[name] == "buffer" and jnp.issubdtype(value.dtype, jnp.floating):
                variables[name] = value.astype(compute_dtype)
        return variables

    def forward(
        parameters: Mapping, buffers: Mapping, images: jax.Array, train: bool, frozen: Mapping
    ) -> tuple[jax.Array, dict]:
        variables = computed_in(parameters, buffers, frozen)
        train = train and settings.scope == "all"
        outputs, updates = model.apply(graph, variables, normalised(images), train=train)
        return outputs["features"].astype(param_dtype), {**buffers, **updates}

    channels, height, width = graph.input_size

    def compute(buffers: Mapping, images: jax.Array, frozen: Mapping) -> dict[str, Any]:
        assert found is not None
        variables = computed_in({}, buffers, frozen)
        return run(stem.lower(graph, found), variables, normalised(images))[0]

    def upper(
        parameters: Mapping, buffers: Mapping, known: Mapping, train: bool, frozen: Mapping
    ) -> tuple[jax.Array, dict]:
        variables = computed_in(parameters, buffers, frozen)
        examples = len(jax.tree.leaves(known)[0])
        images = jnp.zeros((examples, height, width, channels), compute_dtype)  # only their shape is used
        outputs, _ = run(graph, variables, images, known=known)
        return channels_last.plain(outputs["features"]).astype(param_dtype), dict(buffers)

    found = stem.find(graph, trained, compute_dtype) if settings.scope != "all" and trained else None
    if settings.remat:
        forward = jax.checkpoint(forward, policy=_saved, static_argnums=3)
        upper = jax.checkpoint(upper, policy=_saved, static_argnums=3)
    return Backbone(
        forward,
        {k: cast(k) for k in adapted.trained},
        {k: cast(k) for k, kind in kinds.items() if kind != "parameter" and k in parts.variables},
        _features(parts),
        (height, width, channels),
        np.uint8,
        compiling.compiler_options(graph),
        # Nothing updates them, so that they need not be wider than what is computed in.
        frozen={
            k: cast(k, compute_dtype) for k, kind in kinds.items() if kind == "parameter" and k not in trained
        },
        layers_above={name: layers[place] for name, place in places.items() if place in layers},
        below=found and Frozen(compute, upper, found.share, found.example_bytes),
        no_decay=trained.intersection(parts.info.get("no_weight_decay", ())),
    )


def _features(parts: model.SavedModel) -> int:
    channels, height, width = parts.graph.input_size
    images = jax.ShapeDtypeStruct((2, height, width, channels), np.dtype(parts.graph.dtype))
    return jax.eval_shape(lambda v, x: model.apply(parts.graph, v, x)[0], dict(parts.variables), images)[
        "features"
    ].shape[1]


def precomputed(width: int, settings: Settings) -> Backbone:
    """Nothing to train below the head: inputs are features [B, D] that were computed once."""

    def forward(
        parameters: Mapping, buffers: Mapping, inputs: jax.Array, train: bool, frozen: Mapping
    ) -> tuple[jax.Array, dict]:
        return inputs.astype(settings.param_dtype), {}

    return Backbone(forward, {}, {}, width, (width,), settings.param_dtype)
