"""Converted models: running, saving and loading them."""

from vtabjax.integrity import DamagedModelError
from vtabjax.model.module import Model
from vtabjax.model.running import Array, apply, normalise
from vtabjax.model.saving import SavedModel, load, load_parts, save, to_state_dict, weight_hash, with_features

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
