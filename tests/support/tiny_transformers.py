"""Tiny image encoders of transformers, one of each kind."""

from __future__ import annotations

from typing import Any

from converters import _compat  # noqa: F401  (before anything imports torchvision)

# isort: split
import transformers
from torch import nn

from converters.sources import transformers as source
from converters.sources.transformers_models import wrap

_VIT: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
_TEXT: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 99,
}  # fmt: skip
_STAGES = {"image_size": 64, "depths": [1, 1, 2, 1]}
_TOWERS = {"vision_config": _VIT, "text_config": _TEXT}
CONFIGS: dict[str, dict[str, Any]] = {
    "vit": _VIT,
    "deit": _VIT,
    "beit": {**_VIT, "use_mean_pooling": True},
    "dinov2": _VIT,
    "dinov2_with_registers": _VIT,
    "dinov3_vit": _VIT,
    "ijepa": _VIT,
    "vit_mae": _VIT,
    "clip": {**_TOWERS, "projection_dim": 24},
    "siglip": _TOWERS,
    "blip": {**_TOWERS, "projection_dim": 24},
    "siglip_vision_model": _VIT,
    "clip_vision_model": _VIT,
    "convnext": {"hidden_sizes": [8, 16, 24, 32], **_STAGES},
    "resnet": {"embedding_size": 8, "hidden_sizes": [16, 24, 32, 40], **_STAGES},
    "swin": {"embed_dim": 8, "num_heads": [1, 2, 2, 4], "window_size": 2, "patch_size": 2, **_STAGES},
    "segformer": {"hidden_sizes": [8, 16, 24, 32], **_STAGES, "num_attention_heads": [1, 2, 2, 4]},
    "mobilenet_v2": {"image_size": 64, "depth_multiplier": 0.25},
    "poolformer": {"image_size": 64, "depths": [1, 1, 2, 1], "hidden_sizes": [8, 16, 24, 32]},
    "levit": {
        "image_size": 64, "hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 3, 4], "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
    },
}  # fmt: skip


def config(name: str) -> Any:
    """The tiny config of a model type, with ten classes where it classifies."""
    classes = {"num_labels": 10} if name in source._CLASSIFIERS else {}
    return transformers.CONFIG_MAPPING[name](**CONFIGS[name], **classes)


def build(name: str) -> tuple[nn.Module, int]:
    """(the wrapped model, image size)."""
    module, info = source.make(name, config=config(name))
    return module, info["input_size"][1]


def plain(name: str) -> Any:
    """The library's own model of the same config, not wrapped."""
    return source._class(name)._from_config(config(name)).eval()


__all__ = ["CONFIGS", "build", "config", "plain", "wrap"]
