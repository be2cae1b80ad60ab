"""Examples of data sets that tensorflow-datasets prepared, images encoded: the one place that reads with TensorFlow."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vtabjax import installation

if TYPE_CHECKING:
    import tensorflow_datasets as tfds


def encoded(builder: tfds.core.DatasetBuilder) -> dict[str, Any]:
    """Decoders that leave images encoded."""
    import tensorflow_datasets as tfds

    features = builder.info.features.items()
    return {k: tfds.decode.SkipDecoding() for k, f in features if isinstance(f, tfds.features.Image)}


def in_order(builder: tfds.core.DatasetBuilder, split: str) -> Iterator[dict[str, Any]]:
    """A split (in tfds's notation) of tfrecord files in the order of the files, as dicts of numpy values.

    Raises:
      MissingExtraError: TensorFlow is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    installation.require("data", f"reading {builder.data_dir}", "tensorflow")
    import tensorflow as tf
    import tensorflow_datasets as tfds

    with contextlib.suppress(RuntimeError):  # TensorFlow is in use already and has its devices
        tf.config.set_visible_devices([], "GPU")  # the accelerator belongs to JAX
    # One file after the other; the default reads sixteen at once and mixes their examples.
    config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    yield from builder.as_dataset(
        split=split, decoders=encoded(builder), read_config=config
    ).as_numpy_iterator()
