"""Converted models: running, saving and loading them."""

from typing import TYPE_CHECKING, Any

from vtabjax.integrity import DamagedModelError
from vtabjax.model.running import Array, apply, normalise
from vtabjax.model.saving import SavedModel, load, load_parts, save, to_state_dict, weight_hash, with_features

if TYPE_CHECKING:
    from vtabjax.model.module import Model

__all__ = [
    "DamagedModelError",
    "Array",
    "Model",
    "SavedModel",
    "apply",
    "load",
    "load_parts",
    "normalise",
    "save",
    "to_state_dict",
    "weight_hash",
    "with_features",
]


def __getattr__(name: str) -> Any:
    """`Model`, which needs Flax: neither a sweep nor a conversion does, and importing it takes half a second."""
    if name == "Model":
        from vtabjax.model.module import Model

        return Model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
