"""What a module's outputs are: penultimate features and, where it has a classifier, logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

LAST_LINEAR = "last linear"  # features are the input of the classifier's linear layer, found in the graph


class Outputs(nn.Module):
    """`module` with a dict of outputs: "features" [B, D] and, with a classifier, "logits" [B, K].

    Where `features_from` is LAST_LINEAR the dict lacks the features: they are read off the exported graph.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module
        self._outputs, self.features_from = _outputs_of(module)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return self._outputs(self.module, x)


def _outputs_of(module: Any) -> tuple[Callable, str]:
    if hasattr(module, "image_outputs"):  # set by a source that knows
        return module.image_outputs, ""
    if hasattr(module, "forward_features") and hasattr(module, "forward_head"):
        return (_timm if hasattr(module, "reset_classifier") else _timm_encoder), ""
    if type(module).__module__.startswith("torchvision.models"):
        if type(module).__name__ == "SqueezeNet":
            return _squeezenet, ""
        return _logits_only, LAST_LINEAR
    return _plain, ""


def _timm(module: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    trunk = module.forward_features(x)
    features = as_vector(module.forward_head(trunk, pre_logits=True))
    if not getattr(module, "num_classes", 0):
        return {"features": features}
    return {"features": features, "logits": module.forward_head(trunk)}


def _timm_encoder(module: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    # The vision half of a language model, without a head: the mean over positions, as timm's own classifiers on it.
    trunk = module.forward_features(x)
    if trunk.ndim == 4 and getattr(module, "output_fmt", "NCHW") == "NHWC":
        trunk = trunk.flatten(1, 2)
    return {"features": as_vector(trunk)}


def _logits_only(module: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"logits": module(x)}


def _squeezenet(module: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    # Its classifier is a convolution: the penultimate features are the pooled feature map before it.
    trunk = module.features(x)
    return {"features": trunk.mean((2, 3)), "logits": torch.flatten(module.classifier(trunk), 1)}


def _plain(module: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    outputs = module(x)
    if isinstance(outputs, torch.Tensor):
        return {"features": as_vector(outputs)}
    if isinstance(outputs, dict) and "features" in outputs:
        return {**outputs, "features": as_vector(outputs["features"])}
    raise TypeError(
        f"{type(module).__name__} returns {type(outputs).__name__}; from_torch takes a timm model, a torchvision "
        'classifier, or a module that returns features or a dict with "features" and perhaps "logits"'
    )


def as_vector(x: torch.Tensor) -> torch.Tensor:
    """[B, D] from what a trunk gives: tokens [B, N, D] and maps [B, C, H, W] are averaged."""
    if isinstance(x, (tuple, list)):
        # Several class tokens (DeiT's distilled heads): their mean.
        x = torch.stack(list(x)).mean(0)
    if x.ndim == 4:
        return x.flatten(1) if x.shape[2] == x.shape[3] == 1 else x.mean((2, 3))
    return x.mean(1) if x.ndim == 3 else x
