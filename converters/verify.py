"""Parity: the Flax model against the torch module it came from, on the same images."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import torch
from torch import nn

from converters.export import from_torch
from converters.outputs import LAST_LINEAR, Outputs
from vtabjax.cpu import quick_compilation
from vtabjax.graph import Graph
from vtabjax.model import apply, load_parts

# Largest difference over largest value. float64 leaves no room for a slip to hide in rounding.
TOLERANCE = {"float32": 1e-4, "float64": 1e-8}
BATCH = 3  # not the batch size the graph was traced with


class ParityError(RuntimeError):
    """A converted model that does not compute what its torch module computes."""


def reference(module: nn.Module, images: torch.Tensor) -> dict[str, np.ndarray]:
    """The torch module's own outputs for images [B, C, H, W]: its forward pass's logits, and its features."""
    wrapper = Outputs(module).eval()
    captured = []
    hooks = []
    if wrapper.features_from == LAST_LINEAR:
        # The graph's features are the input of the last linear operator: watch the layers themselves.
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                hooks.append(layer.register_forward_pre_hook(lambda _, args: captured.append(args[0])))
    try:
        with torch.no_grad():
            outputs = wrapper(images)
            if "logits" in outputs:
                outputs["logits"] = module(images)
            if captured:
                outputs["features"] = captured[-1]
    finally:
        for hook in hooks:
            hook.remove()
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
    compiler_options: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Relative errors of the graph's outputs against the module's, on `batch` random images.

    Args:
      module: the torch module; its dtype and that of `variables` is the one compared in.
      graph: its graph.
      variables: its variables.
      batch: how many images.
      seed: of the images.
      compiler_options: XLA's.

    Returns:
      {"features": error} and, with a classifier, "logits".
    """
    images = random_images(module, graph.input_size, batch, seed)
    dtype = images.dtype.name
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("float32"):
        run = jax.jit(lambda v, x: apply(graph, v, x)[0]).lower(dict(variables), images)
        ours = run.compile(compiler_options and dict(compiler_options))(dict(variables), images)
        ours = {k: np.asarray(v) for k, v in ours.items()}
    theirs = reference(module, as_torch(images))
    if set(theirs) != set(ours):
        raise ParityError(f"the graph's outputs are {sorted(ours)}, the module's {sorted(theirs)}")
    return {k: relative_error(v, theirs[k]) for k, v in ours.items()}


def double(module: nn.Module) -> nn.Module:
    """A copy of the module in float64."""
    return copy.deepcopy(module).double()


def verify(
    module: nn.Module, graph: Graph, variables: Mapping[str, np.ndarray], *, float64: bool = False
) -> dict[str, dict[str, float]]:
    """Measures parity and refuses a mismatch.

    Args:
      module: the torch module, in float32.
      graph: its graph, in float32.
      variables: its variables.
      float64: measure in float64 too (the module is exported again in float64).

    Returns:
      {"float32": {"features": relative error, "logits": ...}, "float64": ...}.

    Raises:
      ParityError: an error is beyond `TOLERANCE`.
    """
    parity = {graph.dtype: compare(module, graph, variables)}
    if float64 or _beyond(parity):
        # A deep network with random weights can lose 1e-4 to rounding in both programs: float64 tells a slip from that.
        wide = double(module)
        parity["float64"] = compare(
            wide, *from_torch(wide, graph.input_size), compiler_options=quick_compilation()
        )
    if _beyond(parity):
        raise ParityError(f"{type(module).__name__} differs from its Flax model: {_describe(parity)}")
    return parity


def _beyond(parity: Mapping[str, Mapping[str, float]]) -> bool:
    return any(not e <= TOLERANCE[dtype] for dtype, errors in parity.items() for e in errors.values())


def _describe(parity: Mapping[str, Mapping[str, float]]) -> str:
    return ", ".join(
        f"{name} {error:.1e} in {dtype} (allowed {TOLERANCE[dtype]:.0e})"
        for dtype, errors in parity.items()
        for name, error in errors.items()
    )


def verify_artefact(path: str | os.PathLike) -> dict[str, Any]:
    """Measures an artefact against the torch model of its spec, built anew.

    The artefact's weights are put into the torch architecture, so a fine-tuned artefact is compared as well.

    Raises:
      ParityError: they differ.
    """
    from converters import sources

    parts = load_parts(path)
    source = sources.build(parts.info["spec"], parts.graph.input_size[1])
    state = {k: torch.from_numpy(np.array(v)) for k, v in parts.variables.items()}
    source.module.load_state_dict(state, strict=True)
    parity = verify(source.module, parts.graph, parts.variables, float64=True)
    return {"spec": parts.info["spec"], **{f"{d} {k}": e for d, es in parity.items() for k, e in es.items()}}
