"""Names files that hold no weights for the architectures here: of another library, of an adapter, without tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .reading import CheckpointError, Stub
from .search import State

_TRANSFORMERS = re.compile(
    r"(^|\.)(embeddings\.(patch_embeddings|cls_token|position_embeddings?|patch_embedding|class_embedding)|"
    r"encoder\.layers?\.\d+\.(attention\.attention\.query|self_attn\.q_proj|layernorm_before|attention\.query)|"
    r"embedder\.embedder\.convolution|encoder\.stages\.\d+\.layers|layer\.\d+\.attention\.q_proj|"
    r"encoder\.layers\.\d+\.blocks\.\d+\.attention\.self\.query)"
)
_WIDTHS = {192: "tiny", 384: "small", 512: "medium", 768: "base", 1024: "large", 1280: "huge"}


def no_tensors(tree: Any, path: str) -> CheckpointError:
    """The error for a file's content that holds no tensors in dicts."""
    if not isinstance(tree, Mapping):
        return CheckpointError(
            f"{path} holds a {type(tree).__name__}, not a state_dict; save model.state_dict()"
        )
    if tree.get("type") == "shard_list":
        return CheckpointError(
            f"{path} is one index of a sharded VISSL checkpoint; consolidate it with VISSL first"
        )
    whole = [k for k, v in tree.items() if isinstance(v, Stub) and k in ("model", "ema", "net", "module")]
    if whole:
        kind = type(tree[whole[0]]).__name__
        return CheckpointError(
            f"{path} holds a whole pickled {kind} under {whole[0]!r}, not a state_dict; save its state_dict()"
        )
    keys = ", ".join(map(str, list(tree)[:8]))
    return CheckpointError(f"{path} holds no tensors where a state_dict would be; its keys are {keys}")


def describe(state: State) -> str | None:
    """What a dict of tensors is, where the names are those of a library that is known, and the way out."""
    if any("lora_A" in k or "lora_B" in k for k in state):
        return "holds a LoRA adapter beside or without its model; merge the adapter and save the whole state_dict"
    if any(k.endswith(("_packed_params._packed_params", "zero_point")) for k in state):
        return "is a quantized model; save it before quantization"
    if any("storage_tokens" in k or "rope_embed.periods" in k for k in state):
        size = _WIDTHS.get(_width(state, "cls_token") or 0)
        name = f"timm/vit_{size}_patch16_dinov3" if size else "a timm/vit_*_patch16_dinov3"
        return (
            f"is an official DINOv3 file; the architecture that holds its weights is {name}, or {name}_qkvb where the "
            "biases of query and value are not zero"
        )
    if any(".transformer.resblocks." in f".{k}" for k in state):
        return f"is a CLIP file (OpenAI, open_clip); its image tower is {_clip(state)}"
    if any(_TRANSFORMERS.search(k) for k in state):
        return (
            "is a Hugging Face transformers file: its tensors are named and split differently (query, key and value "
            "separately) from those of timm and torchvision; name timm's release of the same weights "
            "(`python -m converters list 'timm/*'` lists them) or save them under timm's names"
        )
    if any("encoder.layers.encoder_layer_0" in k for k in state):
        return "has torchvision's names of a ViT; write torchvision/vit_b_16 or the like in front of the @"
    return None


def _width(state: State, name: str) -> int | None:
    return next((v.shape[-1] for k, v in state.items() if k.endswith(name) and v.ndim), None)


def _clip(state: State) -> str:
    conv = next((v for k, v in state.items() if k.endswith("visual.conv1.weight") and v.ndim == 4), None)
    size = _WIDTHS.get(conv.shape[0]) if conv is not None else None
    if conv is None or size is None:
        return "one of timm/vit_*_clip_* or timm/resnet50_clip"
    return (
        f"timm/vit_{size}_patch{conv.shape[-1]}_clip_224 (OpenAI's own weights: vit_{size}_patch{conv.shape[-1]}"
        "_clip_quickgelu_224)"
    )
