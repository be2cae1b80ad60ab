"""Repositories that timm wrote: config.json with an architecture and its pretrained_cfg."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import timm
import torch
from timm.data import resolve_data_config
from timm.models import PretrainedCfg
from torch import nn

from vtabjax import specs
from vtabjax.specs import SpecError

from ..sources import Source
from ..sources import timm as own_source
from ..sources.provenance import provenance
from ..sources.size import refuse_size
from .repository import Repository

# Arguments of create_model that a repository may not set: they name other files, or turn off what makes sure that all
# weights are loaded.
_NOT_ARGUMENTS = frozenset(
    "cache_dir checkpoint_path exportable feature_cfg feature_cls features_only kwargs_filter model_cfg no_jit "
    "pretrained pretrained_cfg pretrained_cfg_overlay pretrained_filter_fn pretrained_model_args pretrained_strict "
    "scriptable".split()
)
_WRAPPED = "timm_model."  # what transformers' TimmWrapper puts before every name


class _Config(NamedTuple):
    architecture: str
    arguments: dict[str, Any]
    pretrained: dict[str, Any]


def describe(repository: Repository) -> dict[str, Any]:
    """What config.json says of the model."""
    config = _config(repository)
    data = resolve_data_config(pretrained_cfg=config.pretrained)
    tag = config.pretrained.get("tag") or repository.spec.name.partition(".")[2]
    # A tag stays in the config of what was trained further: only in timm's own repositories it tells the training.
    official = repository.commit is not None and repository.spec.name.startswith("timm/")
    method, pretraining_data = provenance(tag) if official else (None, None)
    return {
        "architecture": config.architecture,
        "family": own_source.family(config.architecture),
        "input_size": list(data["input_size"]),
        "mean": [float(v) for v in data["mean"]],
        "std": [float(v) for v in data["std"]],
        "interpolation": data["interpolation"],
        "crop_pct": float(data["crop_pct"]),
        "crop_mode": data["crop_mode"],
        "preprocessing": "pretrained_cfg of its config.json",
        "num_classes": config.arguments.get("num_classes", config.pretrained.get("num_classes")) or None,
        "license": config.pretrained.get("license"),
        "method": method,
        "pretraining_data": pretraining_data,
    }


def build(repository: Repository, input_size: int | None) -> Source:
    """The architecture with the repository's weights, or with random ones."""
    config, info = _config(repository), describe(repository)
    channels, height, width = info["input_size"]
    options: dict[str, Any] = {}
    if input_size is not None and (height, width) != (input_size, input_size):
        fits = functools.partial(own_source.size_options, config.architecture, given=_given(config))
        found = fits(input_size)
        if found is None:
            raise refuse_size(repository.spec, input_size, (height, width), lambda s: fits(s) is not None)
        options = found
        info["input_size"] = [channels, input_size, input_size]
    if repository.spec.random:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(repository.spec.seed or 0)
            module = _create(repository, config, options)
    else:
        module = _create(repository, config, options, _plain_names(repository.state("timm")))
        if options:
            info["notes"] = [
                f"made for images of {height} pixels; timm resampled its positions to {input_size}"
            ]
    info["num_classes"] = getattr(module, "num_classes", 0) or None
    info["pooling"] = own_source.pooling(module)
    return Source(module, info)


def parameters(repository: Repository) -> int:
    """The number of parameters, counted without allocating them."""
    with torch.device("meta"):
        module = _create(repository, _config(repository), {})
    return sum(p.numel() for p in module.parameters())


def _config(repository: Repository) -> _Config:
    """The fields of config.json, which older versions of timm wrote without pretrained_cfg."""
    fields = dict(repository.json("config.json") or {})
    architecture, arguments = fields.get("architecture"), fields.get("model_args") or {}
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        near = specs.nearest(str(architecture), timm.list_models())
        hint = f"; near ones are {', '.join(near)}" if near else ""
        raise repository.error(
            f"the installed timm has no architecture {architecture!r}, its config.json's{hint}"
        )
    pretrained = fields.get("pretrained_cfg", fields)
    if not isinstance(arguments, dict) or not isinstance(pretrained, dict):
        raise repository.error("model_args and pretrained_cfg of its config.json have to be objects")
    refused = sorted(_NOT_ARGUMENTS & set(arguments))
    if refused:
        raise repository.error(
            f"model_args of its config.json sets {', '.join(refused)}, which a model may not"
        )
    known = {f.name for f in dataclasses.fields(PretrainedCfg)}
    # Where the weights come from is not the config's to say.
    known -= {"url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load"}
    pretrained = {k: v for k, v in pretrained.items() if k in known and v is not None}
    if "num_classes" in fields:
        pretrained["num_classes"] = fields["num_classes"]
    return _Config(architecture, arguments, {**pretrained, "architecture": architecture})


def _given(config: _Config) -> dict[str, Any]:
    return {**config.arguments, "pretrained_cfg": config.pretrained}


def _create(
    repository: Repository,
    config: _Config,
    options: dict[str, Any],
    state: dict[str, torch.Tensor] | None = None,
) -> nn.Module:
    pretrained = config.pretrained if state is None else {**config.pretrained, "state_dict": state}
    given = {**config.arguments, **options, "pretrained_cfg": pretrained}
    try:
        return timm.create_model(config.architecture, pretrained=state is not None, **given)
    except (TypeError, ValueError, AssertionError, KeyError, RuntimeError) as e:
        raise _refused(repository, config, e, state is not None) from e


def _refused(repository: Repository, config: _Config, error: Exception, loading: bool) -> SpecError:
    reason = " ".join(str(error).split())[:300]
    if loading and isinstance(error, RuntimeError):
        return repository.error(
            f"its weights are not those of {config.architecture} with the arguments of its config.json ({reason})"
        )
    return repository.error(f"timm cannot build {config.architecture} with its config.json ({reason})")


def _plain_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if all(name.startswith(_WRAPPED) for name in state):
        return {name.removeprefix(_WRAPPED): value for name, value in state.items()}
    return state
