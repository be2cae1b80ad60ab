"""Where torch modules come from: a model spec becomes a module and what is known about it.

Each module named in SOURCES has the same functions: `names`, `check`, `describe`, `parameters`, `build`, and
perhaps `skeleton`. Packages may add others (`plugins`).
"""

from __future__ import annotations

import fnmatch
import importlib
import logging
from typing import Any, NamedTuple

from torch import nn

from vtabjax import installation, specs
from vtabjax.specs import Spec, SpecError

from . import plugins

_log = logging.getLogger(__name__)
SOURCES = (
    "timm", "torchvision", "hf", "transformers", "open_clip", "openselfsup",
    "python", "file", "embedded", "baseline"
)  # fmt: skip
# What each needs beside PyTorch, torchvision and timm: of the extra "hub".
_EXTRA_PACKAGES = {"transformers": "transformers", "open_clip": "open_clip"}
_KEYS = (
    "architecture", "family", "weights", "interpolation", "crop_pct", "crop_mode", "num_classes", "license", "method",
    "pretraining_data",
)  # fmt: skip
LIST_COMMAND = f"{installation.converters_command()} list"


class Source(NamedTuple):
    """A torch module and what is known about it.

    Attributes:
      module: in evaluation mode, float32, on the CPU.
      info: JSON-able: spec, source, architecture, family (the module that defines it), weights (description),
        imagenet_top1 (percent, where the source states it), input_size [C, H, W], mean, std,
        interpolation, crop_pct, crop_mode, num_classes (None without a classifier), license, method
        ("supervised", "self-supervised", "semi-supervised", "image-text", "generative" or "none"; None where
        unknown), pretraining_data (None where unknown); for a checkpoint file also layout and dropped_keys.
    """

    module: nn.Module
    info: dict[str, Any]


def build(spec: str | Spec, input_size: int | None = None) -> Source:
    """The torch module a spec names, with its weights.

    Args:
      spec: a model spec without a pattern.
      input_size: height and width of the images, or None for the size the weights were made for.

    Raises:
      SpecError: the spec names nothing there is, its weights cannot be had, or it cannot take that size.
    """
    spec = check(spec)
    if input_size is not None and input_size < 1:
        raise SpecError(f"model {spec}: the input size {input_size} is not a positive number of pixels")
    module, info = _module(spec.source).build(spec, input_size)
    return Source(module.eval().float(), {**_named(spec), **_complete(spec, info)})


def check(spec: str | Spec) -> Spec:
    """Takes a spec apart and makes sure that it names something, without building or downloading anything.

    Raises:
      SpecError: it does not; the message has the nearest names.
    """
    if not isinstance(spec, Spec):
        if specs.is_pattern(spec):
            raise SpecError(f"model {spec!r} is a pattern; {LIST_COMMAND} '{spec}' lists what it stands for")
        spec = specs.parse(spec)
    _known(spec)
    _module(spec.source).check(spec)
    return spec


def describe(spec: str | Spec, *, listed: bool = False) -> dict[str, Any]:
    """What `build` would say in `Source.info`, as far as it is known without building anything.

    Args:
      spec: a model spec without a pattern.
      listed: it comes from `list_models`, so it exists, but it may lack the file that building it takes.

    Raises:
      SpecError: the spec names nothing there is.
    """
    spec = specs.parse(str(spec)) if listed else check(spec)
    return {**_named(spec), **_complete(spec, _module(spec.source).describe(spec))}


def _complete(spec: Spec, info: dict[str, Any]) -> dict[str, Any]:
    return info if spec.source in SOURCES else plugins.complete(info, _KEYS, spec.source)


def _named(spec: Spec) -> dict[str, Any]:
    return {"spec": str(spec), "source": spec.source, "imagenet_top1": None}


def parameters(spec: str | Spec, *, listed: bool = False) -> int:
    """How many parameters a model has. Allocates none, but takes up to a few seconds. `listed`: see `describe`."""
    spec = specs.parse(str(spec)) if listed else check(spec)
    return _module(spec.source).parameters(spec)


def skeleton(spec: str | Spec, input_size: int | None = None) -> nn.Module:
    """A model on the meta device: shapes without numbers.

    Its weights are not needed where its source has a function `skeleton` or takes @random for it.

    Args:
      spec: a model spec without a pattern.
      input_size: height and width of the images, or None for the size the weights were made for.

    Raises:
      SpecError: as `build`.
    """
    spec = check(spec)
    own = getattr(_module(spec.source), "skeleton", None)
    module = build(_random(spec), input_size).module if own is None else own(spec, input_size)
    return module.to("meta").eval().requires_grad_(False)


def _random(spec: Spec) -> Spec:
    """The same architecture with random weights, or the spec itself where its source has none."""
    try:
        return check(spec._replace(tag=None, file=None, seed=spec.seed or 0))
    except SpecError:
        return spec


def list_models(pattern: str) -> list[str]:
    """The specs a pattern stands for, sorted.

    ``timm/resnet*`` gives every published set of weights with its tag, ``timm/resnet*@random`` every
    architecture. Text without ``*?[`` is returned as it is, once it is known to exist.

    Raises:
      SpecError: nothing matches.
    """
    if not specs.is_pattern(pattern):
        return [str(check(pattern))]
    spec = specs.parse(pattern)
    if spec.file is not None:
        raise SpecError(f"model {pattern!r}: a weight file belongs to one architecture; write its name")
    _known(spec)
    found = []
    for source in fnmatch.filter(available(), spec.source):
        if source != spec.source and _missing(source):
            continue
        try:
            found += [f"{source}/{name}{spec.suffix}" for name in _module(source).names(spec)]
        except SpecError as e:
            if source in SOURCES or source == spec.source:
                raise
            _log.warning("%s", e)  # a package that does not work takes no other source with it
    if not found:
        everything = f"{LIST_COMMAND} '{spec.source}/*'"
        raise SpecError(f"model pattern {pattern!r} matches nothing; {everything} lists what there is")
    return sorted(found)


def available() -> tuple[str, ...]:
    """The names of all sources: the project's own and those that installed packages add."""
    return (*SOURCES, *plugins.found(SOURCES)[0])


def _known(spec: Spec) -> None:
    names = available()
    if fnmatch.filter(names, spec.source):
        return
    near = " or ".join(specs.nearest(spec.source, names) or names)
    problems = "".join(f"; {problem}" for problem in plugins.found(SOURCES)[1])
    raise SpecError(
        f"model {str(spec)!r}: there is no source {spec.source!r}; did you mean {near}?{problems}"
    )


def _missing(source: str) -> bool:
    return source in _EXTRA_PACKAGES and bool(installation.absent("hub", _EXTRA_PACKAGES[source]))


def _module(source: str) -> Any:
    if source not in SOURCES:
        return plugins.load(plugins.found(SOURCES)[0][source])
    if _missing(source):
        try:
            installation.require("hub", f"a model of {source}", _EXTRA_PACKAGES[source])
        except installation.MissingExtraError as e:
            raise SpecError(str(e)) from e
    return importlib.import_module(f"{__name__}.{source}")


def did_you_mean(spec: Spec, what: str, name: str, names: list[str]) -> SpecError:
    """The error for a name that a source does not have."""
    near = specs.nearest(name, names)
    everything = f"{LIST_COMMAND} '{spec.source}/*{'@random' if spec.random else ''}' lists them"
    hint = f"did you mean {' or '.join(near)}?" if near else everything
    return SpecError(f"model {str(spec)!r}: {spec.source} has no {what} {name!r}; {hint}")
