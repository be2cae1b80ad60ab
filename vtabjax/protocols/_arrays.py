"""What every protocol asks of its input arrays; the messages name the argument, the value and the way out."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from vtabjax.runtime import memory

if TYPE_CHECKING:
    import jax

MANY = 1 << 25  # numbers of an array that several threads go through

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")


def check_memory(n_bytes: float, what: str, way_out: str, *, device: jax.Device | None = None) -> None:
    """Refuses work whose arrays cannot fit before it begins: the system would end the process in the middle of it.

    Args:
      n_bytes: what the largest arrays beyond the input take together.
      what: the work and its shape, for the message.
      way_out: what to do instead.
      device: where they are to lie; None (and CPUs): in this machine's memory.

    Raises:
      MemoryError: they take more than is free.
    """
    stats = device.memory_stats() if device is not None and device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        free, where = stats["bytes_limit"] - stats.get("bytes_in_use", 0), f"on {device}"
    else:
        free, where = memory.available(), "in memory"
    if n_bytes > free:
        raise MemoryError(
            f"{what} needs about {n_bytes / 1e9:.3g} GB beyond its input, and {free / 1e9:.3g} GB are free {where}; "
            f"{way_out}"
        )


def check_score_memory(x: np.ndarray, what: str, way_out: str) -> None:
    """`check_memory` of what a score makes of `x`: a float64 copy, a centred one, and a decomposition's factor."""
    check_memory(3 * 8 * x.size, what, way_out)


def check_features(features: ArrayLike, name: str = "features") -> np.ndarray:
    """`features` as a numpy array [N, D] of finite real numbers (its own type is kept).

    Raises:
      ValueError: not two-dimensional, empty, not real numbers, or NaN or infinite in some rows (named).
    """
    x = np.asarray(features)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(
            f"{name} has shape {x.shape}; give one row per example and one column per feature, [N, D]"
        )
    if x.dtype == bool or not (np.issubdtype(x.dtype, np.number) or x.dtype.name == "bfloat16"):
        raise ValueError(f"{name} has type {x.dtype}; give real numbers")
    if np.issubdtype(x.dtype, np.complexfloating):
        raise ValueError(f"{name} has type {x.dtype}; give real numbers")
    if not all(np.isfinite(extremes(x))):  # both hand NaN on
        # By blocks: a mask of a large array would take a quarter of its size again.
        bad = [b + np.flatnonzero(~np.isfinite(x[b : b + 4096]).all(1)) for b in range(0, len(x), 4096)]
        rows = np.concatenate(bad)
        some = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
        raise ValueError(
            f"{name} has NaN or infinite values in {len(rows)} of {len(x)} rows (rows {some}); "
            "extract them again (in float32 if it was half precision) or leave these examples out"
        )
    return x


def extremes(x: np.ndarray) -> tuple[np.generic, np.generic]:
    """The smallest and the largest number of `x` [N, ...], NaN where one is."""
    if x.size < MANY:
        return x.min(), x.max()
    step = max(1, (1 << 20) // (x.size // len(x)))
    parts = [x[start : start + step] for start in range(0, len(x), step)]
    found = np.array(list(mapped(lambda part: (part.min(), part.max()), parts, x.size)))
    return found[:, 0].min(), found[:, 1].max()


def mapped(function: Callable[[_Part], _Result], parts: Sequence[_Part], size: int) -> Iterator[_Result]:
    """`function` of each part in turn; by four threads where `size`, the numbers in all parts, is large.

    numpy lets go of the interpreter for that. Small arrays are done before threads have started.
    """
    if size < MANY:
        yield from map(function, parts)
        return
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        yield from pool.map(function, parts)


def check_labels(labels: ArrayLike, n: int, name: str = "labels") -> np.ndarray:
    """`labels` as a numpy array [N] of integers or of text; whole floating-point numbers become integers.

    Raises:
      ValueError: not one class for each of the `n` examples.
    """
    y = np.asarray(labels)
    if y.shape != (n,):
        raise ValueError(
            f"{name} has shape {y.shape} for {n} examples; give one class number per example, ({n},)"
        )
    if y.dtype == object:  # of a data frame
        missing = np.flatnonzero([v is None or type(v).__name__ == "NAType" or v != v for v in y.tolist()])
        if len(missing):
            raise ValueError(f"{name} has no class in {len(missing)} of {n} rows (the first is {missing[0]})")
        kinds = {"str" if isinstance(v, str) else type(v).__name__ for v in y.tolist()}
        if len(kinds) > 1:
            raise ValueError(f"{name} mixes {' and '.join(sorted(kinds))}; give all numbers, or all text")
        y = np.array(y.tolist())
    elif y.dtype.name.startswith("str"):  # numpy's strings of any length
        y = y.astype(np.str_)
    if np.issubdtype(y.dtype, np.floating):
        whole = np.isfinite(y) & (np.floor(y) == y) & (np.abs(y) < 2**53)
        if not whole.all():
            first = int(np.flatnonzero(~whole)[0])
            raise ValueError(f"{name} has {y[first]} in row {first}; a class number is a whole number")
        return y.astype(np.int64)
    if not (np.issubdtype(y.dtype, np.integer) or y.dtype.kind == "U"):
        raise ValueError(f"{name} has type {y.dtype}; give classes as integers or as text")
    return y


def check_same_kind(a: np.ndarray, b: np.ndarray, names: str) -> None:
    """Raises ValueError where one of two arrays of labels is text and the other numbers: no label equals any other."""
    if (a.dtype.kind == "U") != (b.dtype.kind == "U"):
        raise ValueError(f"{names}: one is text and the other numbers; give both alike")


def class_sums(x: np.ndarray, y: np.ndarray, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums over the examples of each class [C, D], and their numbers [C]."""
    sums = np.zeros((n_classes, x.shape[1]))
    np.add.at(sums, y, x)
    return sums, np.bincount(y, minlength=n_classes)


def check_task(
    features: ArrayLike, labels: ArrayLike, name: str = "features"
) -> tuple[np.ndarray, np.ndarray, int]:
    """Features in float64 [N, D], labels as 0..C-1 over the classes present [N], and C.

    Raises:
      ValueError: as `check_features` and `check_labels`, or there is only one class.
      MemoryError: the score's float64 copies would not fit.
    """
    x = check_features(features, name)
    check_labels(labels, len(x))
    check_score_memory(
        x,
        f"a score of {name} {list(x.shape)}",
        "give it fewer examples, or features of fewer principal components",
    )
    return x.astype(np.float64), *check_classes(labels, len(x))


def check_classes(labels: ArrayLike, n: int) -> tuple[np.ndarray, int]:
    """Labels as 0..C-1 over the classes present [N], and C.

    Raises:
      ValueError: as `check_labels`, or there is only one class.
    """
    classes, y = np.unique(check_labels(labels, n), return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"labels has only one class ({classes[0]}); a score needs examples of at least two")
    return y, len(classes)


def check_choice(value: str, choices: tuple[str, ...], name: str) -> str:
    """`value`, if it is one of `choices`.

    Raises:
      ValueError: it is not; the message names the choices.
    """
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown; choose {' or '.join(map(repr, choices))}")
    return value
