"""Results: one cell (protocol, model, task) is one JSON file.

``WORKDIR/results/<protocol>/<model>/<task>.json`` holds a cell's first result; the same cell with other
settings (another k, another image size) lies beside it as ``<task>.<hash>.json``, a failure as
``<task>.<hash>.error.json``. Files appear whole or not at all, and a result that is there is never written
again.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import importlib.metadata
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from vtabjax import __version__
from vtabjax.results import _record
from vtabjax.results._cell import FORMAT, Cell, config_hash, file_name, file_stem, names
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
from vtabjax.results._summaries import ModelFolder
from vtabjax.runtime import files

__all__ = [
    "FORMAT", "Cell", "Pack", "PackError", "collect", "config_hash", "errors", "failed_before", "file_name",
    "file_stem", "find", "find_all", "find_summaries", "pack", "pack_confusion", "pack_correct", "pack_groups", "paths",
    "pivot", "read", "read_pack", "records", "save", "save_error", "unpack", "unpack_confusion", "unpack_groups",
    "versions", "with_other_settings",
]  # fmt: skip

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


def find(cell: Cell, workdir: str | Path) -> dict[str, Any] | None:
    """The cell's result with these very settings, or None. Raises ValueError for a damaged file, as `read`."""
    return _first(map(read, _paths(cell, workdir)), cell)


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


def find_summaries(
    cells: Sequence[Cell], workdir: str | Path, damaged: list[str] | None = None, *, remember: bool = True
) -> list[dict[str, Any] | None]:
    """`find_all` for tables and lists: records without predictions, confusions, versions and fingerprints.

    Those of folds are whole, which are joined example by example. Of a local workdir only files are read that are
    new or changed (another size or time) since the last call.

    Args:
      cells: the cells; those of a model are best beside each other.
      workdir: the sweep's folder.
      damaged: as in `find_all`.
      remember: write down what was read, under the workdir's cache.
    """
    if files.is_remote(workdir):
        return find_all(cells, workdir, damaged)
    found: list[dict[str, Any] | None] = []
    for (protocol, _), group in itertools.groupby(cells, key=lambda cell: (cell.protocol, cell.model)):
        of_model = list(group)
        path = of_model[0].folder(workdir)
        memory = files.as_path(workdir) / "cache" / "results" / protocol / f"{path.name}.json"
        there = ModelFolder(str(path), str(memory), read)
        for cell in of_model:
            try:
                first, second = names(cell)
                record = there.get(first)
                if record is None or record["config_hash"] != cell.hash:
                    record = there.get(second)
                found.append(None if record is None or record["config_hash"] != cell.hash else record)
            except ValueError as e:
                if damaged is None:
                    raise
                damaged.append(str(e))
                found.append(None)
        if remember:
            there.remember()
    return found


def _first(found: Iterable[dict[str, Any] | None], cell: Cell) -> dict[str, Any] | None:
    """The first of records that is the cell's."""
    return next((r for r in found if r is not None and r["config_hash"] == cell.hash), None)


def failed_before(cells: Sequence[Cell], workdir: str | Path) -> list[bool]:
    """Which cells have an error file."""
    return _are_there(cells, workdir, lambda cell: f"{file_name(cell.task)}.{cell.hash[:8]}.error.json")


def with_other_settings(cells: Sequence[Cell], workdir: str | Path) -> int:
    """How many of cells that have no result with their settings have one with others: that holds the shorter name."""
    return sum(_are_there(cells, workdir, lambda cell: names(cell)[0]))


def _are_there(cells: Sequence[Cell], workdir: str | Path, name: Callable[[Cell], str]) -> list[bool]:
    """Whether each cell's folder holds a file of that name; local folders are listed once."""
    if files.is_remote(workdir):
        with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
            return list(pool.map(lambda cell: (cell.folder(workdir) / name(cell)).exists(), cells))
    found = []
    for _, group in itertools.groupby(cells, key=lambda cell: (cell.protocol, cell.model)):
        of_model = list(group)
        there: set[str] = set()
        with contextlib.suppress(OSError):
            there = set(os.listdir(of_model[0].folder(workdir)))
        found += [name(cell) in there for cell in of_model]
    return found


def _paths(cell: Cell, workdir: str | Path) -> tuple[Path, Path]:
    folder, (first, second) = cell.folder(workdir), names(cell)
    return folder / first, folder / second


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
