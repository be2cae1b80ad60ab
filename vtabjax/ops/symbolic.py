"""Shape arithmetic: what torch.export records about the symbolic batch size. Plain integers when run."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax

__all__ = ["sym_size", "sym_numel", "sym_max", "sym_min"]


def sym_size(self: jax.Array, dim: int) -> int:
    return self.shape[dim]


def sym_numel(self: jax.Array) -> int:
    return math.prod(self.shape)


def sym_max(a: int, b: int) -> int:
    return max(a, b)


def sym_min(a: int, b: int) -> int:
    return min(a, b)


def _getitem(sequence: Sequence, item: int) -> Any:
    return sequence[item]


_OPERATORS = (
    "add",
    "sub",
    "mul",
    "floordiv",
    "truediv",
    "mod",
    "neg",
    "pow",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
)
OVERLOADS: dict[str, Callable] = {f"operator.{name}": getattr(operator, name) for name in _OPERATORS}
OVERLOADS["operator.getitem"] = _getitem
