"""A transformers model as an image encoder: which of its outputs are features, which are logits.

Nothing is renamed or moved: variables keep the names that the model has, so that they go back into it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import nn

from vtabjax import specs
from vtabjax.specs import SpecError

from ..outputs import as_vector

# What a model's output is asked for, the first that is there, and how it is said.
_FIELDS = {
    "image_embeds": "the projected image embedding (image_embeds)",
    "pooler_output": "the pooled output (pooler_output)",
    "encoder_last_hidden_state": "the mean over the encoder's last hidden state",
    "last_hidden_state": "the mean over the last hidden state",
    "feature_maps": "the mean over the last feature map",
}
_TEXT_ONLY = ("logit_scale", "logit_bias")  # top-level parameters that only comparing with a text uses
# Arguments that say how patches were cut from images that differ in size.
_PACKED = ("spatial_shapes", "target_sizes", "grid_thw", "image_grid_thw")


def wrap(
    model: Any, *, size: int | None = None, missing: Collection[str] = ()
) -> tuple[nn.Module, dict[str, Any]]:
    """Makes an image encoder of a transformers model, in place.

    Features are what its classifier's linear layer reads; without a classifier its pooled output; without that
    the mean over its tokens or its last feature map. Of a model of images and texts only the image half is kept.

    Args:
      model: an image classifier, a backbone, a vision model, or a model with `get_image_features`.
      size: height and width of the images, or None for the size in its config.
      missing: names of parameters that a checkpoint did not have (`missing_keys` of `from_pretrained`'s loading
        info), which are random: a classifier or a pooler of these is not used.

    Returns:
      The model, which `converters.from_torch` takes: its attribute `image_outputs` is a function of it and of images
      [B, C, H, W] that gives "features" [B, D] and, with a classifier, "logits" [B, K]. And for `Source.info`:
      pooling (in words), input_size [C, H, W], num_classes (None without a classifier).

    Raises:
      SpecError: it does not take images alone, or gives nothing that could be features; the message begins with the
        model's class, without the spec.
    """
    model.config.return_dict = True  # outputs by name, whatever a repository's config says
    own = image_size(model.config)
    size = size or own or 224
    shape = (channels(model.config), size, size)
    call = functools.partial(_call, options=_options(model, own, size))
    called, out = _probe(model, call, shape)
    if _is_image_half(model):
        _drop_text(model, called)
    heads = _heads(model, called, out)
    if heads and not any(_is_missing(h, missing) for h in heads):
        model.image_outputs = functools.partial(_classified, call=call, heads=tuple(heads))
        pooling = "the input of its classifier"
        classes: int | None = out.logits.shape[-1]
    else:
        body = call
        if getattr(out, "logits", None) is not None:
            body = functools.partial(_base_call, options=call.keywords["options"])
            _, out = _probe(model, body, shape)
        skipped = ("pooler_output",) if any("pooler" in m for m in missing) else ()
        field = _field(model, out, skipped)
        model.image_outputs = functools.partial(_pooled, call=body, field=field)
        pooling = "what get_image_features gives" if _is_image_half(model) else _FIELDS[field]
        classes = None
    return model, {"pooling": pooling, "input_size": list(shape), "num_classes": classes}


def _is_image_half(model: Any) -> bool:
    """Whether images go through `get_image_features`, as in models that also read texts."""
    return hasattr(model, "get_image_features") and model.main_input_name != "pixel_values"


def owners(config: Any) -> list[Any]:
    """The configs that may say what the images are: its own, its vision tower's, its backbone's."""
    return [
        c for c in (config, *(getattr(config, k, None) for k in ("vision_config", "backbone_config"))) if c
    ]


def image_size(config: Any) -> int | None:
    """Height and width of the images that a config is made for; None where it does not say."""
    for owner in owners(config):
        size = getattr(owner, "image_size", None)
        if isinstance(size, (list, tuple)) and len(size) == 2:
            size = max(size)
        if isinstance(size, int) and size > 0:
            return size
    return None


def not_square_images(config: Any) -> str:
    """What a config is made for where it is not square images: videos, images of another shape; else ""."""
    for owner in owners(config):
        frames, size = getattr(owner, "num_frames", None), getattr(owner, "image_size", None)
        if isinstance(frames, int):
            return f"videos of {frames} frames"
        if isinstance(size, (list, tuple)) and len(set(size)) == 2:
            return f"images of {size[0]} x {size[1]} pixels"
    return ""


def channels(config: Any) -> int:
    """How many channels the images have."""
    for owner in owners(config):
        found = getattr(owner, "num_channels", None)
        if isinstance(found, int):
            return found
    return 3


# How images go in.


def _options(model: Any, own: int | None, size: int) -> dict[str, Any]:
    """Arguments of the forward pass beside the images."""
    forward = model.get_image_features if _is_image_half(model) else model.forward
    given = inspect.signature(forward).parameters
    if "pixel_values" not in given:
        raise SpecError(f"{type(model).__name__} takes {specs.listed(given)}, not images (pixel_values)")
    packed = next((k for k in _PACKED if k in given), None)
    if packed is not None:
        raise SpecError(
            f"{type(model).__name__} does not take images but the patches of images of several sizes, with {packed}"
        )
    others = [k for k, p in given.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    others = [k for k in others if k != "pixel_values"]
    if others:
        raise SpecError(
            f"{type(model).__name__} does not take images alone: it also needs {', '.join(others)}"
        )
    resized = own is not None and size != own and "interpolate_pos_encoding" in given
    return {"interpolate_pos_encoding": True} if resized else {}


def _call(model: Any, x: torch.Tensor, options: dict[str, Any]) -> Any:
    if _is_image_half(model):
        return model.get_image_features(pixel_values=x, **options)
    if model.config.model_type == "vit_mae":  # it would hide three quarters of the patches at random
        patches = (x.shape[2] // model.config.patch_size) * (x.shape[3] // model.config.patch_size)
        model.config.mask_ratio = 0.0
        options = {**options, "noise": torch.arange(patches, device=x.device).expand(x.shape[0], patches)}
    return model(pixel_values=x, **options)


def _base_call(model: Any, x: torch.Tensor, options: dict[str, Any]) -> Any:
    return model.base_model(pixel_values=x, **options)


# What comes out.


def _classified(model: Any, x: torch.Tensor, call: Any, heads: tuple[str, ...]) -> dict[str, torch.Tensor]:
    read: list[torch.Tensor] = []
    hooks = [
        model.get_submodule(head).register_forward_pre_hook(lambda _, args: read.append(args[0]))
        for head in heads
    ]
    try:
        logits = call(model, x).logits
    finally:
        for hook in hooks:
            hook.remove()
    # Several heads (DeiT's distilled one): the mean of what they read.
    vectors = [as_vector(r) for r in dict.fromkeys(read)]
    return {"features": sum(vectors[1:], vectors[0]) / len(vectors), "logits": as_vector(logits)}


def _pooled(model: Any, x: torch.Tensor, call: Any, field: str) -> dict[str, torch.Tensor]:
    out = call(model, x)
    value = out if isinstance(out, torch.Tensor) else out[field]
    return {"features": as_vector(value[-1] if isinstance(value, (list, tuple)) else value)}


def _field(model: Any, out: Any, skipped: Collection[str]) -> str:
    if isinstance(out, torch.Tensor):
        return "image_embeds"
    for field in _FIELDS:
        value = getattr(out, field, None)
        if value is not None and field not in skipped:
            value = value[-1] if isinstance(value, (list, tuple)) else value
            if isinstance(value, torch.Tensor) and 2 <= value.ndim <= 4:
                return field
    has = (
        ", ".join(k for k, v in out.items() if v is not None) if hasattr(out, "items") else type(out).__name__
    )
    raise SpecError(f"{type(model).__name__} gives no features of an image: its outputs are {has}")


def _heads(model: Any, called: list[str], out: Any) -> list[str]:
    """The layers that make the logits."""
    logits = getattr(out, "logits", None)
    if not isinstance(logits, torch.Tensor):
        return []
    modules = dict(model.named_modules())
    width = logits.shape[-1]
    fitting = [
        name
        for name in called
        if getattr(modules[name], "out_features", getattr(modules[name], "out_channels", None)) == width
    ]
    base = model.base_model_prefix + "."
    return [name for name in fitting if not name.startswith(base)] or fitting[-1:]


def _is_missing(head: str, missing: Collection[str]) -> bool:
    return any(m.startswith(head + ".") for m in missing)


def _drop_text(model: Any, called: list[str]) -> None:
    for name, child in list(model.named_children()):
        used = any(c == name or c.startswith(name + ".") for c in called)
        if not used and next(child.parameters(), None) is not None:
            setattr(model, name, None)
    for name in _TEXT_ONLY:
        if isinstance(getattr(model, name, None), nn.Parameter):
            delattr(model, name)


def _probe(model: Any, call: Any, shape: tuple[int, int, int]) -> tuple[list[str], Any]:
    """Names of the layers that an image passes through, in order, and the model's output, as shapes where possible."""
    called: list[str] = []
    hooks = [
        layer.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, layer in model.named_modules()
        if next(layer.children(), None) is None
    ]
    try:
        with torch.no_grad():
            with contextlib.suppress(NotImplementedError, RuntimeError), _on_meta(model):
                return called, call(model, torch.zeros(1, *shape, device="meta"))
            called.clear()
            dtype = next((p.dtype for p in model.parameters()), torch.float32)
            return called, call(model, torch.zeros(1, *shape, dtype=dtype))
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def _on_meta(model: nn.Module) -> Iterator[None]:
    """While it lasts, parameters and buffers are shapes, and nothing is computed."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shapes = {name: torch.empty_like(t, device="meta") for name, t in tensors.items()}
    with torch.nn.utils.stateless._reparametrize_module(model, shapes), torch.device("meta"):
        yield
