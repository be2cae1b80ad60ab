"""Kernel sizes, strides and the like, which ATen takes as one number or one for each dimension."""

from __future__ import annotations

from collections.abc import Sequence

Size = int | Sequence[int]

LETTERS = {1: "W", 2: "HW", 3: "DHW"}  # of the dimensions of a signal, an image, a volume, as lax names them


def per_dimension(value: Size, rank: int) -> tuple[int, ...]:
    """`value` as `rank` numbers."""
    if isinstance(value, int):
        return (value,) * rank
    return tuple(value) * rank if len(value) == 1 else tuple(value)
