"""A fine-tuned model as an artefact: the trained weights, and the new head where the source's classifier was."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from vtabjax.graph import Graph, Node, Ref, Variable
from vtabjax.model import SavedModel

# What may lie between the features and the classifier without changing anything in evaluation mode.
_TRANSPARENT = ("dropout", "flatten", "identity")
_OWN = ("finetuned_head.weight", "finetuned_head.bias")


def classifier(graph: Graph) -> tuple[str, str] | None:
    """Names of weight and bias of the source's classifier, if it is one linear layer on the features."""
    made_by = {node.name: node for node in graph.nodes}
    logits, features = graph.outputs.get("logits"), graph.outputs["features"]
    node = made_by.get(logits.name) if logits is not None else None
    if node is None or node.op.split(".")[1] != "linear" or len(node.args) < 3:
        return None
    inputs, weight, bias = node.args[:3]
    while inputs != features:
        before = made_by.get(inputs.name) if isinstance(inputs, Ref) else None
        if before is None or before.op.split(".")[1].rstrip("_") not in _TRANSPARENT:
            return None
        inputs = before.args[0]
    names = tuple(ref.name for ref in (weight, bias) if isinstance(ref, Ref) and ref.kind == "variable")
    return names if len(names) == 2 else None


def with_head(
    parts: SavedModel,
    trained: Mapping[str, np.ndarray],
    weight: np.ndarray,
    bias: np.ndarray,
    info: Mapping[str, object] | None = None,
) -> SavedModel:
    """A model with trained weights and a head for its task.

    Where the source's classifier is a linear layer on the features, the head takes its place and its names, and the
    state_dict loads into the same architecture built with ``num_classes=K``. Otherwise the head is called
    ``finetuned_head`` and comes beside.

    Args:
      parts: the model that was fine-tuned.
      trained: new values of its variables; what is missing keeps its value.
      weight: [K, D].
      bias: [K].
      info: what to change in model.json.
    """
    graph = parts.graph
    names = classifier(graph)
    variables = {**parts.variables, **trained}
    described = dict(graph.variables)
    nodes, outputs = graph.nodes, dict(graph.outputs)
    if names is None:
        # An old classifier of another kind would answer for other classes: its logits go, its weights stay.
        names = _OWN
        nodes = (
            *nodes,
            Node(_OWN[0].partition(".")[0], "aten.linear.default",
                 (outputs["features"], Ref("variable", names[0]), Ref("variable", names[1])), {}),
        )  # fmt: skip
        outputs["logits"] = Ref("value", nodes[-1].name)
    dtypes = {name: described[name].dtype if name in described else "float32" for name in names}
    for name, value in zip(names, (weight, bias), strict=True):
        described[name] = Variable(tuple(value.shape), dtypes[name], "parameter")
        variables[name] = value
    return SavedModel(
        dataclasses.replace(graph, nodes=tuple(nodes), outputs=outputs, variables=described),
        {k: np.asarray(variables[k]).astype(v.dtype) for k, v in described.items() if k in variables},
        {**parts.info, "num_classes": len(bias), **(info or {})},
    )
