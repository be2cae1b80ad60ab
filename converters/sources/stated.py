"""Preprocessing that a module, a function or a file states of itself, and what is taken where it does not."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from vtabjax.specs import Spec, SpecError

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
INPUT_SIZE = (3, 224, 224)
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "hamming", "box", "random")
_PLAIN = ("license", "method", "pretraining_data")  # texts, taken as they are


def read(spec: Spec, owners: Sequence[Any]) -> tuple[dict[str, Any], list[str]]:
    """What is stated, completed by ImageNet's values.

    Args:
      spec: for messages.
      owners: mappings or objects with attributes (also those of their `pretrained_cfg`), the first that has a value
        counts.

    Returns:
      Keys of `Source.info`, and a line on everything that was not stated.

    Raises:
      SpecError: a value that cannot be meant.
    """
    tables = [table for owner in owners for table in _tables(owner)]

    def get(name: str) -> Any:
        # A method or a submodule that happens to have the name states nothing.
        values = (table.get(name) for table in tables)
        return next((v for v in values if isinstance(v, str | numbers.Number) or _is_sequence(v)), None)

    stated = {name: get(name) for name in ("input_size", "mean", "std", "interpolation")}
    info: dict[str, Any] = {
        "input_size": _size(spec, stated["input_size"]),
        **{name: _channels(spec, name, stated[name]) for name in ("mean", "std")},
        "interpolation": _interpolation(spec, stated["interpolation"]),
        "crop_pct": 1.0,
        "crop_mode": "center",
        **{name: text if isinstance(text := get(name), str) else None for name in _PLAIN},
    }
    missing = [name for name in ("mean", "std") if stated[name] is None]
    notes = []
    if missing:
        were, taken = ("was", "ImageNet's was") if len(missing) == 1 else ("were", "ImageNet's were")
        notes.append(f"{' and '.join(missing)} {were} not stated; {taken} taken")
    if stated["input_size"] is None:
        notes.append(f"input_size was not stated; {INPUT_SIZE[1]} pixels were taken")
    return info, notes


def _tables(owner: Any) -> list[Mapping[str, Any]]:
    if isinstance(owner, Mapping):
        return [owner]
    names = ("input_size", "mean", "std", "interpolation", *_PLAIN)
    own = {name: getattr(owner, name, None) for name in names}
    config = getattr(owner, "pretrained_cfg", None)
    if config is None or isinstance(config, Mapping):
        return [own, *([config] if config else [])]
    return [own, {name: getattr(config, name, None) for name in names}]


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) or type(value).__name__ in ("ndarray", "Tensor")


def _wrong(spec: Spec, name: str, value: Any, wanted: str) -> SpecError:
    return SpecError(f"model {str(spec)!r}: its {name} is {value!r}; {wanted}")


def _size(spec: Spec, value: Any) -> list[int]:
    if value is None:
        return list(INPUT_SIZE)
    sizes: list[Any] = list(value) if _is_sequence(value) else [value]
    whole = all(isinstance(n, numbers.Integral) and int(n) > 0 for n in sizes)
    if not whole or len(sizes) > 3 or (len(sizes) == 3 and sizes[0] != 3):
        raise _wrong(
            spec,
            "input_size",
            value,
            "give height and width of colour images in pixels: 224, (224, 224) or (3, 224, 224)",
        )
    height, width = [int(n) for n in (sizes * 2 if len(sizes) == 1 else sizes)[-2:]]
    return [3, height, width]


def _channels(spec: Spec, name: str, value: Any) -> list[float]:
    if value is None:
        return list(IMAGENET[name])
    wanted = "give three numbers, one for each of red, green and blue, of images in [0, 1]"
    try:
        found = [float(v) for v in (value if _is_sequence(value) else [value] * 3)]
    except (TypeError, ValueError):
        raise _wrong(spec, name, value, wanted) from None
    if len(found) != 3 or not all(math.isfinite(v) for v in found) or (name == "std" and min(found) <= 0):
        raise _wrong(spec, name, value, wanted)
    if max(found) > 1:
        raise _wrong(
            spec,
            name,
            value,
            "that looks like pixel values up to 255; images are in [0, 1]: divide it by 255",
        )
    return found


def _interpolation(spec: Spec, value: Any) -> str:
    if value is None:
        return "bilinear"
    if value not in _INTERPOLATIONS:
        raise _wrong(spec, "interpolation", value, "give bilinear or bicubic")
    return value
