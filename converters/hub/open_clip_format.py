"""Repositories that open_clip wrote: open_clip_config.json (model_cfg, preprocess_cfg). The image tower is taken."""

from __future__ import annotations

import types
from typing import Any

from ..sources import Source
from ..sources.size import refuse_size, runs_at
from .recognition import need
from .repository import Repository

_CROP_MODES = {"shortest": "center", "squash": "squash", "longest": "border"}
_TOWER = "visual."


def describe(repository: Repository) -> dict[str, Any]:
    """What open_clip_config.json says of the image tower."""
    model, preprocess = _config(repository)
    vision = model["vision_cfg"]
    size = preprocess.get("size") or vision.get("image_size") or 224
    height, width = (size, size) if isinstance(size, int) else size
    from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    channels = (preprocess.get("mean") or OPENAI_DATASET_MEAN, preprocess.get("std") or OPENAI_DATASET_STD)
    mean, std = ([float(v)] * 3 if isinstance(v, (int, float)) else [float(u) for u in v] for v in channels)
    # As open_clip's own evaluation: "random" is for training.
    interpolation = "bilinear" if preprocess.get("interpolation") == "bilinear" else "bicubic"
    mode = preprocess.get("resize_mode") or "shortest"
    return {
        "architecture": vision.get("timm_model_name") or "image tower",
        "family": f"timm {vision['timm_model_name']}" if "timm_model_name" in vision else "open_clip",
        "input_size": [3, height, width],
        "mean": mean,
        "std": std,
        "interpolation": interpolation,
        "crop_pct": 1.0,
        "crop_mode": _CROP_MODES.get(mode, mode),
        "preprocessing": "preprocess_cfg of its open_clip_config.json",
        "num_classes": None,
        "license": None,
        "method": "image-text",
        "pretraining_data": None,
    }


def build(repository: Repository, input_size: int | None) -> Source:
    """The image tower with the repository's weights, or with random ones."""
    import torch

    info = describe(repository)
    _, height, width = info["input_size"]
    size = None if input_size is None or (height, width) == (input_size, input_size) else input_size
    if size is not None and not _works(repository, size):
        raise refuse_size(repository.spec, size, (height, width), lambda s: _works(repository, s))
    if repository.spec.random:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(repository.spec.seed or 0)
            module = _tower(repository, size)
    else:
        module = _filled(repository, size)
        if size is not None:
            info["notes"] = [
                f"made for images of {height} pixels; open_clip resampled its positions to {size}"
            ]
    module.image_outputs = features
    if size is not None:
        info["input_size"] = [3, size, size]
    return Source(module, {**info, "pooling": "what encode_image gives, not normalised"})


def parameters(repository: Repository) -> int:
    """The number of parameters of the image tower, counted without allocating them."""
    import torch

    with torch.device("meta"):
        return sum(p.numel() for p in _tower(repository, None).parameters())


def features(module: Any, x: Any) -> dict[str, Any]:
    """What `encode_image(x, normalize=False)` gives."""
    out = module(x)
    return {"features": out[0] if isinstance(out, tuple) else out}  # CoCa's towers also give their tokens


def _config(repository: Repository) -> tuple[dict[str, Any], dict[str, Any]]:
    need(repository, "open_clip")
    fields = repository.json("open_clip_config.json") or {}
    model, preprocess = fields.get("model_cfg"), fields.get("preprocess_cfg") or {}
    vision = model.get("vision_cfg") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(vision, dict) or not isinstance(preprocess, dict):
        raise repository.error("its open_clip_config.json has no model_cfg with a vision_cfg")
    name = vision.get("timm_model_name")
    if name is not None:
        import timm

        if not timm.is_model(str(name)):
            raise repository.error(f"the installed timm has no architecture {name!r}, its timm_model_name")
    return model, preprocess


def _tower(repository: Repository, size: int | None) -> Any:
    """The tower that the config describes, random, for images of `size` pixels."""
    import open_clip

    model, _ = _config(repository)
    fields = dict(model["vision_cfg"])
    late = "timm_model_name" in fields  # which are resized once they are there
    if late:
        fields["timm_model_pretrained"] = False
    elif size is not None:
        fields["image_size"] = size
    try:
        module = open_clip.model._build_vision_tower(
            model["embed_dim"], fields, model.get("quick_gelu", False)
        )
        if late and size is not None:
            module.set_input_size(size)
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as e:
        reason = " ".join(f"{type(e).__name__}: {e}".split())[:200]
        raise repository.error(
            f"open_clip cannot build the tower of its open_clip_config.json ({reason})"
        ) from e
    return module


def _filled(repository: Repository, size: int | None) -> Any:
    import open_clip

    state = {k: v for k, v in repository.state("open_clip").items() if k.startswith(_TOWER)}
    late = "timm_model_name" in _config(repository)[0]["vision_cfg"]
    module = _tower(repository, None if late else size)
    if size is not None and not late:
        state = {k: v.float() for k, v in state.items()}
        open_clip.model.resize_pos_embed(state, types.SimpleNamespace(visual=module))
    try:
        module.load_state_dict({k.removeprefix(_TOWER): v for k, v in state.items()})
    except RuntimeError as e:
        reason = " ".join(str(e).split())[:300]
        raise repository.error(
            f"its weights are not those of its open_clip_config.json's tower ({reason})"
        ) from e
    if late and size is not None:
        module.set_input_size(size)
    return module


def _works(repository: Repository, size: int) -> bool:
    import torch

    from vtabjax.specs import SpecError

    try:
        with torch.device("meta"):
            module = _tower(repository, size)
        return runs_at(module, size)
    except SpecError:
        return False
