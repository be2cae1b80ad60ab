"""torchvision: its classification builders and their weight enums."""

from __future__ import annotations

import fnmatch
import functools
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models import get_model_builder, get_model_weights
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from vtabjax.specs import Spec, SpecError

from ..checkpoints import building
from . import Source, did_you_mean
from .download import downloading
from .size import refuse_size, runs_at


@functools.cache
def _architectures() -> list[str]:
    return torchvision.models.list_models(module=torchvision.models)


def _weights(name: str) -> list[str]:
    """Names of complete sets of weights, without the alias DEFAULT; one of VGG's is without a classifier."""
    return [w.name for w in get_model_weights(name) if w.meta["categories"]]


def names(spec: Spec) -> list[str]:
    """Names that match: architectures for @random, weight enums (``resnet50.IMAGENET1K_V2``) otherwise."""
    found = fnmatch.filter(_architectures(), spec.name)
    if spec.random:
        return found
    return [f"{name}.{w}" for name in found for w in fnmatch.filter(_weights(name), spec.tag or "*")]


def check(spec: Spec) -> None:
    """Raises SpecError unless torchvision has the builder and, where they are wanted, the weights."""
    if spec.name not in _architectures():
        raise did_you_mean(spec, "architecture", spec.name, _architectures())
    if spec.file is not None:
        building.check(spec)
    elif spec.tag and spec.tag not in [*_weights(spec.name), "DEFAULT"]:
        have = ", ".join(_weights(spec.name))
        raise SpecError(
            f"model {str(spec)!r}: torchvision/{spec.name} has no weights {spec.tag!r}; it has {have}"
        )


def describe(spec: Spec) -> dict[str, Any]:
    """What is known about a model without building it: images are as the weights' transforms want them."""
    weights = _enum(spec)
    transforms = weights.transforms()
    (crop,) = transforms.crop_size
    (resize,) = transforms.resize_size
    info = {
        "architecture": spec.name,
        "family": family(spec.name),
        "weights": f"torchvision {spec.name}.{weights.name}",
        "input_size": [3, crop, crop],
        "mean": [float(v) for v in transforms.mean],
        "std": [float(v) for v in transforms.std],
        "interpolation": transforms.interpolation.value,
        "crop_pct": crop / resize,
        "crop_mode": "center",
        "num_classes": len(weights.meta["categories"]),
        "imagenet_top1": weights.meta["_metrics"].get("ImageNet-1K", {}).get("acc@1"),
        **_provenance(weights),
    }
    if spec.random or spec.file:
        info.update(weights=None, license=None, method=None, pretraining_data=None, imagenet_top1=None)
    if spec.random:
        info.update(weights=f"random initialisation, seed {spec.seed}", method="none")
    return info


def build(spec: Spec, input_size: int | None) -> Source:
    """The builder's module with the weights that the spec asks for."""
    info = describe(spec)
    own = info["input_size"][1]
    size = input_size or own
    info["input_size"] = [3, size, size]
    if size != own and not works(spec.name, size):
        raise refuse_size(spec, size, (own, own), lambda candidate: works(spec.name, candidate))
    if spec.random:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)
            module = make(spec.name, size)
    elif spec.file is not None:
        architecture = functools.partial(make, spec.name, size)
        module, found = building.build(
            spec, architecture, (_classifier(spec.name),), _AUXILIARY, rename=_resample_positions
        )
        info.update(found)
    else:
        with downloading(spec):
            module = _pretrained(spec, _enum(spec), size, own)
    info["pooling"] = "token" if spec.name.startswith("vit_") else "avg"
    return Source(module, info)


def _resample_positions(state: dict[str, torch.Tensor], module: nn.Module) -> dict[str, torch.Tensor] | None:
    """A ViT's position embedding for the module's image size, as torchvision does it."""
    key = "encoder.pos_embedding"
    if key not in state or not isinstance(module, VisionTransformer):
        return None
    old = {key: state[key].float()}
    return {**state, key: interpolate_embeddings(module.image_size, module.patch_size, old)[key]}


_resample_positions.method = "bicubic"  # type: ignore[attr-defined]


def skeleton(spec: Spec, input_size: int | None) -> nn.Module:
    """The architecture without weights."""
    size = input_size or describe(spec)["input_size"][1]
    try:
        with torch.device("meta"):
            return make(spec.name, size)
    except RuntimeError:  # regnets look at numbers while they are built
        return make(spec.name, size)


def parameters(spec: Spec) -> int:
    """The number of parameters, as torchvision states it."""
    return _enum(spec).meta["num_params"]


def family(name: str) -> str:
    """The module that defines an architecture, such as "resnet"."""
    return get_model_builder(name).__module__.rpartition(".")[2]


def _enum(spec: Spec) -> Any:
    enum = get_model_weights(spec.name)
    if spec.random or spec.file:
        # The recipe that the architecture was first published with; later ones resize to odd sizes.
        return min(enum, key=lambda w: w.transforms().crop_size[0])
    return enum[spec.tag or "DEFAULT"]


_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")


def make(name: str, size: int, num_classes: int | None = None) -> nn.Module:
    """The builder's module, random, without the auxiliary classifiers that only training uses.

    num_classes 0 leaves the classifier out, None keeps torchvision's own number.
    """
    kwargs: dict[str, Any] = {"num_classes": num_classes} if num_classes else {}
    if name.startswith("vit_"):
        kwargs["image_size"] = size
    elif name.startswith("maxvit"):
        kwargs["input_size"] = (size, size)
    elif name in ("googlenet", "inception_v3"):
        kwargs["init_weights"] = True
    module = _without_auxiliary(get_model_builder(name)(weights=None, **kwargs))
    if num_classes == 0:
        module.set_submodule(_classifier(name), nn.Identity())
    return module


@functools.cache
def _classifier(name: str) -> str:
    """The name of an architecture's last layer with classes, a linear one but for SqueezeNet."""
    try:
        with torch.device("meta"):
            module = make(name, own_size(name))
    except RuntimeError:  # regnets look at numbers while they are built
        module = make(name, own_size(name))
    layers = {k: m for k, m in module.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    classes = [k for k, m in layers.items() if (getattr(m, "out_features", None) or m.out_channels) == 1000]
    return classes[-1]


def own_size(name: str) -> int:
    """The smallest image size that torchvision publishes weights for."""
    return min(w.transforms().crop_size[0] for w in get_model_weights(name))


def _without_auxiliary(module: Any) -> nn.Module:
    if getattr(module, "aux_logits", False):
        module.aux_logits = False
        for name in _AUXILIARY:
            if hasattr(module, name[:-1]):
                setattr(module, name[:-1], None)
    return module


def _pretrained(spec: Spec, weights: Any, size: int, own: int) -> nn.Module:
    if size == own or not spec.name.startswith(("vit_", "maxvit")):
        return _without_auxiliary(get_model_builder(spec.name)(weights=weights))
    module = make(spec.name, size)
    state = weights.get_state_dict(check_hash=True)
    if spec.name.startswith("vit_"):
        state = interpolate_embeddings(size, module.patch_size, state)
    try:
        module.load_state_dict(state)
    except RuntimeError as e:
        raise SpecError(
            f"model {str(spec)!r}: its weights do not fit {size} pixels; leave the input size out"
        ) from e
    return module


def works(name: str, size: int) -> bool:
    """Whether the architecture takes images of that size."""
    try:
        with torch.device("meta"):
            module = make(name, size).eval()
    except (AssertionError, ValueError):
        return False
    except RuntimeError:  # regnets look at numbers while they are built
        module = make(name, size).eval()
    return runs_at(module, size)


def _provenance(weights: Any) -> dict[str, str]:
    if "SWAG" in weights.name:
        return {
            "license": "cc-by-nc-4.0",
            "method": "supervised",
            "pretraining_data": "Instagram-3.6B (hashtags), ImageNet-1k",
        }
    return {"license": "bsd-3-clause", "method": "supervised", "pretraining_data": "ImageNet-1k"}
