"""Checkpoint files: ``source/architecture@/path/to/file``."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from converters import checkpoints, layouts
from vtabjax.specs import Spec, SpecError


def check(spec: Spec) -> None:
    """Raises SpecError unless the spec's file can be read."""
    if spec.tag:
        raise SpecError(f"model {str(spec)!r} has both a weight tag and a file; leave one out")
    if not os.path.isfile(spec.file):
        raise SpecError(f"model {str(spec)!r}: there is no weight file {spec.file}")
    if not os.access(spec.file, os.R_OK):
        raise SpecError(f"model {str(spec)!r}: the weight file {spec.file} is not readable")


def build(
    spec: Spec, make: Callable[..., nn.Module], classifiers: tuple[str, ...], unused: tuple[str, ...] = ()
) -> tuple[nn.Module, dict[str, Any]]:
    """The architecture filled from the spec's file.

    Args:
      spec: with a file.
      make: takes num_classes (0: without a classifier) and, for some layouts, num_heads; gives the module.
      classifiers: names of the architecture's classifier layers. It is built with as many classes as the file has.
      unused: prefixes of the architecture's tensors that only training uses (auxiliary classifiers).

    Returns:
      The module, and what the file says for `Source.info`.

    Raises:
      CheckpointError: the file cannot be read, or its tensors are not exactly the architecture's.
    """
    try:
        found = layouts.backbone(checkpoints.read(spec.file), spec.file)
        state = {k: v for k, v in found.state.items() if not k.startswith(unused)}
        unused_keys = [k for k in found.state if k not in state]
        heads = [state[f"{c}.weight"] for c in classifiers if f"{c}.weight" in state]
        options: dict[str, Any] = {"num_classes": heads[0].shape[0] if heads else 0}
        if found.layout is not None and found.width in found.layout.heads:
            options["num_heads"] = found.layout.heads[found.width]
        module = make(**options)
        if found.sobel:
            put_sobel_first(module)
        _resize_positions(module, state)
        checkpoints.fit(module, state, spec.file, f"{spec.source}/{spec.name}")
    except checkpoints.CheckpointError as e:
        raise checkpoints.CheckpointError(f"model {str(spec)!r}: {e}") from e
    return module, _info(spec, found, unused_keys, options)


def _info(spec: Spec, found: layouts.Backbone, unused: list[str], options: dict[str, Any]) -> dict[str, Any]:
    layout = found.layout
    info: dict[str, Any] = {
        "weights": f"file {os.path.basename(spec.file)}",
        "layout": layout.name if layout else "state_dict",
        "dropped_keys": [*found.dropped, *unused],
        "num_classes": options["num_classes"] or None,
    }
    if layout is not None:
        mean, std = layout.normalisation
        info |= {
            "weights": f"file {os.path.basename(spec.file)}, layout of {layout.family}",
            "mean": list(mean),
            "std": list(std),
            "interpolation": layout.interpolation,
            "crop_pct": layouts.CROP_PCT,
            "license": layout.license,
            "method": layout.method,
        }
    if found.sobel:
        info["stem"] = "Sobel filter on the normalised image (DeepCluster)"
    if "num_heads" in options:
        info["num_heads"] = options["num_heads"]
    return info


class SobelConv(nn.Conv2d):
    """DeepCluster's first layer: a convolution on the two Sobel gradients of the grey image.

    Upstream averages the three channels and applies two fixed 3x3 filters before this layer; the released files
    leave them out. Both together are one convolution from 3 to 2 channels.
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__(
            2, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=conv.bias is not None
        )
        horizontal = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
        filters = torch.stack([horizontal, horizontal.T]) / 3
        self.register_buffer("sobel", filters[:, None].repeat(1, 3, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W], normalised, to the layer's output."""
        return super().forward(nn.functional.conv2d(x, self.sobel, padding=1))


def put_sobel_first(module: nn.Module) -> None:
    """Gives a ResNet the two-channel first layer of DeepCluster, under the name it has in the file."""
    module.conv1 = SobelConv(module.conv1)


def _resize_positions(module: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Resamples a ViT's position embedding where the module was built for another image size."""
    for key in ("pos_embed", "encoder.pos_embedding"):
        own = getattr(module, key, None) if key == "pos_embed" else module.state_dict().get(key)
        if key not in state or own is None or own.shape == state[key].shape:
            continue
        old = state[key]
        if old.ndim != 3 or own.ndim != 3 or old.shape[-1] != own.shape[-1]:
            continue  # another architecture, which `fit` says
        if key == "pos_embed":
            prefix = (
                0 if getattr(module, "no_embed_class", False) else getattr(module, "num_prefix_tokens", 1)
            )
            if round((old.shape[1] - prefix) ** 0.5) ** 2 != old.shape[1] - prefix:
                continue
            from timm.layers import resample_abs_pos_embed

            grid = list(module.patch_embed.grid_size)
            state[key] = resample_abs_pos_embed(old.float(), new_size=grid, num_prefix_tokens=prefix)
        else:
            from torchvision.models.vision_transformer import interpolate_embeddings

            try:
                state[key] = interpolate_embeddings(module.image_size, module.patch_size, {key: old.float()})[
                    key
                ]
            except ValueError:
                continue
