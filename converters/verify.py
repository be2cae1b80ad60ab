"""Parity: the Flax model against the torch module it came from, on the same images."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np
import torch
from torch import nn

from vtabjax.graph import Graph
from vtabjax.model import apply, load_parts
from vtabjax.runtime.xla_cpu import quick_compilation

from .blocks import Structure
from .export import from_torch
from .outputs import Outputs, with_last_linear
from .outputs import structure as find_structure

# Largest difference over largest value. float64 leaves no room for a slip to hide in rounding.
TOLERANCE = {"float32": 1e-4, "float64": 1e-8}
BATCH = 3  # not the batch size the graph was traced with


class ParityError(RuntimeError):
    """A converted model that does not compute what its torch module computes."""


def reference(
    module: nn.Module, images: torch.Tensor, structure: Structure | None = None
) -> dict[str, np.ndarray]:
    """The torch module's own outputs for images [B, C, H, W]: its forward pass's logits, and its features."""
    with torch.no_grad():
        outputs = with_last_linear(Outputs(module, structure).eval(), images)
        # A module's own image_outputs runs its forward pass.
        if "logits" in outputs and not hasattr(module, "image_outputs"):
            whole = module(images)
            outputs["logits"] = whole["logits"] if isinstance(whole, dict) else whole
    return {k: v.numpy() for k, v in outputs.items()}


def as_torch(images: np.ndarray) -> torch.Tensor:
    """Images [B, H, W, C] as torch takes them, [B, C, H, W]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """max |ours - theirs| / max |theirs|; infinite where shapes differ or a value is not finite."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape or not np.isfinite(theirs).all() or not np.isfinite(ours).all():
        return float("inf")
    scale = np.abs(theirs).max(initial=0.0)
    return float(np.abs(ours - theirs).max(initial=0.0) / (scale or 1.0))


def random_images(
    module: nn.Module, input_size: tuple[int, int, int], batch: int = BATCH, seed: int = 0
) -> np.ndarray:
    """Normally distributed images [B, H, W, C] in the module's dtype."""
    channels, height, width = input_size
    dtype = next((str(p.dtype) for p in module.parameters()), "torch.float32").removeprefix("torch.")
    return np.random.default_rng(seed).standard_normal((batch, height, width, channels)).astype(dtype)


def compare(
    module: nn.Module,
    graph: Graph,
    variables: Mapping[str, np.ndarray],
    *,
    batch: int = BATCH,
    seed: int = 0,
    outputs: Mapping[str, str] | None = None,
    structure: Structure | None = None,
) -> dict[str, float]:
    """Relative errors of the graph's outputs against the module's, on `batch` random images.

    Args:
      module: the torch module; its dtype and that of `variables` is the one compared in.
      graph: its graph.
      variables: its variables.
      batch: how many images.
      seed: of the images.
      outputs: {the graph's: the module's} to compare; by default all outputs, and none of the graph's choices.
      structure: the module's, where choices are compared.

    Returns:
      {"features": error} and, with a classifier, "logits"; by the graph's names.
    """
    graph = graph if outputs is None else graph.select({k: k for k in outputs})
    images = random_images(module, graph.input_size, batch, seed)
    dtype = images.dtype.name
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("float32"):
        # Few images, once: optimising the program would take longer than running it.
        run = jax.jit(lambda v, x: apply(graph, v, x)[0], compiler_options=quick_compilation())
        ours = run(dict(variables), images)
        ours = {k: np.asarray(v) for k, v in ours.items()}
    theirs = reference(module, as_torch(images), structure)
    if outputs is not None:
        theirs = {k: theirs[which] for k, which in outputs.items() if which in theirs}
    else:
        theirs = {k: v for k, v in theirs.items() if k in ("features", "logits")}
    if set(theirs) != set(ours):
        raise ParityError(f"the graph's outputs are {sorted(ours)}, the module's {sorted(theirs)}")
    return {k: relative_error(v, theirs[k]) for k, v in ours.items()}


def double(module: nn.Module) -> nn.Module:
    """A copy of the module in float64."""
    return copy.deepcopy(module).double()


def verify(
    module: nn.Module,
    graph: Graph,
    variables: Mapping[str, np.ndarray],
    *,
    float64: bool = False,
    structure: Structure | None = None,
) -> dict[str, dict[str, float]]:
    """Measures parity and refuses a mismatch: of the outputs, and of some features of other blocks and poolings.

    Args:
      module: the torch module, in float32.
      graph: its graph, in float32.
      variables: its variables.
      float64: measure in float64 too (the module is exported again in float64).
      structure: what the graph was exported with; by default it is looked for.

    Returns:
      {"float32": {"features": relative error, "logits": ...}, "float64": ...}.

    Raises:
      ParityError: an error is beyond `TOLERANCE`.
    """
    if structure is None:
        structure = find_structure(module, graph.input_size) if graph.choices else Structure()
    outputs = {k: k for k in (*graph.outputs, *_some(graph.choices))}
    parity = {graph.dtype: compare(module, graph, variables, outputs=outputs, structure=structure)}
    if float64 or _beyond(parity):
        # A deep network with random weights can lose 1e-4 to rounding in both programs: float64 tells a slip from that.
        wide = double(module)
        parity["float64"] = compare(
            wide,
            *from_torch(wide, graph.input_size, structure=structure),
            outputs=outputs,
            structure=structure,
        )
    if _beyond(parity):
        raise ParityError(f"{type(module).__name__} differs from its Flax model: {_describe(parity)}")
    return parity


def _some(choices: Collection[str]) -> list[str]:
    """Of a graph's choices all ways of pooling, each after the first, the middle and the last block."""
    layers = sorted({int(layer) for name in choices for layer in re.findall(r"layer=(\d+)", name)})
    chosen = {layers[0], layers[len(layers) // 2], layers[-1]} if layers else set()
    wanted = tuple(f"features:layer={layer}+" for layer in chosen) + ("features:pool=",)
    return [name for name in choices if name.startswith(wanted)]


def _beyond(parity: Mapping[str, Mapping[str, float]]) -> bool:
    return any(not e <= TOLERANCE[dtype] for dtype, errors in parity.items() for e in errors.values())


def _describe(parity: Mapping[str, Mapping[str, float]]) -> str:
    return ", ".join(
        f"{name} {error:.1e} in {dtype} (allowed {TOLERANCE[dtype]:.0e})"
        for dtype, errors in parity.items()
        for name, error in errors.items()
    )


def verify_artefact(path: str | os.PathLike) -> dict[str, Any]:
    """Measures an artefact's own graph and weights against the torch model of its spec, built anew.

    The weights have to be the source's, to the bit. Those of a fine-tuned artefact are put into the architecture
    instead, which also gets a head of its number of classes; where that has no place for it, features are compared.

    Returns:
      {"spec": ..., "float32 features": relative error, "float64 features": ..., and the same of "logits"}.

    Raises:
      FileNotFoundError, vtabjax.integrity.DamagedModelError: there is no artefact, or not the one that was saved.
      ParityError: weights, outputs or errors that are not the torch model's.
    """
    from . import sources

    parts = load_parts(path)
    spec, size = parts.info["spec"], parts.graph.input_size[1]
    module = sources.build(spec, size).module
    outputs = {name: name for name in parts.graph.outputs}
    structure = None
    if parts.info.get("finetuned"):
        if not _take_weights(module, parts.variables):
            outputs.pop("logits", None)
        if "features_of" in parts.info:
            outputs["features"] = parts.info["features_of"]
            structure = find_structure(module, parts.graph.input_size)
    else:
        _require_weights(path, module, parts.variables)
    graph = parts.graph.select({name: name for name in sorted(outputs)})
    # The graph itself in float64, not one exported anew: there an edited number cannot hide in rounding.
    wide = {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in parts.variables.items()}
    try:
        parity = {
            graph.dtype: compare(module, graph, parts.variables, outputs=outputs, structure=structure),
            "float64": compare(
                double(module),
                graph,
                wide,
                outputs=outputs,
                structure=structure,
            ),
        }
    except ParityError:
        raise
    except Exception as e:  # a graph that somebody edited may fail in any operator
        raise ParityError(f"{path}: its graph cannot be run: {type(e).__name__}: {e}") from e
    if _beyond({"float64": parity["float64"]}) and _is_exported(parts.graph, module):
        # Constants are in it in float32; the same graph exported in float64 has them in full.
        wide_module = double(module)
        exported = from_torch(wide_module, parts.graph.input_size)
        parity["float64"] = compare(wide_module, *exported)
    # In float32 a deep network may lose more to rounding, in both programs.
    if _beyond({"float64": parity["float64"]}):
        raise ParityError(f"{path} differs from {spec} in PyTorch: {_describe(parity)}")
    return {"spec": spec, **{f"{d} {k}": e for d, es in parity.items() for k, e in es.items()}}


def _is_exported(graph: Graph, module: nn.Module) -> bool:
    return from_torch(module, graph.input_size)[0].to_json() == graph.to_json()


def _require_weights(path: str | os.PathLike, module: nn.Module, variables: Mapping[str, np.ndarray]) -> None:
    wanted = {k: v.numpy() for k, v in module.state_dict().items()}
    other = sorted(wanted.keys() ^ variables.keys())
    if other:
        raise ParityError(f"{path} and its source do not have the same weights: {', '.join(other[:3])}, ...")
    changed = [
        k for k, v in wanted.items() if not np.array_equal(v, variables[k], equal_nan=v.dtype.kind == "f")
    ]
    if changed:
        raise ParityError(
            f"{path}: {len(changed)} of {len(wanted)} weights are not those of its source, such as {changed[0]}; "
            "convert the model again"
        )


def _take_weights(module: nn.Module, variables: Mapping[str, np.ndarray]) -> bool:
    """Puts fine-tuned weights into the architecture; whether the head has a place there."""
    state = module.state_dict()
    for name, value in variables.items():
        if name in state and state[name].shape != value.shape:  # a head for another number of classes
            owner, _, own = name.rpartition(".")
            setattr(module.get_submodule(owner), own, nn.Parameter(torch.empty(value.shape)))
    beside = variables.keys() - state.keys()
    module.load_state_dict(
        {k: torch.from_numpy(np.array(v)) for k, v in variables.items() if k not in beside}
    )
    return not beside
