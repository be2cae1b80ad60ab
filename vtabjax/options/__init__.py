"""What the fields of a config may hold: types and ranges, read once before anything runs.

The comments in configs/ say what a field is for; the classes here say what it may be. `read` turns a config into one
of them or names the field, its value and what it may be instead.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from vtabjax.options._rules import (
    Conditions,
    Each,
    OneOf,
    Pattern,
    Range,
    Rule,
    Some,
    Switch,
    Text,
    UsageError,
)
from vtabjax.specs import filters

T = TypeVar("T")

SUITES = ("mini", "vtab", "vtab_full")
RESIZE = ("vtab", "bilinear", "bicubic", "source")
DTYPES = ("float32", "bfloat16")
METRICS = ("euclidean", "cosine")
SCORES = (
    "leep",
    "nce",
    "nleep",
    "logme",
    "h_score",
    "regularized_h_score",
    "transrate",
    "gbc",
    "parc",
    "sfda",
)
OPTIMIZERS = ("sgd", "adam", "adamw", "lamb", "lion")
SCHEDULES = ("piecewise", "cosine", "constant")
AUGMENTATIONS = ("none", "flip", "crop", "crop+flip", "crop+flip+jitter")
SCOPES = ("all", "head", "bias", "norm", "lora", "prompt", "prompt_deep")
MAX_IMAGE_SIZE = 2048
_MAX_SEED = 2**31 - 1


_Line = Annotated[str, Text()]
_Flag = Annotated[bool, Switch()]
_Filter = Annotated[tuple[filters.Condition, ...], Conditions()]


# The fields.


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """What all sweeps share; see configs/common.py."""

    protocol: _Line
    suite: Annotated[str, OneOf(SUITES)]
    models: _Line
    filter: _Filter
    tasks: _Line
    group: Annotated[str, Pattern()]
    folds: Annotated[int, Range(2, 100, "", 0, "the usual cut")]
    image_size: Annotated[int, Range(8, MAX_IMAGE_SIZE, "pixels", 0, "each model's own")]
    resize: Annotated[str, OneOf(RESIZE)]
    features: Annotated[str, OneOf(("native", "auto"))]
    dtype: Annotated[str, OneOf(DTYPES)]
    skip_broken: _Flag
    background: _Line
    max_pixels: Annotated[int, Range(1, 100_000_000_000, "pixels")]
    seed: Annotated[int, Range(0, _MAX_SEED)]
    batch_size: Annotated[int, Range(1, 65_536, "images")]
    retry_failed: _Flag
    dry_run: _Flag
    distributed: _Flag
    device_images_gb: Annotated[float, Range(0, 10_000, "GB", -1, "what fits")]
    convert_timeout: Annotated[float, Range(0.1, 100_000, "minutes")]
    convert_memory_gb: Annotated[float, Range(0.1, 100_000, "GB", 0, "three quarters of what is free")]
    convert_ahead: Annotated[int, Range(0, 1_000, "models")]
    data_dir: _Line
    cache_dir: _Line
    models_dir: _Line


@dataclasses.dataclass(frozen=True)
class SlurmOptions:
    """Where --executor=slurm sends a sweep; see configs/common.py."""

    jobs: Annotated[int, Range(1, 10_000)]
    at_once: Annotated[int, Range(1, 10_000, "jobs", 0, "all")]
    partition: _Line
    account: _Line
    nodes: Annotated[int, Range(1, 10_000)]
    tasks: Annotated[int, Range(1, 1_000)]  # processes on each node
    gpus: Annotated[int, Range(0, 1_000)]  # of each node
    cpus: Annotated[int, Range(1, 10_000)]  # of each process
    memory_gb: Annotated[int, Range(1, 1_000_000, "GB", 0, "what the cluster gives")]
    minutes: Annotated[int, Range(1, 525_600, "minutes")]
    requeues: Annotated[int, Range(0, 10_000)]
    extra: _Line
    setup: _Line
    folder: _Line
    wait: _Flag


@dataclasses.dataclass(frozen=True)
class KnnOptions:
    """The fields of configs/knn.py."""

    k: Annotated[int, Range(1, 100_000)]
    metric: Annotated[tuple[str, ...], Some(METRICS)]


@dataclasses.dataclass(frozen=True)
class LinearOptions:
    """The fields of configs/linear.py."""

    c_min: Annotated[float, Range(1e-12, 1e12)]
    c_max: Annotated[float, Range(1e-12, 1e12)]
    c_count: Annotated[int, Range(1, 1_000)]


@dataclasses.dataclass(frozen=True)
class TransferabilityOptions:
    """The fields of configs/transferability.py."""

    scores: Annotated[tuple[str, ...], Some(SCORES)]
    nleep_seeds: Annotated[int, Range(1, 1_000)]
    pca_components: Annotated[int, Range(1, 100_000)]


@dataclasses.dataclass(frozen=True)
class FinetuneOptions:
    """The fields of configs/finetune.py under ``finetune``."""

    learning_rates: Annotated[tuple[float, ...], Each(Range(1e-12, 1e6))]
    steps: Annotated[tuple[int, ...], Each(Range(1, 100_000_000), empty=True)]
    epochs: Annotated[tuple[float, ...], Each(Range(0.001, 10_000), empty=True)]
    batch_size: Annotated[int, Range(1, 65_536, "examples")]
    optimizer: Annotated[str, OneOf(OPTIMIZERS)]
    momentum: Annotated[float, Range(0, 0.999999)]  # of sgd
    weight_decay: Annotated[tuple[float, ...], Each(Range(0, 1_000))]
    layer_decay: Annotated[float, Range(0.001, 1)]
    clip: Annotated[float, Range(0, 1e9)]  # norm of the gradient; 0: any
    label_smoothing: Annotated[float, Range(0, 0.999999)]
    ema: Annotated[float, Range(0, 0.999999)]
    schedule: Annotated[str, OneOf(SCHEDULES)]
    decay_at: Annotated[tuple[float, ...], Each(Range(1e-6, 0.999999), empty=True)]  # fractions of the steps
    decay_factor: Annotated[float, Range(1e-9, 1)]
    warmup: Annotated[int, Range(0, 100_000_000)]  # steps
    warmup_epochs: Annotated[float, Range(0, 10_000, "epochs")]
    augment: Annotated[str, OneOf(AUGMENTATIONS)]
    sampling: Annotated[str, OneOf(("epoch", "replacement"))]
    scope: Annotated[str, OneOf(SCOPES)]
    lora_rank: Annotated[int, Range(1, 65_536)]
    lora_alpha: Annotated[float, Range(1e-6, 1e6)]
    lora_layers: _Line
    prompt_tokens: Annotated[int, Range(1, 10_000, "tokens")]
    halving: Annotated[int, Range(2, 100, "", 0, "none")]
    hours: Annotated[float, Range(0, 100_000, "hours")]  # 0: no limit
    seeds: Annotated[tuple[int, ...], Each(Range(0, _MAX_SEED), distinct=True)]
    save: _Flag
    frozen_cache_gb: Annotated[float, Range(0, 10_000, "GB")]
    micro_batch: Annotated[int, Range(1, 65_536, "examples", 0, "the whole batch")]
    remat: _Flag


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """The fields of configs/report.py."""

    suite: Annotated[str, OneOf(("html", "status", "pack"))]
    pack: _Line
    who: _Line
    licence: _Line
    title: _Line
    published: _Line
    imagenet: _Line
    reference: _Line
    score: Annotated[str, OneOf(("accuracy", "balanced_accuracy"))]
    filter: _Filter
    resamples: Annotated[int, Range(100, 100_000)]
    seed: Annotated[int, Range(0, _MAX_SEED)]
    tie_margin: Annotated[float, Range(0, 99)]  # points of accuracy
    example_rounds: Annotated[int, Range(1, 10_000, "", 0, "a round per task")]
    figures: _Flag
    models_dir: _Line


@dataclasses.dataclass(frozen=True)
class PrepareOptions:
    """The fields of configs/prepare.py."""

    suite: Annotated[str, OneOf(SUITES)]
    tasks: _Line
    check: _Flag
    data_dir: _Line
    manual_dir: _Line
    file_format: Annotated[str, OneOf(("array_record", "tfrecord"))]


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """The fields of configs/data.py."""

    suite: Annotated[str, OneOf(("mini", "vtab"))]
    tasks: _Line
    group: Annotated[str, Pattern()]
    image_size: Annotated[int, Range(8, MAX_IMAGE_SIZE, "pixels")]
    resize: Annotated[str, OneOf(("vtab", "bilinear", "bicubic"))]
    background: _Line
    max_pixels: Annotated[int, Range(1, 100_000_000_000, "pixels")]
    per_class: Annotated[int, Range(0, 1_000, "pictures")]
    seed: Annotated[int, Range(0, _MAX_SEED)]
    data_dir: _Line
    cache_dir: _Line


# Reading.


def rules(kind: type) -> dict[str, tuple[type, Rule]]:
    """The fields of one of the classes above: name -> (the type of a value, what it may be)."""
    found = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        base, rule = typing.get_args(hint)
        inner = typing.get_args(base)  # tuple[float, ...]
        found[name] = (inner[0] if inner else base, rule)
    return found


def read(kind: Callable[..., T], config: Mapping[str, Any], section: str = "") -> T:
    """The fields of a config that one of the classes above names, checked.

    Args:
      kind: the class.
      config: a config; see configs/.
      section: the field of the config that holds them, "" for the config itself.

    Raises:
      UsageError: a field is missing, of another type or out of its range.
    """
    prefix = f"config.{section}." if section else "config."
    own: Mapping[str, Any] = (config.get(section) or {}) if section else config
    fields = rules(typing.cast(type, kind))
    missing = [n for n in fields if n not in own]
    if missing:
        protocol = config.get("protocol")
        raise UsageError(
            f"config.protocol={protocol!r} needs fields that this config lacks "
            f"({', '.join(prefix.removeprefix('config.') + n for n in missing)}); "
            f"use --config=configs/{protocol}.py"
        )
    values = {n: rule.take(prefix + n, own[n], base) for n, (base, rule) in fields.items()}
    return kind(**values)
