"""A model as a scope trains it, and what was trained as an ordinary model again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from vtabjax.graph import Graph
from vtabjax.model import SavedModel
from vtabjax.protocols.finetune import lora, prompts, scopes
from vtabjax.protocols.finetune.settings import Settings
from vtabjax.specs import pooling


class Adaptation(NamedTuple):
    """What a scope makes of a model.

    Attributes:
      graph: what computes the features, with adapters or prompt tokens.
      trained: names of the weights that are trained; all others stay as they are.
      added: initial values of those among them that the model did not have, {name: float64 array}.
      beside: for each of these the weight of the model at whose depth it is.
    """

    graph: Graph
    trained: list[str]
    added: dict[str, np.ndarray]
    beside: dict[str, str]


def adapt(parts: SavedModel, settings: Settings) -> Adaptation:
    """What the scope trains of a model, and the graph that it trains.

    A model without weights, such as the pixels themselves, has only its head to train, whatever the scope.

    Raises:
      scopes.ScopeError: the model has nothing of that kind.
    """
    graph = parts.graph.select({"features": "features"})  # the source's classifier is not trained
    parameters = [name for name, variable in graph.variables.items() if variable.kind == "parameter"]
    if settings.scope == "all" or not parameters:
        return Adaptation(graph, parameters, {}, {})
    if settings.scope == "lora":
        return _with_adapters(graph, settings)
    if settings.scope in ("prompt", "prompt_deep"):
        return _with_prompts(graph, settings)
    return Adaptation(graph, scopes.trained(graph, settings.scope), {}, {})


def _with_adapters(graph: Graph, settings: Settings) -> Adaptation:
    chosen = lora.layers(graph, settings.lora_layers)
    adapted, added = lora.adapted(graph, chosen, rank=settings.lora_rank, alpha=settings.lora_alpha)
    return Adaptation(adapted, list(added), added, {name: lora.weight_of(name) for name in added})


def _with_prompts(graph: Graph, settings: Settings) -> Adaptation:
    deep = settings.scope == "prompt_deep"
    adapted, added, beside = prompts.inserted(graph, settings.prompt_tokens, deep=deep)
    return Adaptation(adapted, list(added), added, beside)


def finished(parts: SavedModel, settings: Settings, trained: Mapping[str, np.ndarray]) -> SavedModel:
    """The model with what was trained, as an ordinary model.

    Adapters are added to their weights, so that names and shapes are the source's. Prompt tokens stay: they are further
    variables of a graph that puts them among the image's tokens.

    Args:
      parts: the model that was trained.
      settings: by which.
      trained: the values of `Adaptation.trained`.
    """
    if settings.scope == "lora":
        merged = lora.merged(parts.variables, trained, settings.lora_alpha)
        cast = {name: value.astype(parts.graph.variables[name].dtype) for name, value in merged.items()}
        return parts._replace(variables={**parts.variables, **cast})
    if settings.scope not in ("prompt", "prompt_deep") or not trained:
        return parts._replace(variables={**parts.variables, **trained})
    kept = {name: name for name in ("features", "logits") if name in parts.graph.outputs}
    graph, _, _ = prompts.inserted(
        parts.graph.select(kept), settings.prompt_tokens, deep=settings.scope == "prompt_deep"
    )
    graph = dataclasses.replace(graph, variables={**parts.graph.variables, **graph.variables})
    info = {**parts.info, "feature_choices": pooling.NONE}
    return SavedModel(graph, {**parts.variables, **trained}, info)
