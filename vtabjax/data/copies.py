"""Copies: equal pictures within the splits of a task and between them.

A test picture that was trained on says nothing about new ones, and a picture that has a copy is its nearest
neighbour. Pictures are compared as they were stored, pixel by pixel, before they are resized.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class Pictures(NamedTuple):
    """The pictures of a split.

    Attributes:
      hashes: uint64 [N], see `pixel_hash`.
      labels: int [N].
    """

    hashes: np.ndarray
    labels: np.ndarray


def pixel_hash(image: np.ndarray) -> int:
    """A hash of 64 bits over an image's size and pixels, `[H, W, C]` uint8; a grey one counts as its RGB equal.

    Two unlike checksums: nobody forges pictures here, and a cryptographic hash takes a third of the time of decoding.
    """
    height, width, channels = image.shape
    if channels == 1:
        image = np.broadcast_to(image, (height, width, 3))
    pixels = np.ascontiguousarray(image).data
    return zlib.crc32(pixels, zlib.crc32(f"{height} {width}".encode())) << 32 | zlib.adler32(pixels)


def count(splits: Mapping[str, Pictures]) -> dict[str, Any]:
    """Counts equal pictures.

    Args:
      splits: the splits by name, what is trained on first.

    Returns:
      {"within": {split: pictures that equal an earlier one of the split},
       "between": {"first+second": pictures of the second split that equal one of the first},
       "classes": different pictures that are there under more than one class}
    """
    everything = Pictures(*map(np.concatenate, zip(*splits.values(), strict=True)))
    return {
        "within": {name: len(s.hashes) - len(np.unique(s.hashes)) for name, s in splits.items()},
        "between": {
            f"{first}+{second}": int(np.isin(splits[second].hashes, splits[first].hashes).sum())
            for first, second in itertools.combinations(splits, 2)
        },
        "classes": _in_several_classes(everything),
    }


def _in_several_classes(pictures: Pictures) -> int:
    _, number = np.unique(pictures.hashes, return_inverse=True)
    pairs = np.unique(np.stack([number, pictures.labels.astype(np.int64)]), axis=1)
    return int((np.bincount(pairs[0]) > 1).sum()) if pairs.size else 0


def said(copies: Mapping[str, Any] | None) -> str:
    """What `count` found as part of a sentence; "" where there are no copies."""
    if copies is None:
        return ""
    parts = []
    for names, n in copies["between"].items():
        first, _, second = names.partition("+")
        if n:
            parts.append(f"{_pictures(n, second)} {_copies(n)} of {first} pictures")
    for name, n in copies["within"].items():
        if n:
            parts.append(f"{_pictures(n, name)} {_copies(n)} of others there")
    if n := copies["classes"]:
        parts.append(f"{_pictures(n)} {'is' if n == 1 else 'are'} in more than one class")
    return "; ".join(parts)


def _pictures(n: int, split: str = "") -> str:
    return f"{n:,} {split} picture{'s' * (n != 1)}".replace("  ", " ")


def _copies(n: int) -> str:
    return "is a copy" if n == 1 else "are copies"
