"""What a module's outputs are: penultimate features and, where it has a classifier, logits; and other features."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from . import block_search, blocks
from .blocks import Structure

LAST_LINEAR = "last linear"  # features are the input of the classifier's linear layer, found in the graph
OUTPUT = "output"  # features are what the module returns
_CHOSEN = "_vtabjax_features_from"  # an attribute of modules of whose kind nothing is known


class Outputs(nn.Module):
    """`module` with a dict of outputs: "features" [B, D] and, with a classifier, "logits" [B, K].

    Where `features_from` is LAST_LINEAR the dict lacks the features: they are read off the exported graph. With the
    module's structure it has the features of all blocks and by all ways of pooling besides, see `blocks.choices`.
    """

    def __init__(self, module: nn.Module, structure: Structure | None = None):
        super().__init__()
        self.module, self.structure = module, structure or Structure()
        self._outputs, self.features_from = _outputs_of(module)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        with blocks.capturing(self.module, self.structure, found):
            outputs = self._outputs(self.module, x)
        return {**outputs, **blocks.choices(self.module, self.structure, found)}


def structure(module: nn.Module, input_size: tuple[int, int, int]) -> Structure:
    """Where else features can be taken from, see `block_search.find`; the module is run once, in evaluation mode."""
    wrapper = Outputs(module)
    with evaluating(wrapper):
        try:
            return block_search.find(module, input_size, functools.partial(_features, wrapper))
        except (
            Exception
        ):  # a module may do anything; whether its own features can be had is for the export to say
            return Structure()
        finally:
            for m in module.modules():
                if hasattr(m, "attention_bias_cache"):  # filled from the parameters as they are now
                    setattr(m, "attention_bias_cache", {})  # noqa: B010  (a module's attributes have other types)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while."""
    modes = {name: m.training for name, m in module.named_modules()}
    try:
        module.eval()
        yield
    finally:
        for name, m in module.named_modules():
            m.training = modes[name]


def with_last_linear(wrapper: Outputs, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """All of a wrapper's outputs for images [B, C, H, W], run by PyTorch."""
    captured: list[torch.Tensor] = []
    with contextlib.ExitStack() as stack:
        if wrapper.features_from == LAST_LINEAR:
            # The graph's features are the input of the last linear operator: watch the layers themselves.
            for layer in wrapper.modules():
                if isinstance(layer, nn.Linear):
                    hook = layer.register_forward_pre_hook(lambda _, args: captured.append(args[0]))
                    stack.callback(hook.remove)
        outputs = wrapper(x)
    return {**outputs, "features": captured[-1]} if captured else outputs


def _features(wrapper: Outputs, x: torch.Tensor) -> torch.Tensor | None:
    return with_last_linear(wrapper, x).get("features")


def choose_features(module: nn.Module, features_from: str) -> None:
    """Settles for `module` where its features come from, `OUTPUT` or `LAST_LINEAR`, whatever its kind."""
    setattr(module, _CHOSEN, features_from)


def is_known_kind(module: nn.Module) -> bool:
    """Whether the module's library says what its features are."""
    return _outputs_of(module)[0] is not _plain


def _outputs_of(module: Any) -> tuple[Callable, str]:
    if hasattr(module, "image_outputs"):  # set by a source that knows
        return module.image_outputs, ""
    chosen = getattr(module, _CHOSEN, None)
    if chosen is not None:
        return (_logits_only, LAST_LINEAR) if chosen == LAST_LINEAR else (_plain, "")
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
