"""Checkpoint files of every layout, made from ssl_layouts.json."""

import functools
import json
from pathlib import Path

import torch

LAYOUTS = json.loads(Path(__file__).with_name("ssl_layouts.json").read_text())
BY_NAME = {layout["name"]: layout for layout in LAYOUTS}


@functools.cache
def shapes(backbone: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a backbone as its own repository writes them."""
    from converters.sources import timm, torchvision  # noqa: F401

    import timm as library  # isort: skip
    import torchvision as vision  # isort: skip

    with torch.device("meta"):
        if backbone.startswith("resnet"):
            state = vision.models.get_model(backbone.removesuffix("_sobel")).state_dict()
        else:
            name = {"vit_base": "vit_base_patch16_224", "vit_small_dinov2": "vit_small_patch14_dinov2"}
            model = library.create_model(name.get(backbone, "vit_small_patch16_224"), num_classes=0)
            state = model.state_dict()
    found = {k: tuple(v.shape) for k, v in state.items() if not k.startswith("fc.")}
    if backbone == "resnet50_sobel":
        found["conv1.weight"] = (64, 2, 7, 7)
    if backbone == "vit_small_dinov2":
        found["mask_token"] = (1, 384)
    if backbone == "vit_small_mm":
        found = {openmmlab(k): v for k, v in found.items()}
    return found


def openmmlab(key: str) -> str:
    """timm's name of a ViT's tensor in OpenMMLab's words."""
    for ours, theirs in (
        ("patch_embed.proj.", "patch_embed.projection."),
        ("blocks.", "layers."),
        ("norm1.", "ln1."),
        ("norm2.", "ln2."),
        ("mlp.fc1.", "ffn.layers.0.0."),
        ("mlp.fc2.", "ffn.layers.1."),
    ):
        key = key.replace(ours, theirs)
    return key.replace("norm.", "ln1.") if key.startswith("norm.") else key


def tensor(shape, value: float, dtype=torch.float32) -> torch.Tensor:
    """A tensor of one number; the file holds it once, so that files stay small."""
    if shape == ():
        return torch.zeros((), dtype=torch.int64)
    return torch.full((1,), value, dtype=dtype).expand(shape)


def backbone_state(backbone: str, offset: float = 0.0, dtype=torch.float32) -> dict[str, torch.Tensor]:
    return {k: tensor(s, 0.5 + i / 512 + offset, dtype) for i, (k, s) in enumerate(shapes(backbone).items())}


def synthesise(layout: dict, dtype=torch.float32) -> tuple[dict, dict[str, torch.Tensor]]:
    """A checkpoint in a layout, and the backbone that lies in it. Momentum copies have other values."""
    base = backbone_state(layout["backbone"], dtype=dtype)
    state = {layout["prefix"] + k: v for k, v in base.items()}
    state |= {k: tensor(tuple(s), 7.0) for k, s in layout["extra"].items()}
    for prefix, kind in layout["copies"].items():
        copy = base if kind == "alias" else backbone_state(layout["backbone"], offset=100.0, dtype=dtype)
        state |= {prefix + k: v for k, v in copy.items()}
    return wrap(layout, state), base


def wrap(layout: dict, state: dict) -> dict:
    tree = state
    for key in reversed(layout["container"]):
        tree = {key: tree}
    others = {"author": "OpenSelfSup", "optimizer": {"state": {}}, "type": "checkpoint"}
    return {**{k: others.get(k, 3) for k in layout["top"]}, **tree}


def state_of(layout: dict, tree: dict) -> dict:
    for key in layout["container"]:
        tree = tree[key]
    return tree


def save(tree, path, **kwargs) -> str:
    torch.save(tree, path, **kwargs)
    return str(path)


ResNet18 = functools.partial(backbone_state, "resnet18")


def with_classifier(state: dict, classes: int = 1000) -> dict:
    return {**state, "fc.weight": tensor((classes, 512), 0.25), "fc.bias": tensor((classes,), 0.125)}
