"""What the JSON of a result or a failure has to hold, and the bits in it."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

# What a record holds: the names that must be there, those that may be, and their types.
_TEXTS = ("protocol", "model", "task", "config_hash", "finished")
_MAPPINGS = ("metrics", "seconds")
_OPTIONAL = (
    "notes",
    "chosen",
    "source",
    "device",
    "data",
    "passes",
    "input",
    "correct",
    "copies",
    "confusion",
    "groups",
    "data_notes",
)


def check(record: Mapping[str, Any], failure: bool) -> None:
    """Raises ValueError or KeyError for a record that is incomplete or has values of other types."""
    for name in (*_TEXTS, *(("stage", "message") if failure else ())):
        _of_type(record, name, str)
    for name in ("settings", "versions", *(() if failure else _MAPPINGS)):
        _of_type(record, name, dict)
    if failure:
        return
    for name in _OPTIONAL:
        if record.get(name) is not None:
            _of_type(record, name, dict)
    hashes = {name: record.get(name) for name in ("weight_hash", "graph_hash")} | dict(
        record.get("data") or {}
    )
    for name, value in hashes.items():
        if value is not None:
            _of_type(hashes, name, str)
    for name, value in record["metrics"].items():
        if name == "interval" and value is not None:
            if not (isinstance(value, list) and len(value) == 2 and all(_is_number(v, 0, 1) for v in value)):
                raise ValueError(f"metrics: {name} is {value!r}"[:200])
            continue
        least, most = (0, 1) if "accuracy" in name else (-math.inf, math.inf)
        if value is not None and not _is_number(value, least, most):
            raise ValueError(f"metrics: {name} is {value!r}")
    for name, value in record["seconds"].items():
        if not _is_number(value):
            raise ValueError(f"seconds: {name} is {value!r}")
    for split, taken in (record.get("passes") or {}).items():
        if not (isinstance(taken, dict) and all(_is_number(taken[n]) for n in ("images", "seconds"))):
            raise ValueError(f"passes: {split} is {taken!r}")
    for name, note in (record.get("notes") or {}).items():
        _of_type({name: note}, name, str)
    if (copies := record.get("copies")) is not None and not (
        isinstance(copies.get("within"), dict)
        and isinstance(copies.get("between"), dict)
        and type(copies.get("classes")) is int
    ):
        raise ValueError(f"copies is {copies!r}"[:200])
    n, correct = record["n_examples"], record.get("correct")
    if not (n is None or type(n) is int and n >= 0):
        raise ValueError(f"n_examples is {n!r}")
    if correct is not None:
        held = base64.b64decode(correct["packed"], validate=True)
        if type(n) is not int or correct["count"] != n or len(held) != -(-n // 8):
            raise ValueError("correct does not hold n_examples bits")
    confusion = record.get("confusion")
    if confusion is not None and unpack_confusion(confusion).sum() != n:
        raise ValueError("confusion does not hold n_examples examples")
    if (groups := record.get("groups")) is not None and len(unpack_groups(groups)) != n:
        raise ValueError("groups does not hold n_examples examples")


def _of_type(record: Mapping[str, Any], name: str, kind: type) -> None:
    if not isinstance(record[name], kind):
        raise ValueError(f"{name} is {record[name]!r}"[:200])


def _is_number(value: Any, least: float = -math.inf, most: float = math.inf) -> bool:
    fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    return fits and math.isfinite(value) and least <= value <= most


def pack_correct(correct: np.ndarray) -> dict[str, Any]:
    """bool [N] as JSON: eight examples a byte (the first one in the highest bit), base64, and the count."""
    bits = np.packbits(np.asarray(correct, bool))
    return {"count": len(correct), "packed": base64.b64encode(bits.tobytes()).decode()}


def unpack(packed: Mapping[str, Any]) -> np.ndarray:
    """bool [N] from what `pack_correct` made."""
    bits = np.frombuffer(base64.b64decode(packed["packed"]), np.uint8)
    return np.unpackbits(bits, count=packed["count"]).astype(bool)


def pack_confusion(confusion: np.ndarray) -> dict[str, Any]:
    """A confusion matrix, int [K, K], as JSON: 32-bit numbers row by row, compressed (zlib), base64."""
    data = zlib.compress(np.ascontiguousarray(confusion, "<u4").tobytes(), 9)
    return {"classes": len(confusion), "packed": base64.b64encode(data).decode()}


def unpack_confusion(packed: Mapping[str, Any]) -> np.ndarray:
    """The confusion matrix int64 [K, K] that `pack_confusion` packed; ValueError where it is damaged."""
    n = packed["classes"]
    if type(n) is not int or not 0 < n <= 1 << 14:
        raise ValueError(f"confusion: classes is {n!r}"[:200])
    try:
        held = zlib.decompressobj().decompress(
            base64.b64decode(packed["packed"], validate=True), 4 * n * n + 1
        )
    except zlib.error as e:
        raise ValueError(f"confusion is damaged: {e}") from e
    if len(held) != 4 * n * n:
        raise ValueError(f"confusion does not hold {n} x {n} numbers")
    return np.frombuffer(held, "<u4").reshape(n, n).astype(np.int64)


def pack_groups(groups: np.ndarray) -> dict[str, Any]:
    """Groups int [N] as JSON: how many there are, and for each example the number of its own from 0 (32 bits),
    compressed (zlib), base64."""
    names, numbers = np.unique(groups, return_inverse=True)
    data = zlib.compress(np.ascontiguousarray(numbers, "<u4").tobytes(), 9)
    return {"count": len(names), "examples": len(numbers), "packed": base64.b64encode(data).decode()}


def unpack_groups(packed: Mapping[str, Any]) -> np.ndarray:
    """The numbers int64 [N] of groups that `pack_groups` packed; ValueError where they are damaged."""
    n, count = packed["examples"], packed["count"]
    if type(n) is not int or not 0 <= n <= 1 << 31:
        raise ValueError(f"groups: examples is {n!r}"[:200])
    try:
        held = zlib.decompressobj().decompress(base64.b64decode(packed["packed"], validate=True), 4 * n + 1)
    except zlib.error as e:
        raise ValueError(f"groups is damaged: {e}") from e
    if len(held) != 4 * n:
        raise ValueError(f"groups does not hold {n} numbers")
    numbers = np.frombuffer(held, "<u4").astype(np.int64)
    if not np.array_equal(np.unique(numbers), np.arange(count if type(count) is int else -1)):
        raise ValueError(f"groups does not hold {count!r} groups"[:200])
    return numbers
