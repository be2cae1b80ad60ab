"""More seeds after fewer: what a cell of the same workdir has found with the first of a cell's seeds is taken over.

The grid is trained and the choice made with the first seed, and a seed's retraining does not depend on the others. So
the runs in the journal of a cell that differs in nothing but the seeds after these are the runs of this one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vtabjax import results
from vtabjax.protocols import finetune
from vtabjax.results import Cell
from vtabjax.runtime import files, processes

if TYPE_CHECKING:
    from vtabjax.sweep.inputs import CellContext


class _Fewer(NamedTuple):
    """A cell with the first of the seeds that has a result: what that took, and the models it kept."""

    cell: Cell
    seconds: dict[str, float]
    models: list[str]


def take_over(
    inputs: CellContext, journal: finetune.Journal, identity: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> None:
    """Puts the runs of the cell with most of the first seeds into the journal, unless that has runs of its own.

    The cell that they come from must have its result, which says how long they took, and, where models are kept, all
    of them.

    Args:
      inputs: of the cell.
      journal: the cell's.
      identity: a cell's settings -> the identity of its journal.
    """
    workdir = inputs.loaded.sweep.workdir
    if journal.has_begun:
        return
    found = processes.broadcast_from_first(lambda: _find(inputs.cell, workdir))
    if found is None:
        return
    folder = found.cell.scratch(workdir)
    if journal.take_over(folder, identity(found.cell.settings), found.seconds):
        if processes.is_first():
            for model in found.models:
                _copy(workdir / model, inputs.folder / Path(model).name)
        n, of = (len(cell.settings["seeds"]) for cell in (found.cell, inputs.cell))
        inputs.say(f"{inputs.cell}: the grid and {n} of {of} seeds are those of an earlier result")


def _find(cell: Cell, workdir: Path) -> _Fewer | None:
    """The result with most of the first seeds whose models, if it has kept some, are all there."""
    seeds = cell.settings["seeds"]
    for n in range(len(seeds) - 1, 0, -1):
        fewer = dataclasses.replace(cell, settings={**cell.settings, "seeds": seeds[:n]}, hash="")
        record = None
        with contextlib.suppress(ValueError):  # damaged: told where it is looked for
            record = results.find(fewer, workdir)
        if record is not None:
            models = record["chosen"].get("models", [])
            if all((workdir / model / "model.json").exists() for model in models):
                return _Fewer(fewer, record["seconds"], models)
    return None


def _copy(source: Path, target: Path) -> None:
    """A kept model, without room for its weights where the file system has links: what is written stays as it is."""

    def link(one: str, other: str) -> None:
        try:
            os.link(one, other)
        except OSError:
            shutil.copy2(one, other)

    with files.replacing_folder(target) as temporary:
        shutil.copytree(source, temporary, copy_function=link, dirs_exist_ok=True)
