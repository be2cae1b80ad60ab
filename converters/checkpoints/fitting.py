"""Puts tensors into a module, or says how they differ from it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from vtabjax import specs

from . import search
from .reading import CheckpointError
from .search import Architecture, Judgement, State


def fill(module: nn.Module, state: State, path: str, architecture: str) -> None:
    """Fills the module, in its own dtypes, with tensors of exactly its names and shapes; others are left out.

    Counters of batch normalisation (num_batches_tracked), which some releases leave out, may be missing.

    Raises:
      CheckpointError: a name is missing, a shape differs, or a number is not finite.
    """
    own = module.state_dict()
    missing = [k for k in own if k not in state and not k.endswith(search.COUNTERS)]
    if missing:
        raise CheckpointError(f"{path} lacks {specs.listed(missing)}, which {architecture} has")
    used = {k: state[k] for k in own if k in state and state[k].shape == own[k].shape}
    integers = [k for k, v in used.items() if own[k].is_floating_point() and not v.is_floating_point()]
    if integers:
        raise CheckpointError(
            f"{path} holds {str(used[integers[0]].dtype).removeprefix('torch.')} numbers in "
            f"{specs.listed(integers)}: a "
            "quantized model; save it before quantization"
        )
    broken = [k for k, v in used.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if broken:
        raise CheckpointError(f"{path} holds numbers that are not finite in {specs.listed(broken)}")
    module.load_state_dict({**own, **{k: v.to(own[k].dtype) for k, v in used.items()}}, strict=True)


def explain(state: State, found: Judgement, architecture: Architecture, path: str) -> CheckpointError:
    """Why tensors are not the architecture's."""
    name, shapes = architecture.name, architecture.backbone
    known = [k for k in state if k in shapes]
    if len(found.missing) > len(shapes) // 2:
        others = [k for k in state if k not in architecture.shapes]
        return CheckpointError(
            f"{path} is of another architecture than {name}: it lacks {specs.listed(found.missing)} "
            f"and has {specs.listed(others or known)}; name the architecture it was made with"
        )
    if found.missing:
        return CheckpointError(f"{path} lacks {specs.listed(found.missing)}, which {name} has")
    if found.strange:
        return CheckpointError(
            f"{path} has {specs.listed(found.strange)}, which {name} does not have; "
            "name the architecture it was made with"
        )
    return _wrong_shape(state, found.wrong, architecture, path)


def _wrong_shape(state: State, wrong: list[str], architecture: Architecture, path: str) -> CheckpointError:
    first = wrong[0]
    theirs, ours = list(state[first].shape), list(architecture.backbone[first])
    if len(ours) == len(theirs) == 4 and len(wrong) == 1 and theirs[0] == ours[0] and theirs[2:] == ours[2:]:
        why = (
            "it was trained on grey pictures"
            if theirs[1] == 1
            else "it was not trained on pictures in colour"
        )
        return CheckpointError(
            f"{path}: its first layer {first} takes {theirs[1]} channel{'s' * (theirs[1] != 1)}, that of "
            f"{architecture.name} {ours[1]}: {why}, and this program gives models three channels"
        )
    more = f" and {len(wrong) - 1} more differ" if len(wrong) > 1 else ""
    return CheckpointError(
        f"{path}: {first} has shape {theirs}, {architecture.name} wants {ours}{more}; "
        "name the architecture the file was made with"
    )


Rename = Callable[[dict[str, torch.Tensor], nn.Module], Mapping[str, torch.Tensor] | None]


def renamed(
    state: State, module: nn.Module, architecture: Architecture, rename: Rename
) -> tuple[dict[str, torch.Tensor], dict[str, list[Any]]] | None:
    """Tensors under the library's own names, positions resampled, as its loader does it; and what was resampled.

    Args:
      state: names without prefixes.
      module: of the architecture; only its shapes matter.
      architecture: the same.
      rename: the library's function.

    Returns:
      The tensors, and {name: [shape before, shape after]} of those that were resampled; None where the function does
      not give exactly the architecture's tensors.
    """
    try:
        out = rename(dict(state), module)
    except Exception:  # made for the library's own files; what it does to others is of no concern
        return None
    if out is None:
        return None
    new = {str(k): v for k, v in out.items() if isinstance(v, torch.Tensor)}
    if any(v.is_meta for v in new.values()) or not search.judge(new, architecture).fits:
        return None
    shapes = {k: [list(state[k].shape), list(v.shape)] for k, v in new.items() if k in state}
    changed = {k: pair for k, pair in shapes.items() if pair[0] != pair[1] and not architecture.in_head(k)}
    if any(not _POSITIONS.search(k) for k in changed) or not _same_patches(state, new):
        return None  # kernels resampled to patches of another size: another architecture
    if _loses_biases(state, new, architecture):
        return None
    return new, changed


def _loses_biases(old: State, new: State, architecture: Architecture) -> bool:
    """Whether biases inside the architecture that are not zero were left out (DINOv3 has variants without)."""
    used = {v.data_ptr() for v in new.values()}
    tops = {k.partition(".")[0] for k in architecture.backbone}
    lost = [v for k, v in old.items() if k.endswith(".bias") and k not in new and k.partition(".")[0] in tops]
    return any(v.data_ptr() not in used and bool(torch.any(v)) for v in lost)


_POSITIONS = re.compile(r"pos|relative|rope|attention_bias")


def _same_patches(old: State, new: State) -> bool:
    """Whether the patch embedding has the shape it has in the file, or was a product with flat patches there."""
    kernels = {v.shape for v in old.values() if v.ndim == 4}
    sizes = {v.numel() for v in old.values() if v.ndim == 2}
    patches = [
        v for k, v in new.items() if re.search(r"patch_embed\w*\.(proj|conv)\S*weight$", k) and v.ndim == 4
    ]
    return all(v.shape in kernels or (v.numel() in sizes and not kernels) for v in patches)
