"""Converted models on disk: `graph.json`, `variables/` (orbax) and `model.json`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vtabjax import installation, integrity
from vtabjax.graph import Graph
from vtabjax.integrity import DamagedModelError
from vtabjax.model.running import Array
from vtabjax.runtime import files
from vtabjax.specs import pooling

if TYPE_CHECKING:
    from vtabjax.model.module import Model


class SavedModel(NamedTuple):
    """A saved model, not yet on a device: graph, {name: numpy array}, model.json."""

    graph: Graph
    variables: dict[str, np.ndarray]
    info: dict[str, Any]

    def __repr__(self) -> str:
        n = sum(value.size for value in self.variables.values())
        return (
            f"SavedModel({self.info.get('spec')}: {len(self.variables)} variables of {n / 1e6:.2f} M values)"
        )


def weight_hash(variables: Mapping[str, Array]) -> str:
    """SHA-256 over names, shapes, dtypes and values, in hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(variables):
        array = np.ascontiguousarray(variables[name])
        digest.update(f"{name}:{array.dtype.name}:{array.shape};".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)  # without a copy
    return digest.hexdigest()


def save(
    path: str | os.PathLike,
    graph: Graph,
    variables: Mapping[str, Array],
    info: Mapping[str, Any],
    *,
    replace: bool = True,
) -> Path:
    """Writes an artefact: a folder with graph.json, variables/ (orbax) and model.json.

    The folder appears complete or not at all. model.json gets the hashes that `load_parts` compares: weight_hash, and
    artefact_hash over graph.json and model.json itself.

    Args:
      path: the folder.
      graph: the computation.
      variables: {state_dict name: array}.
      info: what else model.json holds.
      replace: replaces an artefact that is there; otherwise that one stays.
    """
    import orbax.checkpoint as ocp

    variables = {name: np.asarray(value) for name, value in variables.items()}
    text = graph.to_json().encode()
    # As it will be read: a tuple comes back as a list.
    written = json.loads(json.dumps({**info, "weight_hash": weight_hash(variables)}))
    written[integrity.FIELD] = integrity.artefact_hash(text, written)
    with files.replacing_folder(path, unless="" if replace else "model.json") as temporary:
        (temporary / "graph.json").write_bytes(text)
        if variables:
            with ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(temporary / "variables", variables)
        (temporary / "model.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    return Path(path).absolute()


def load_parts(path: str | os.PathLike) -> SavedModel:
    """Reads an artefact's graph, variables and model.json, and compares them with the hashes in model.json.

    Raises:
      FileNotFoundError: there is no artefact at `path`.
      DamagedModelError: it is not what was saved.
      ValueError: it was written in another format.
    """
    path = Path(path).absolute()
    if not (path / "model.json").is_file() or not (path / "graph.json").is_file():
        raise FileNotFoundError(
            f"{path} is not a converted model (it has no model.json and graph.json); make one with "
            f"`{installation.converters_command()} convert SPEC --out=DIR`"
        )
    text, info = integrity.read(path)
    graph = Graph.from_json(text.decode("utf-8"))
    variables = _restore(path, graph) if graph.variables else {}
    if weight_hash(variables) != info.get("weight_hash"):
        raise DamagedModelError(path, "the weights do not match the weight_hash in model.json")
    return SavedModel(graph, variables, info)


def _restore(path: Path, graph: Graph) -> dict[str, np.ndarray]:
    import orbax.checkpoint as ocp

    target = {k: np.empty(v.shape, v.dtype) for k, v in graph.variables.items()}
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            restored = checkpointer.restore(path / "variables", target)
    except MemoryError:
        raise
    except Exception as e:  # orbax and the libraries below it have errors of many kinds
        why = " ".join(str(e).split())[:200]
        raise DamagedModelError(path, f"its weights cannot be read: {type(e).__name__}: {why}") from e
    return {k: np.asarray(restored[k]) for k in graph.variables}


def load(path: str | os.PathLike, *, features: str = "") -> Model:
    """Opens an artefact as a `Model`.

    Args:
      path: the artefact's folder.
      features: which features it gives, as after the ``#`` of a spec: "pool=avg", "layer=9", "layer=-2+pool=token".

    Raises:
      vtabjax.specs.SpecError: the model does not have these features.
      FileNotFoundError, DamagedModelError, ValueError: as `load_parts`.
    """
    from vtabjax.model.module import Model

    parts = load_parts(path)
    return Model(*with_features(parts, pooling.named(features, parts.info) if features else pooling.NATIVE))


def with_features(parts: SavedModel, output: str) -> SavedModel:
    """A model with another of its outputs as its features; without logits, which belong to its own.

    Args:
      parts: the model.
      output: a name among its graph's choices, such as "features:pool=avg"; "features" leaves everything as it is.
    """
    if output == pooling.NATIVE:
        return parts
    graph = parts.graph.select({"features": output})
    info = {
        **parts.info,
        "num_features": pooling.width(output, parts.info),
        "num_classes": None,
        "features_of": output,
        "feature_choices": pooling.NONE,
    }
    # All variables stay: the state_dict goes back into the whole architecture.
    return SavedModel(dataclasses.replace(graph, variables=parts.graph.variables), parts.variables, info)


def to_state_dict(
    model: Model | SavedModel, variables: Mapping[str, Array] | None = None
) -> dict[str, np.ndarray]:
    """The PyTorch state_dict as numpy arrays, with its names, order, shapes and dtypes.

    ``{k: torch.from_numpy(v) for k, v in ...}`` loads with ``strict=True``.

    Args:
      model: where names, shapes and dtypes come from.
      variables: values to write instead of the model's own, such as fine-tuned ones.

    Raises:
      ValueError: a value is missing or has another shape.
    """
    values = model.variables if variables is None else variables
    state = {}
    for name, wanted in model.graph.variables.items():
        if name not in values:
            raise ValueError(f"variables lack {name!r}")
        value = np.asarray(values[name])
        if value.shape != tuple(wanted.shape):
            raise ValueError(f"{name} has shape {value.shape}; the architecture's is {tuple(wanted.shape)}")
        state[name] = np.array(value, dtype=wanted.dtype)
    return state
