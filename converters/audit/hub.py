"""Architectures of transformers and open_clip for the audit: at small images, and with fewer blocks."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

SOURCES = ("transformers", "open_clip")
# Fewer blocks: fields of a config, of a vision_cfg, or arguments of timm's builder; the first that is known counts.
REDUCED: dict[str, tuple[dict[str, Any], ...]] = {
    "transformers": (
        {"num_hidden_layers": 2},
        {"depths": (1, 1, 2, 1)},
        {"num_layers": 2},
        {"depth": 2},
    ),
    "open_clip": (
        {"layers": 2},
        {"layers": (1, 1, 2, 1, 1)},
        {"layers": (1, 1, 2, 1)},
        {"depth": 2},
        {"depths": (1, 1, 2, 1)},
    ),
}
_SIZES = (96, 128, 224)
# What small images would hide: windows that are shifted, or one in which everything lies.
_WINDOWS = ("swin", "maxxvit", "vitdet", "sam", "hiera", "dinat", "lw_detr")


def make(source: str, name: str, size: int | None, options: Mapping[str, Any]) -> nn.Module:
    """The random module, with `options` of REDUCED.

    Raises:
      Exception: the architecture does not know them, or its library cannot build it.
    """
    if source == "transformers":
        from ..sources import transformers

        return transformers.make(name, size, transformers.configuration(name, size, options))[0]
    from ..sources import open_clip

    vision = open_clip.config(name)["vision_cfg"]
    if "timm_model_name" not in vision:
        if any(not _alike(vision.get(k), v) for k, v in options.items()):
            raise TypeError(f"{name} does not take {options}")
        return open_clip.make(name, size, vision=_as_lists(options))
    import timm

    create = timm.create_model
    timm.create_model = functools.partial(create, **options)  # open_clip hands nothing through
    try:
        return open_clip.make(name, size)
    finally:
        timm.create_model = create


def _alike(own: Any, other: Any) -> bool:
    return (
        isinstance(other, tuple) and len(other) == len(own)
        if isinstance(own, list)
        else isinstance(other, int)
    )


def _as_lists(options: Mapping[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}


def image_size(source: str, name: str) -> int:
    """The smallest images that the architecture takes; its own or 224 where windows would shrink with them."""
    from ..sources import describe, open_clip, transformers

    own = describe(f"{source}/{name}@random")["input_size"][1]
    least = 224 if any(kind in family(source, name) for kind in _WINDOWS) else 0
    works = (transformers if source == "transformers" else open_clip).works
    return next((s for s in _SIZES if least <= s < own and works(name, s)), own)


def family(source: str, name: str) -> str:
    """The module that defines an architecture."""
    from ..sources import open_clip, transformers

    return (transformers if source == "transformers" else open_clip).family(name)
