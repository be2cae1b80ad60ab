"""Images and labels of a task: `load` a split whole, `stream` one in batches, `check` that it is there.

TensorFlow is imported only to prepare data sets and to read those that were prepared as tfrecord files.
"""

from vtabjax.data.loading import load, look_through, require_prepared, stream, vtab_copy
from vtabjax.data.streaming import Batch
from vtabjax.data.types import BrokenImageError, CacheError, DataError, Examples, NotPreparedError

__all__ = [
    "Batch",
    "BrokenImageError",
    "CacheError",
    "DataError",
    "Examples",
    "NotPreparedError",
    "require_prepared",
    "load",
    "look_through",
    "stream",
    "vtab_copy",
]
