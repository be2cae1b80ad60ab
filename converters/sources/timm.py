"""timm: every architecture, and every set of weights that its pretrained_cfg names."""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import importlib
import inspect
import io
from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch
from torch import nn

from vtabjax.specs import Spec, SpecError

from ..checkpoints import building
from . import Source, did_you_mean
from .download import downloading
from .provenance import provenance
from .size import refuse_size, runs_at


@functools.cache
def _architectures() -> list[str]:
    return timm.list_models()


@functools.cache
def _pretrained() -> list[str]:
    return timm.list_pretrained()


def names(spec: Spec) -> list[str]:
    """Names that match: architectures for @random, sets of weights with their tags otherwise."""
    if spec.random:
        return fnmatch.filter(_architectures(), spec.name)
    return fnmatch.filter(_pretrained(), f"{spec.name}.{spec.tag or '*'}")


def check(spec: Spec) -> None:
    """Raises SpecError unless timm has the architecture and, where they are wanted, the weights."""
    if spec.name not in _architectures():
        raise did_you_mean(spec, "architecture", spec.name, _architectures())
    if spec.random:
        return
    if spec.file is not None:
        building.check(spec)
        return
    tags = [n.partition(".")[2] for n in _pretrained() if n.partition(".")[0] == spec.name]
    if not tags:
        raise SpecError(
            f"model {str(spec)!r}: timm publishes no weights for {spec.name}; "
            f"write timm/{spec.name}@random or timm/{spec.name}@/path/to/weights"
        )
    if spec.tag and spec.tag not in tags:
        raise SpecError(
            f"model {str(spec)!r}: timm/{spec.name} has no weights {spec.tag!r}; it has {', '.join(tags)}"
        )


def describe(spec: Spec) -> dict[str, Any]:
    """What is known about a model without building it."""
    cfg = config(_full_name(spec))
    if spec.random:
        weights, license, method, data = f"random initialisation, seed {spec.seed}", None, "none", None
    elif spec.file is not None:
        weights, license, method, data = None, None, None, None
    else:
        weights = f"timm {spec.name}" + (f".{cfg.tag}" if cfg.tag else "")
        license = cfg.license
        method, data = provenance(cfg.tag or "")
    return {
        "architecture": spec.name,
        "family": family(spec.name),
        "weights": weights,
        "input_size": list(cfg.input_size),
        "mean": [float(v) for v in cfg.mean],
        "std": [float(v) for v in cfg.std],
        "interpolation": cfg.interpolation,
        "crop_pct": float(cfg.crop_pct),
        "crop_mode": cfg.crop_mode,
        "num_classes": cfg.num_classes or None,
        "license": license,
        "method": method,
        "pretraining_data": data,
    }


def build(spec: Spec, input_size: int | None) -> Source:
    """The architecture with the weights that the spec asks for."""
    info = describe(spec)
    channels, height, width = info["input_size"]
    options: dict[str, Any] = {}
    if input_size is not None and (height, width) != (input_size, input_size):
        resized = size_options(spec.name, input_size)
        if resized is None:
            raise refuse_size(
                spec, input_size, (height, width), lambda s: size_options(spec.name, s) is not None
            )
        options = resized
        info["input_size"] = [channels, input_size, input_size]
    if spec.random:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)
            module = timm.create_model(spec.name, **options)
    elif spec.file is not None:
        module, found = building.build(
            spec,
            functools.partial(timm.create_model, spec.name, **options),
            _heads(spec),
            rename=_renaming(spec.name, options),
        )
        info.update(found)
    else:
        with downloading(spec, hub=bool(config(_full_name(spec)).hf_hub_id)):
            module = _pretrained_model(spec, input_size, options)
    info["num_classes"] = module.num_classes or None
    info["pooling"] = pooling(module)
    if options:  # what a state_dict of the converted model needs to be loaded
        info["arguments"] = options
    return Source(module, info)


def pooling(module: nn.Module) -> str | None:
    """How an architecture of timm makes one vector of tokens or of a map: "avg", "token", ...; None: unknown."""
    for owner in (module, getattr(module, "head", None)):
        found = getattr(owner, "global_pool", None)
        found = found if isinstance(found, str) else getattr(found, "pool_type", None)
        if isinstance(found, str):
            return found or "none"
    return None


class _Renaming:
    """timm's own function from a release's tensors to its names. `method`: how it resamples positions."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        given = {k: p.default for k, p in inspect.signature(function).parameters.items()}
        if "interpolation" in given:
            self.method = f"{given['interpolation']}{', antialiased' * bool(given.get('antialias'))}"
        else:
            self.method = "as timm does"

    def __call__(self, state: dict[str, torch.Tensor], module: nn.Module) -> Any:
        with contextlib.redirect_stdout(io.StringIO()):  # some print what they do
            try:
                return self.function(state, module)
            except TypeError:
                return self.function(state)


def _renaming(name: str, options: dict[str, Any]) -> _Renaming | None:
    """What timm would pass an architecture's downloaded weights through; None where it takes them as they are."""
    # Each family hands its function to one loader, and nothing else names it.
    found: list[Callable[..., Any] | None] = []
    builder: Any = importlib.import_module("timm.models._builder")
    loader = builder.load_pretrained

    def remember(*args: Any, filter_fn: Callable[..., Any] | None = None, **kwargs: Any) -> None:
        found.append(filter_fn)

    builder.load_pretrained = remember
    try:
        with torch.device("meta"):
            timm.create_model(name, pretrained=True, **options)
    except RuntimeError:  # no weights were ever published
        return None
    finally:
        builder.load_pretrained = loader
    return _Renaming(found[0]) if found and found[0] is not None else None


def skeleton(spec: Spec, input_size: int | None) -> nn.Module:
    """The architecture without weights."""
    own = config(_full_name(spec)).input_size[1:]
    options: dict[str, Any] = {}
    if input_size is not None and own != (input_size, input_size):
        resized = size_options(spec.name, input_size)
        if resized is None:
            raise refuse_size(spec, input_size, own, lambda s: size_options(spec.name, s) is not None)
        options = resized
    with torch.device("meta"):
        return timm.create_model(spec.name, **options)


def parameters(spec: Spec) -> int:
    """The number of parameters, counted without allocating them."""
    with torch.device("meta"):
        return sum(p.numel() for p in timm.create_model(spec.name).parameters())


def _heads(spec: Spec) -> tuple[str, ...]:
    names = config(_full_name(spec)).classifier or ()
    return (names,) if isinstance(names, str) else tuple(names)


def config(name: str) -> Any:
    """timm's configuration of an architecture, or of the weights where the name has a tag."""
    return timm.get_pretrained_cfg(name)


def family(name: str) -> str:
    """The module that defines an architecture, such as "vision_transformer"."""
    return timm.models.model_entrypoint(name).__module__.rpartition(".")[2]


def _full_name(spec: Spec) -> str:
    return spec.name if spec.tag is None else f"{spec.name}.{spec.tag}"


def _pretrained_model(spec: Spec, input_size: int | None, options: dict[str, Any]) -> nn.Module:
    try:
        return timm.create_model(_full_name(spec), pretrained=True, **options)
    except RuntimeError as e:
        if options and "size mismatch" in str(e):
            raise SpecError(
                f"model {str(spec)!r}: its weights do not fit {input_size} pixels; leave the input size out"
            ) from e
        raise


def size_options(name: str, size: int, given: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """What create_model needs for another image size: an img_size, nothing, or None if it cannot take it.

    `given`: its arguments beside that.
    """
    candidates: tuple[dict[str, Any], ...] = ({"img_size": size}, {})
    for options in candidates:
        try:
            with torch.device("meta"):
                module = timm.create_model(name, **{**(given or {}), **options}).eval()
        except TypeError as e:
            if options and "img_size" in str(e):
                continue  # it takes no img_size
            return None
        except (AssertionError, RuntimeError, ValueError):
            return None
        return options if runs_at(module, size) else None
    return None
