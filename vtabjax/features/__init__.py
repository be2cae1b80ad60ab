"""Features: one pass of a model over a split of a task, sharded over the devices and cached on disk."""

from vtabjax.features.cache import Key, NotFiniteError, check_finite, load, save
from vtabjax.features.extraction import DTYPES, Extractor, extract

extractor = Extractor  # features.extractor(parts, ...)(images)

__all__ = [
    "DTYPES",
    "Extractor",
    "Key",
    "NotFiniteError",
    "check_finite",
    "extract",
    "extractor",
    "load",
    "save",
]
