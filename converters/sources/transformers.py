"""transformers: every image encoder of the installed library at its default config, ``transformers/vit@random``.

Published weights are repositories, ``hf/OWNER/NAME``; files are folders of them, ``hf//path/to/folder``.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import transformers
from PIL.Image import Resampling
from torch import nn
from transformers.models.auto import image_processing_auto, modeling_auto

from vtabjax.specs import Spec, SpecError

from . import Source, did_you_mean
from .size import refuse_size
from .transformers_models import channels, image_size, not_square_images, owners, wrap

_CLASSIFIERS = modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
_BACKBONES = modeling_auto.MODEL_FOR_BACKBONE_MAPPING_NAMES
_MODELS = modeling_auto.MODEL_MAPPING_NAMES
# Models of images and texts that the library does not list for zero-shot classification.
_TWO_TOWERS = ("aimv2", "flava", "groupvit", "owlv2", "owlvit")
_VISION_MODELS = {"blip-2": "Blip2VisionModel"}  # where the whole model does not take images alone
_VISION = ("_vision_model", "_vision", "_vit_model")  # how the types of vision towers end
_SIZE = 224  # of images, where the config does not say
_SIZES = {"depth_pro": 1536}  # where it does not say, and others are refused
_MEAN = _STD = (0.5, 0.5, 0.5)


@functools.cache
def model_types() -> list[str]:
    """The types of models that encode images: classifiers, backbones, vision models and towers."""
    found = {*_BACKBONES, *modeling_auto.MODEL_FOR_IMAGE_MAPPING_NAMES, *_TWO_TOWERS}
    found |= {t for t in _MODELS if t.endswith(_VISION)}
    found -= set(modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)  # these write texts about images
    found |= {*_CLASSIFIERS, *modeling_auto.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES}
    return sorted(found)


def names(spec: Spec) -> list[str]:
    """The model types that match, for @random."""
    if not spec.random and spec.source == "transformers":
        raise _not_random(spec)
    return fnmatch.filter(model_types(), spec.name) if spec.random else []


def check(spec: Spec) -> None:
    """Raises SpecError unless the spec names a model type of the library, at random."""
    if not spec.random or spec.tag:
        raise _not_random(spec)
    if spec.name not in model_types():
        raise did_you_mean(spec, "image model type", spec.name, model_types())


def _not_random(spec: Spec) -> SpecError:
    return SpecError(
        f"model {str(spec)!r}: a type of transformers is built at its default config, with random weights: write "
        f"transformers/{spec.name}@random; published weights are hf/OWNER/NAME, files hf//path/to/folder with the "
        "config.json beside them"
    )


def describe(spec: Spec) -> dict[str, Any]:
    """What is known about a model type without building it."""
    config = configuration(spec.name)
    size = image_size(config) or _SIZES.get(spec.name, _SIZE)
    return {
        "architecture": spec.name,
        "family": family(spec.name),
        "weights": f"random initialisation, seed {spec.seed}",
        "input_size": [channels(config), size, size],
        **_preprocessing(spec.name),
        "num_classes": config.num_labels if spec.name in _CLASSIFIERS else None,
        "license": None,
        "method": "none",
        "pretraining_data": None,
    }


def build(spec: Spec, input_size: int | None) -> Source:
    """The model type at its default config with random weights."""
    info = describe(spec)
    own = info["input_size"][1]
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed or 0)
            module, found = make(spec.name, input_size)
    except LibraryError as e:
        if input_size in (None, own):
            raise SpecError(f"model {str(spec)!r}: {e}") from e
        raise refuse_size(spec, int(input_size or own), (own, own), lambda s: works(spec.name, s)) from e
    except SpecError as e:
        raise SpecError(f"model {str(spec)!r}: {e}") from e
    return Source(module, {**info, **found})


def parameters(spec: Spec) -> int:
    """The number of parameters of the image half, counted without allocating them where that is possible."""
    with contextlib.suppress(LibraryError), torch.device("meta"):
        return sum(p.numel() for p in make(spec.name)[0].parameters())
    return sum(p.numel() for p in make(spec.name)[0].parameters())


class LibraryError(SpecError):
    """The library itself cannot build a model type, or not run it at that size."""


def make(
    name: str, size: int | None = None, config: transformers.PreTrainedConfig | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """A model type's random module, and what `wrap` says of it; `config` stands for its default config.

    Raises:
      SpecError: it is not an encoder of images alone.
      LibraryError: the library cannot build or run it.
    """
    config = config or configuration(name, size)
    try:
        with _quiet():
            # A text tower is not kept: the least that can be built.
            text: Any = getattr(config, "text_config", None)
            if getattr(text, "num_hidden_layers", None) and name not in _CLASSIFIERS:
                text.num_hidden_layers = 1
            config = config.vision_config if name in _VISION_MODELS else config
            return wrap(_class(name)._from_config(config).eval(), size=size or _SIZES.get(name))
    except (SpecError, MemoryError):
        raise
    except Exception as e:  # each type's own code says in its own way what it cannot do
        if other := not_square_images(config):
            raise SpecError(f"{name} takes {other}, and models are shown square images") from e
        reason = " ".join(f"{type(e).__name__}: {e}".split())[:200]
        raise LibraryError(f"transformers itself cannot run it at its default config ({reason})") from e


def works(name: str, size: int) -> bool:
    """Whether a model type takes images of that size."""
    try:
        with torch.device("meta"):
            make(name, size)
    except SpecError:
        return False
    return True


def configuration(
    name: str, size: int | None = None, changes: Mapping[str, Any] | None = None
) -> transformers.PreTrainedConfig:
    """A model type's default config, for images of `size` pixels where it has a size.

    `changes` are other values of fields that it or its vision tower has; TypeError: it has no such field.
    """
    made: Any = transformers.CONFIG_MAPPING[name]
    with _quiet():
        config = made()
        vision: Any = getattr(config, "vision_config", None)
        if changes and all(hasattr(vision, k) for k in changes):
            config = made(vision_config={**vision.to_dict(), **changes})
        elif changes and all(hasattr(config, k) for k in changes):
            config = made(**changes)
        elif changes:
            raise TypeError(f"{type(config).__name__} does not have {', '.join(changes)}")
    for owner in owners(config):
        if size is not None and getattr(owner, "image_size", None) is not None:
            owner.image_size = [size, size] if isinstance(owner.image_size, (list, tuple)) else size
    return config


def family(name: str) -> str:
    """The module that defines a model type, such as "clip" for "clip_vision_model"."""
    return _class(name).__module__.split(".")[-2]


def _class(name: str) -> Any:
    if name in _VISION_MODELS:
        return getattr(transformers, _VISION_MODELS[name])
    found = next(table[name] for table in (_CLASSIFIERS, _MODELS, _BACKBONES) if name in table)
    return getattr(transformers, found if isinstance(found, str) else found[0])


def _preprocessing(name: str) -> dict[str, Any]:
    """mean, std, interpolation and crop of a type's own image processor as it is without a repository's settings."""
    base = next((name.removesuffix(end) for end in _VISION if name.endswith(end)), name)
    processor: Any = None
    with contextlib.suppress(AttributeError, ImportError, KeyError, TypeError, ValueError), _quiet():
        classes = image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES[base]
        processor = getattr(transformers, classes["torchvision"])()
    if processor is None or len(getattr(processor, "image_mean", None) or ()) != 3:
        return {
            "mean": list(_MEAN), "std": list(_STD), "interpolation": "bilinear", "crop_pct": 1.0,
            "crop_mode": "squash", "preprocessing": "the library has none for this type: mean and std 0.5",
        }  # fmt: skip
    normalised = processor.do_normalize
    crop = (
        _side(getattr(processor, "crop_size", None)) if getattr(processor, "do_center_crop", False) else None
    )
    resized = _side(processor.size)
    return {
        "mean": [float(v) for v in processor.image_mean] if normalised else [0.0] * 3,
        "std": [float(v) for v in processor.image_std] if normalised else [1.0] * 3,
        "interpolation": Resampling(processor.resample or Resampling.BILINEAR).name.lower(),
        "crop_pct": crop / resized if crop and resized else getattr(processor, "crop_pct", None) or 1.0,
        "crop_mode": "center" if crop and resized else "squash",
        "preprocessing": f"defaults of {type(processor).__name__}",
    }


def _side(size: Any) -> int | None:
    """The shorter side of a processor's size, which it holds in several forms."""
    if isinstance(size, int) or size is None:
        return size
    found = size.get if isinstance(size, dict) else functools.partial(getattr, size)
    return found("shortest_edge", None) or found("height", None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's warnings about configs that nobody has written."""
    logging: Any = importlib.import_module("transformers.utils.logging")
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
