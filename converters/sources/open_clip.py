"""open_clip: the image tower of every config, ``open_clip/ViT-B-32.laion2b_s34b_b79k``, with files and at random.

The text tower is not built. Features are what `encode_image(image, normalize=False)` gives; variables have the names
that they have in `model.visual`.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import importlib
import types
from collections.abc import Mapping
from typing import Any

import open_clip
import torch
from torch import nn

from vtabjax.specs import Spec, SpecError

from ..checkpoints import building
from . import Source, did_you_mean
from .download import downloading
from .provenance import open_clip_provenance
from .size import refuse_size, runs_at

_CROP_MODES = {"shortest": "center", "squash": "squash", "longest": "border"}

_PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")


def names(spec: Spec) -> list[str]:
    """Names that match: configs for @random, sets of weights with their tags otherwise."""
    if spec.random:
        return fnmatch.filter(open_clip.list_models(), spec.name)
    found = [(m, t) for m, t in open_clip.list_pretrained() if m in open_clip.list_models()]
    return [
        f"{m}.{t}"
        for m in fnmatch.filter(dict(found), spec.name)
        for t in fnmatch.filter(_tags(m), spec.tag or "*")
    ]


def check(spec: Spec) -> None:
    """Raises SpecError unless open_clip has the config and, where they are wanted, the weights."""
    if spec.name not in open_clip.list_models():
        raise did_you_mean(spec, "config", spec.name, open_clip.list_models())
    if spec.file is not None:
        building.check(spec)
    elif not spec.random and spec.tag not in _tags(spec.name):
        tags = _tags(spec.name)
        if not tags:
            text = f"open_clip publishes no weights for {spec.name}"
        elif spec.tag is None:
            text = f"open_clip/{spec.name} does not say which weights; write a tag, such as {spec.name}.{tags[0]}"
        else:
            text = f"open_clip/{spec.name} has no weights {spec.tag!r}"
        have = f"; it has {', '.join(tags)}" if tags else ""
        raise SpecError(
            f"model {str(spec)!r}: {text}{have}; a random initialisation is open_clip/{spec.name}@random, a file "
            f"open_clip/{spec.name}@/path/to/file"
        )


def _tags(name: str) -> list[str]:
    return open_clip.list_pretrained_tags_by_model(name)


def describe(spec: Spec) -> dict[str, Any]:
    """What is known about a tower without building it; images are as the weights' own preprocessing wants them."""
    own, preprocessing = _preprocessing(spec)
    preprocess = open_clip.transform.PreprocessCfg(**own)
    height, width = image_size(spec.name)
    info = {
        "architecture": spec.name,
        "family": family(spec.name),
        "weights": None,
        "input_size": [3, height, width],
        "mean": [float(v) for v in preprocess.mean],
        "std": [float(v) for v in preprocess.std],
        "interpolation": preprocess.interpolation,
        "crop_pct": 1.0,
        "crop_mode": _CROP_MODES[preprocess.resize_mode],
        "preprocessing": preprocessing,
        "num_classes": None,
        "license": None,
        "method": None,
        "pretraining_data": None,
    }
    if spec.random:
        info |= {"weights": f"random initialisation, seed {spec.seed}", "method": "none"}
    elif spec.tag:
        known = open_clip_provenance(spec.name, spec.tag)
        info |= {
            "weights": f"open_clip {spec.name}.{spec.tag}",
            "method": known.method,
            "pretraining_data": known.data,
            "license": known.license,
        }
    return info


def _preprocessing(spec: Spec) -> tuple[dict[str, Any], str]:
    """What open_clip lists for the tag; without one what all tags of the config share; in words whose it is."""
    tags = [spec.tag] if spec.tag else _tags(spec.name)
    listed = [open_clip.get_pretrained_cfg(spec.name, tag) for tag in tags]
    kinds = [{k: cfg[k] for k in _PREPROCESSING if k in cfg} for cfg in listed]
    if spec.tag:
        return kinds[0], f"open_clip's for {spec.name}.{spec.tag}"
    if kinds and all(kind == kinds[0] for kind in kinds):
        return kinds[0], f"open_clip's for all weights of {spec.name}"
    return {}, "open_clip's default (OpenAI's)"


def build(spec: Spec, input_size: int | None) -> Source:
    """The tower with the weights that the spec asks for."""
    info = describe(spec)
    own = tuple(info["input_size"][1:])
    size = None if input_size is None or own == (input_size, input_size) else input_size
    if size is not None and not works(spec.name, size):
        raise refuse_size(spec, size, (own[0], own[1]), lambda s: works(spec.name, s))
    activation = _activation(spec)
    quick = activation == "QuickGELU"
    if spec.random:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed or 0)
            module = make(spec.name, size)
    else:
        path = spec.file
        if path is None:
            with downloading(spec, hub=True):
                path = open_clip.download_pretrained(open_clip.get_pretrained_cfg(spec.name, str(spec.tag)))
        # timm's towers change their positions after loading, open_clip's own while loading.
        late = size is not None and "timm_model_name" in config(spec.name)["vision_cfg"]
        architecture = functools.partial(_architecture, spec.name, None if late else size, quick)
        module, found = building.build(spec._replace(tag=None, file=path), architecture, (), rename=rename)
        info |= {k: v for k, v in found.items() if k not in ("weights", "num_classes") or spec.file}
        if late:
            module.set_input_size(size)  # type: ignore[operator]
    if size is not None:
        info["input_size"] = [3, size, size]
    info |= {"pooling": "what encode_image gives, not normalised", "activation": activation}
    return Source(module, info)


def _activation(spec: Spec) -> str | None:
    """QuickGELU or GELU; None for timm's towers, which have their own.

    It is QuickGELU where the config or the tag says so: open_clip's own loader warns where only the tag does
    (ViT-B-32.openai), and computes with GELU what was trained with QuickGELU.
    """
    cfg = config(spec.name)
    if "timm_model_name" in cfg["vision_cfg"]:
        return None
    tag = open_clip.get_pretrained_cfg(spec.name, spec.tag) if spec.tag else {}
    return "QuickGELU" if cfg.get("quick_gelu") or tag.get("quick_gelu") else "GELU"


def parameters(spec: Spec) -> int:
    """The number of parameters of the tower, counted without allocating them."""
    with torch.device("meta"):
        return sum(p.numel() for p in make(spec.name).parameters())


def make(
    name: str,
    size: int | None = None,
    quick_gelu: bool | None = None,
    vision: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A config's random image tower; see `tower`."""
    return tower(config(name), size, quick_gelu, vision)


def tower(
    cfg: Mapping[str, Any],
    size: int | None = None,
    quick_gelu: bool | None = None,
    vision: Mapping[str, Any] | None = None,
) -> nn.Module:
    """The random image tower of a config (the model_cfg of an open_clip_config.json), in evaluation mode.

    Args:
      cfg: with embed_dim and vision_cfg.
      size: height and width of the images, or None for the config's own.
      quick_gelu: whether the activation is QuickGELU, or None for what the config says.
      vision: fields of vision_cfg to change.
    """
    fields = {**cfg["vision_cfg"], **(vision or {})}
    late = "timm_model_name" in fields
    if late:
        fields["timm_model_pretrained"] = False
    elif size is not None:
        fields["image_size"] = size
    quick = cfg.get("quick_gelu", False) if quick_gelu is None else quick_gelu
    module = open_clip.model._build_vision_tower(cfg["embed_dim"], fields, quick)
    if late and size is not None:
        module.set_input_size(size)
    module.image_outputs = _features
    return module.eval()


def _architecture(name: str, size: int | None, quick_gelu: bool, num_classes: int | None = None) -> nn.Module:
    return make(name, size, quick_gelu)  # a tower has no classes


def _features(module: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    out = module(x)
    return {"features": out[0] if isinstance(out, tuple) else out}  # CoCa's towers also give their tokens


def rename(state: dict[str, torch.Tensor], module: nn.Module) -> dict[str, torch.Tensor]:
    """A release's tensors under open_clip's names, positions resampled, as `open_clip.load_checkpoint` does it."""
    model: Any = types.SimpleNamespace(visual=module)
    convert: Any = importlib.import_module("open_clip.convert")
    state = convert.convert_state_dict(model, state)
    if not any(k.startswith("visual.") for k in state):
        state = {f"visual.{k}": v for k, v in state.items()}
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    open_clip.model.resize_pos_embed(state, model)
    return {k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.")}


rename.method = "bicubic, antialiased"  # type: ignore[attr-defined]


def works(name: str, size: int) -> bool:
    """Whether a config's tower takes images of that size."""
    with contextlib.suppress(AssertionError, RuntimeError, ValueError, ZeroDivisionError):
        with torch.device("meta"):
            module = make(name, size)
        return runs_at(module, size)
    return False


def config(name: str) -> dict[str, Any]:
    """open_clip's config of that name, a copy."""
    return open_clip.get_model_config(name)


def image_size(name: str) -> tuple[int, int]:
    """Height and width of a config's images."""
    size = config(name)["vision_cfg"].get("image_size", 224)
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def family(name: str) -> str:
    """What a tower is built by: open_clip's VisionTransformer or ModifiedResNet, or a module of timm."""
    vision = config(name)["vision_cfg"]
    if "timm_model_name" in vision:
        timm: Any = importlib.import_module("timm")
        return "timm " + timm.models.model_entrypoint(vision["timm_model_name"]).__module__.rpartition(".")[2]
    return "modified_resnet" if isinstance(vision["layers"], list) else "transformer"
