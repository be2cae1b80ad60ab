"""Cells, and the names of their files."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vtabjax import specs
from vtabjax.runtime import files
from vtabjax.specs import weight_files

FORMAT = 1


def config_hash(settings: Mapping[str, Any]) -> str:
    """A hash (16 hexadecimal digits) over the settings that can change a cell's numbers."""
    text = json.dumps({"format": FORMAT, **settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True, slots=True)  # a large sweep has half a million
class Cell:
    """One unit of a sweep.

    Attributes:
      protocol: "knn", "linear", ...
      model: the model's spec.
      task: the task's name.
      settings: every setting that can change the numbers.
      hash: the settings' `config_hash`; given where many cells have the same settings.
    """

    protocol: str
    model: str
    task: str
    settings: Mapping[str, Any]
    hash: str = dataclasses.field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.hash:
            object.__setattr__(self, "hash", config_hash(self.settings))

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


@functools.lru_cache(1 << 12)
def file_name(task: str) -> str:
    """A task's name as a file name: ``digits``; ``folder:/data/birds`` -> ``folder-birds-1f3a5c7e``."""
    if re.fullmatch(r"\w+", task):
        return task
    stem = re.sub(r"\W+", "_", Path(task.partition(":")[2] or task).name)[:100] or "root"
    return f"{task.partition(':')[0]}-{stem}-{hashlib.sha256(task.encode()).hexdigest()[:8]}"


def names(cell: Cell) -> tuple[str, str]:
    """The files that may hold a cell's result: the first one's name, and that beside one with other settings."""
    name = file_name(cell.task)
    return f"{name}.json", f"{name}.{cell.hash[:8]}.json"
