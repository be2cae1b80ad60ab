"""Whether a converted model's description is still what was written: graph.json and model.json, without the weights."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

_log = logging.getLogger(__name__)
FIELD = "artefact_hash"


class DamagedModelError(ValueError):
    """A converted model that is not what was written; the message names its folder and the way out."""

    def __init__(self, path: Path, why: str):
        super().__init__(
            f"{path}: the converted model is damaged or was edited ({why}); remove this folder and convert the model "
            "again"
        )


class Description(NamedTuple):
    """What is beside the weights.

    Attributes:
      graph: graph.json as it lies.
      info: model.json.
    """

    graph: bytes
    info: dict[str, Any]


def artefact_hash(graph: bytes, info: Mapping[str, Any]) -> str:
    """SHA-256 over graph.json and all of model.json but the hash itself, in hexadecimal."""
    fields = {name: value for name, value in info.items() if name != FIELD}
    digest = hashlib.sha256(hashlib.sha256(graph).digest())
    digest.update(json.dumps(fields, sort_keys=True).encode())
    return digest.hexdigest()


def read(path: Path) -> Description:
    """Reads graph.json and model.json of a folder and makes sure that they are what was written.

    A model that was converted before there was a hash over them is taken with a warning.

    Raises:
      DamagedModelError: they are not.
      OSError: they cannot be read.
    """
    graph = (path / "graph.json").read_bytes()
    try:
        info = json.loads((path / "model.json").read_bytes())
    except ValueError as e:
        raise DamagedModelError(path, f"model.json is not JSON: {e}") from e
    if not isinstance(info, dict):
        raise DamagedModelError(path, "model.json does not hold an object")
    if FIELD not in info:
        _log.warning(
            "%s: model.json has no %s, so it is not known whether the graph and the normalisation are what was "
            "converted; convert the model again",
            path,
            FIELD,
        )
    elif info[FIELD] != artefact_hash(graph, info):
        raise DamagedModelError(path, f"graph.json and model.json do not match the {FIELD}")
    return Description(graph, info)
