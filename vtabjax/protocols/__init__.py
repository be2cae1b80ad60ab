"""Protocols: pure functions from arrays (features, labels, images) to scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

_PROTOCOLS = ("finetune", "knn", "linear", "transferability")


def __getattr__(name: str) -> object:
    if name not in _PROTOCOLS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted(["Outcome", *_PROTOCOLS])


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a protocol found out.

    Attributes:
      metrics: numbers by name, "interval" as [low, high]; None where one does not apply.
      correct: bool [N], whether each example was classified correctly; None if nothing is classified.
      chosen: hyperparameters it chose, and flags about the choice.
      notes: why a number is missing, by the number's name.
      confusion: int [K, K], how many examples of class i were taken for class j; None if nothing is classified.
    """

    metrics: Mapping[str, Any]
    correct: np.ndarray | None = None
    chosen: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    confusion: np.ndarray | None = None
