"""Results: one cell (protocol, model, task) is one JSON file.

``WORKDIR/results/<protocol>/<model>/<task>.json`` holds a cell's first result; the same cell with other
settings (another k, another image size) lies beside it as ``<task>.<hash>.json``, a failure as
``<task>.<hash>.error.json``. Files appear whole or not at all, and a result that is there is never written
again.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from vtabjax import __version__, specs
from vtabjax.results import _record
from vtabjax.results._frames import collect, pivot
from vtabjax.results._pack import Pack, PackError, pack, read_pack
from vtabjax.results._record import (
    pack_confusion,
    pack_correct,
    pack_groups,
    unpack,
    unpack_confusion,
    unpack_groups,
)
from vtabjax.runtime import files
from vtabjax.specs import weight_files

__all__ = [
    "Cell", "Pack", "PackError", "collect", "config_hash", "errors", "file_name", "find", "find_all",
    "has_other_settings", "pack", "pack_confusion", "pack_correct", "pack_groups", "paths", "pivot", "read",
    "read_pack", "records", "save", "save_error", "unpack", "unpack_confusion", "unpack_groups", "versions",
]  # fmt: skip

FORMAT = 1
_REQUESTS = 32  # to an object store at the same time
# What a result carries of its model's model.json, so that results can be grouped without the models.
SOURCE = (
    "source",
    "architecture",
    "family",
    "weights",
    "place",
    "pooling",
    "features",
    "method",
    "pretraining_data",
    "license",
    "imagenet_top1",
    "parameters",
    "gflops",
    "num_features",
    "num_classes",
    "repository",
)
_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "scipy", "tensorflow-datasets")


def config_hash(settings: Mapping[str, Any]) -> str:
    """A hash (16 hexadecimal digits) over the settings that can change a cell's numbers."""
    text = json.dumps({"format": FORMAT, **settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One unit of a sweep.

    Attributes:
      protocol: "knn", "linear", ...
      model: the model's spec.
      task: the task's name.
      settings: every setting that can change the numbers.
    """

    protocol: str
    model: str
    task: str
    settings: Mapping[str, Any]

    @functools.cached_property
    def hash(self) -> str:
        """The settings' `config_hash`."""
        return config_hash(self.settings)

    def folder(self, workdir: str | Path) -> Path:
        """Where the cell's files lie. Raises SpecError for a weight file that is gone and has no results."""
        parent = files.as_path(workdir) / "results" / self.protocol
        try:
            return parent / file_stem(self.model, str(workdir))
        except specs.SpecError:
            known = _filed(parent, self.model)
            if len(known) != 1:  # several: the file had other contents in other runs
                raise
            return known[0]

    def error_path(self, workdir: str | Path) -> Path:
        """The file that says why the cell failed, if it did."""
        return self.folder(workdir) / f"{file_name(self.task)}.{self.hash[:8]}.error.json"

    def scratch(self, workdir: str | Path) -> Path:
        """A folder for what a protocol keeps while it works (checkpoints) or beside the result (curves)."""
        name = f"{file_name(self.task)}.{self.hash[:8]}"
        return files.as_path(workdir) / "cells" / self.protocol / file_stem(self.model, str(workdir)) / name

    def __str__(self) -> str:
        return f"{self.protocol} {self.model} {self.task}"


@functools.cache
def file_stem(model: str, workdir: str) -> str:
    """`specs.file_stem`: a weight file is read once. With what the workdir remembers it may be gone."""
    return specs.file_stem(model, files.as_path(workdir) / "cache" / weight_files.STORE)


def _filed(parent: Path, model: str) -> list[Path]:
    """Folders with results of a model whose weight file, part of their name, is gone."""
    found = []
    for folder in parent.glob("*@*") if parent.exists() else ():
        for path in folder.glob("*.json"):
            with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
                if json.loads(path.read_text(encoding="utf-8"))["model"] == model:
                    found.append(folder)
                    break
    return found


def file_name(task: str) -> str:
    """A task's name as a file name: ``digits``; ``folder:/data/birds`` -> ``folder-birds-1f3a5c7e``."""
    if re.fullmatch(r"\w+", task):
        return task
    stem = re.sub(r"\W+", "_", Path(task.partition(":")[2] or task).name)[:100] or "root"
    return f"{task.partition(':')[0]}-{stem}-{hashlib.sha256(task.encode()).hexdigest()[:8]}"


def find(cell: Cell, workdir: str | Path) -> dict[str, Any] | None:
    """The cell's result with these very settings, or None. Raises ValueError for a damaged file, as `read`."""
    for path in _paths(cell, workdir):
        record = read(path)
        if record is not None and record["config_hash"] == cell.hash:
            return record
    return None


def find_all(
    cells: Sequence[Cell], workdir: str | Path, damaged: list[str] | None = None
) -> list[dict[str, Any] | None]:
    """`find` for many cells; from an object store, where each takes a round trip or three, many at a time.

    Args:
      cells: the cells.
      workdir: the sweep's folder.
      damaged: where given, files that cannot be read count as missing and are named there.
    """

    def one(cell: Cell) -> dict[str, Any] | None:
        try:
            return find(cell, workdir)
        except ValueError as e:
            if damaged is None:
                raise
            damaged.append(str(e))
            return None

    if not files.is_remote(workdir):
        return [one(cell) for cell in cells]
    with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(one, cells))


def has_other_settings(cell: Cell, workdir: str | Path) -> bool:
    """Whether a cell that has no result with its settings has one with others: that holds the shorter name."""
    return _paths(cell, workdir)[0].exists()


def _paths(cell: Cell, workdir: str | Path) -> tuple[Path, Path]:
    folder, name = cell.folder(workdir), file_name(cell.task)
    return folder / f"{name}.json", folder / f"{name}.{cell.hash[:8]}.json"


def read(path: str | Path) -> dict[str, Any] | None:
    """A record, of a result or of a failure; None where there is none.

    Raises:
      ValueError: the file is there and is no record of this format: damaged, edited, or another version's.
    """
    path = files.as_path(path)
    if files.is_remote(path) and not path.exists():  # not every store's error for that is FileNotFoundError
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']!r}, this version reads {FORMAT}")
        _record.check(record, failure=path.name.endswith(".error.json"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
        why = e.strerror if isinstance(e, OSError) else f"it lacks {e}" if isinstance(e, KeyError) else e
        raise ValueError(f"{path} is not a result of this version ({why}); move it away and run again") from e
    return record


def save(
    cell: Cell,
    workdir: str | Path,
    *,
    metrics: Mapping[str, Any],
    correct: np.ndarray | None,
    confusion: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    chosen: Mapping[str, Any] = MappingProxyType({}),
    notes: Mapping[str, str] = MappingProxyType({}),
    provenance: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> bool:
    """Writes a cell's result and removes its error file.

    Args:
      cell: which cell.
      workdir: the sweep's folder.
      metrics: numbers by name, "interval" as [low, high]; None: not applicable. A number that is not finite is
        stored as null and named in "notes".
      correct: bool [N], whether each example was classified correctly; None if nothing is classified.
      confusion: int [K, K], how many examples of class i were taken for class j; None if that is not known.
      groups: int [N], equal for examples that belong together; None if there are no groups.
      chosen: hyperparameters the protocol chose.
      notes: why a number is missing, by the number's name.
      provenance: weight hash, fingerprints, devices: what else tells where the numbers come from.
      seconds: wall seconds by stage.

    Returns:
      Whether this call wrote it; False when the same cell was there already.
    """
    finite = {k: v for k, v in metrics.items() if v is not None and np.isfinite(v).all()}
    record = {
        "format": FORMAT,
        "protocol": cell.protocol,
        "model": cell.model,
        "task": cell.task,
        "metrics": {k: finite.get(k) for k in metrics},
        "notes": {k: f"{v}" for k, v in metrics.items() if v is not None and k not in finite} | dict(notes),
        "n_examples": None if correct is None else len(correct),
        "correct": None if correct is None else pack_correct(correct),
        "confusion": None if confusion is None else pack_confusion(confusion),
        **({} if groups is None else {"groups": pack_groups(groups)}),
        "chosen": dict(chosen),
        "settings": dict(cell.settings),
        "config_hash": cell.hash,
        **provenance,
        "versions": versions(),
        "seconds": {k: round(v, 4) for k, v in seconds.items()},
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    written = False
    for path in _paths(cell, workdir):
        written = files.create_text(path, text)
        # Taken by the same cell (another worker was faster) or by the same cell with other settings?
        there = None if written else read(path)
        if written or (there is not None and there["config_hash"] == cell.hash):
            break
    cell.error_path(workdir).unlink(missing_ok=True)
    return written


def save_error(cell: Cell, workdir: str | Path, *, stage: str, message: str, traceback: str) -> Path:
    """Writes why a cell failed; returns the file."""
    path = cell.error_path(workdir)
    record = {
        "format": FORMAT,
        "protocol": cell.protocol,
        "model": cell.model,
        "task": cell.task,
        "stage": stage,
        "message": message,
        "traceback": traceback.splitlines(),
        "settings": dict(cell.settings),
        "config_hash": cell.hash,
        "versions": versions(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    files.write_text(path, json.dumps(record, indent=1) + "\n")
    return path


@functools.cache
def versions() -> dict[str, str]:
    """Versions of vtabjax and of the libraries the numbers pass through."""
    found = {"vtabjax": __version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def records(
    workdir: str | Path, protocol: str | None = None, damaged: list[str] | None = None
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """All results under a workdir (of one protocol) with their paths, in the order of the paths.

    Raises ValueError at the first damaged file, as `read`; where `damaged` is given they are named there instead.
    """
    return _readable(paths(workdir, protocol), damaged)


def _readable(found: Sequence[Path], damaged: list[str] | None) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in found:
        try:
            record = read(path)
        except ValueError as e:
            if damaged is None:
                raise
            damaged.append(str(e))
            continue
        if record is not None:
            yield path, record


def paths(workdir: str | Path, protocol: str | None = None) -> list[Path]:
    """The files of all results under a workdir (of one protocol), sorted."""
    return [p for p in _listed(workdir, f"{protocol or '*'}/*/*.json") if not p.name.endswith(".error.json")]


def errors(
    workdir: str | Path, protocol: str | None = None, damaged: list[str] | None = None
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """All failures under a workdir (of one protocol) with their paths; damaged files as in `records`."""
    return _readable(_listed(workdir, f"{protocol or '*'}/*/*.error.json"), damaged)


def _listed(workdir: str | Path, pattern: str) -> list[Path]:
    folder = files.as_path(workdir) / "results"
    found = folder.glob(pattern) if folder.exists() else ()
    return sorted(path for path in found if not path.name.startswith("."))
