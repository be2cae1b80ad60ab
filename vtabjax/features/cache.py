"""The feature cache: one file for each model, split and setting that changes features."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vtabjax import __version__
from vtabjax.runtime import files

_log = logging.getLogger(__name__)

# Logits are kept beside the features so that knn, linear and transferability share one pass. A 21,843-class
# head over a full training set would fill disks for a protocol that may never come: it is left out above this
# size.
MAX_LOGITS_BYTES = 1 << 30


class NotFiniteError(ValueError):
    """A model gave features that are not numbers."""


class Key(NamedTuple):
    """Everything that features depend on.

    Attributes:
      weights: hash of the model's variables.
      graph: hash of its graph.
      examples: fingerprint of the images.
      input_size: (channels, height, width).
      normalisation: mean and standard deviation the images are normalised with.
      dtype: dtype the model ran in.
      version: vtabjax's, whose operators made them.
      output: which of the model's outputs they are.
    """

    weights: str
    graph: str
    examples: str
    input_size: tuple[int, ...]
    normalisation: tuple[tuple[float, ...], tuple[float, ...]]
    dtype: str
    version: str = __version__
    output: str = "features"

    def text(self) -> str:
        """The key as JSON. A model's own features have the key that they had before there were others."""
        return json.dumps(self[:-1] if self.output == "features" else self)

    def digest(self) -> str:
        """The key as a file name."""
        return hashlib.sha256(self.text().encode()).hexdigest()[:20]


def load(folder: str | os.PathLike, key: Key) -> dict[str, np.ndarray] | None:
    """Cached features, or None where there are none. A file that is damaged is named and as good as none."""
    path = files.as_path(folder) / f"{key.digest()}.npz"
    try:
        with path.open("rb") as f:
            # Of a remote file: one request instead of one per member.
            whole = io.BytesIO(f.read()) if files.is_remote(folder) else f
            if files.crc32(whole) != files.SOUND:
                raise ValueError("its content has changed")
            whole.seek(0)
            with np.load(whole, allow_pickle=False) as data:
                if str(data["key"]) != key.text():
                    raise ValueError("it belongs to other images or another model")
                return {name: data[name] for name in data.files if name != "key"}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as e:
        if path.exists():
            _log.warning("features: %s is extracted again: %s", path, e)
        return None


def check_finite(features: Mapping[str, np.ndarray]) -> None:
    """Makes sure that features are numbers.

    Raises:
      NotFiniteError: a feature or logit is NaN or infinite; the message counts the rows.
    """
    for name, value in features.items():
        bad = ~np.isfinite(value).all(axis=1)
        if bad.any():
            raise NotFiniteError(
                f"{int(bad.sum())} of {len(bad)} rows of {name} are NaN or infinite (the first is row "
                f"{int(np.argmax(bad))}): the model's weights or its input range are broken"
            )


def save(folder: str | os.PathLike, key: Key, features: Mapping[str, np.ndarray]) -> None:
    """Caches the features of an output (atomically). Logits beside them are left out above `MAX_LOGITS_BYTES`.

    Raises:
      NotFiniteError: a feature or logit is NaN or infinite.
    """
    check_finite(features)
    kept: dict[str, Any] = {
        k: v for k, v in features.items() if k == "features" or v.nbytes <= MAX_LOGITS_BYTES
    }
    with files.replacing(files.as_path(folder) / f"{key.digest()}.npz") as temporary:
        with open(temporary, "w+b") as f:
            np.savez(f, key=np.array(key.text()), **kept)
            f.seek(0)
            f.write(files.crc32(f).to_bytes(4, "little"))  # readers of zip files do not mind
