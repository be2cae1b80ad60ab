"""What a report is about: models, and boards of numbers that were made alike."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vtabjax import tasks

PROTOCOLS = {
    "finetune": "Fine-tuning",
    "linear": "Linear evaluation",
    "knn": "Nearest neighbours",
    "transferability": "Transferability scores",
}

# What is trained in fine-tuning, where that is not everything.
SCOPES = {
    "head": "head only",
    "bias": "biases only",
    "norm": "norms only",
    "lora": "LoRA",
    "prompt": "prompt tokens",
    "prompt_deep": "prompt tokens in every block",
}


# What a model's training is called that has none.
RANDOM, NO_NETWORK = "random weights", "no network"

# Transferability scores as their papers write them.
SCORE_NAMES = {
    "leep": "LEEP",
    "nce": "NCE",
    "nleep": "N-LEEP",
    "logme": "LogME",
    "h_score": "H-score",
    "regularized_h_score": "regularised H-score",
    "transrate": "TransRate",
    "gbc": "GBC",
    "parc": "PARC",
    "sfda": "SFDA",
}


# The mean of the accuracies on each class, as results call it.
BALANCED = "balanced_accuracy"

# Classes of models by their number of parameters: (below how many, name).
SIZES = ((10e6, "< 10 M"), (50e6, "10-50 M"), (200e6, "50-200 M"), (math.inf, "> 200 M"))


@dataclasses.dataclass(frozen=True)
class Model:
    """What is known about a model.

    Attributes:
      label: its name in the report: the spec, with its weights' hash where one spec had several weights.
      spec: the spec.
      method: how it was trained: "supervised", "self-supervised", ...; `RANDOM`; `NO_NETWORK` for the pixels
        themselves; "unknown".
      family: the module that defines its architecture.
      architecture: its name in its library.
      parameters: how many; None where unknown.
      gflops: thousand millions of floating-point operations for one image; None where unknown.
      license: of its weights; "" where unknown.
      num_features: width of the features; None where unknown.
      imagenet_top1: percent; None where unknown.
      pretraining_data: what it was trained on; "" where unknown.
      features: how they were made, in words; "" where unknown.
      images_per_second: the fastest of its passes over images, on `device`; None where none was timed.
      device: on which devices.
      source: of a published row, or who made a pack's and when; "" for ours.
    """

    label: str
    spec: str
    method: str = "unknown"
    family: str = "unknown"
    architecture: str = ""
    parameters: int | None = None
    num_features: int | None = None
    imagenet_top1: float | None = None
    pretraining_data: str = ""
    gflops: float | None = None
    license: str = ""
    features: str = ""
    images_per_second: float | None = None
    device: str = ""
    source: str = ""

    @property
    def published(self) -> bool:
        """Whether others made its numbers."""
        return bool(self.source)

    @property
    def display_name(self) -> str:
        """Its name in tables and sentences, marked where others made its numbers."""
        return f"{self.label} (published)" if self.published else self.label

    @property
    def size(self) -> str:
        """The class of its number of parameters, "" where unknown."""
        if self.parameters is None:
            return ""
        return next(name for end, name in SIZES if self.parameters < end)


@dataclasses.dataclass(frozen=True)
class Board:
    """Numbers that were made alike.

    Attributes:
      key: unique, fit for file names.
      title: for people.
      protocol: "finetune", ...; "published".
      metric: "accuracy", "accuracy_cosine", "logme", ...
      settings: what all of its numbers share; {} for published ones.
      models: the rows, [M].
      tasks: the columns, [T].
      values: [M, T]; NaN where there is none.
      n_examples: behind each value, [M, T]; 0 where unknown.
      files: the result's file, relative to the workdir, [M][T]; "" where there is none.
      correct: (row, column) -> bool [N].
      examples: (row, column) -> a fingerprint of the examples behind `correct`.
      groups: (row, column) -> int [N], equal for examples that belong together, where there are groups.
      seconds: stage -> [M, T].
      chosen: (row, column) -> what the protocol chose there.
      n_effective: of balanced accuracies, how many examples count where every class weighs the same, [M, T] (Kish's
        effective sample size: K^2 / sum of 1 / n_k over K classes).
      beside_published: whether rows of others stand beside ours, for comparison.
    """

    key: str
    title: str
    protocol: str
    metric: str
    settings: Mapping[str, Any]
    models: Sequence[Model]
    tasks: Sequence[str]
    values: np.ndarray
    n_examples: np.ndarray
    files: Sequence[Sequence[str]]
    correct: Mapping[tuple[int, int], np.ndarray] = dataclasses.field(default_factory=dict)
    examples: Mapping[tuple[int, int], str] = dataclasses.field(default_factory=dict)
    groups: Mapping[tuple[int, int], np.ndarray] = dataclasses.field(default_factory=dict)
    seconds: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    chosen: Mapping[tuple[int, int], Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    n_effective: np.ndarray | None = None
    beside_published: bool = False

    @property
    def published(self) -> bool:
        """Whether all of it was made by others."""
        return self.protocol == "published"

    @property
    def accuracy(self) -> bool:
        """Whether the values are accuracies that rank models (others only predict them)."""
        return self.metric in ("accuracy", BALANCED) or self.metric.startswith("accuracy_")

    @property
    def measure(self) -> str:
        """What its values are, in words."""
        return "balanced accuracy" if self.metric == BALANCED else "accuracy"


@dataclasses.dataclass(frozen=True)
class ReportData:
    """Everything the report is made of.

    Attributes:
      boards: of accuracies, the most telling first: fine-tuning, linear, kNN, published.
      proxies: boards whose values may predict fine-tuned accuracy.
      errors: (path relative to the workdir, record) of failed cells.
      notices: what has to be known about all of it.
      records: how many results there are.
      versions: package -> versions -> how many results.
      devices: device -> how many results.
      finished: when the first and the last result was finished (ISO 8601); None where that is not known.
    """

    boards: list[Board]
    proxies: list[Board]
    errors: list[tuple[str, Mapping[str, Any]]]
    notices: list[str]
    records: int
    versions: Mapping[str, collections.Counter[str]]
    devices: collections.Counter[str]
    finished: tuple[str, str] | None = None


def family(architecture: str) -> str:
    """A family from an architecture's name alone, for results that do not say: ``resnet50.a1_in1k`` -> resnet."""
    name = architecture.rpartition("/")[2].lower().removeprefix("test_").removeprefix("tf_")
    match = re.match(r"(?:wide_)?[a-z]+?(?:v\d)?(?=\d|_|$)", re.sub(r"[.@].*", "", name))
    return match[0].removeprefix("wide_") if match else "unknown"


def value_text(value: Any) -> str:
    """A setting for people."""
    if isinstance(value, (list, tuple)):
        return "+".join(value_text(v) for v in value)
    if value is None:
        return "not set"
    return f"{value:g}" if isinstance(value, float) else str(value)


def order_tasks(names: Iterable[str]) -> list[str]:
    """Tasks in the benchmark's order, unknown ones (folders) last."""
    known = list(tasks.TASKS)
    return sorted(set(names), key=lambda t: (known.index(t) if t in known else len(known), t))
