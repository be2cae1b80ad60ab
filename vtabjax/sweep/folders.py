"""A sweep's data before the work: whether it is prepared, what is said of your own pictures, and what stops them."""

from __future__ import annotations

import collections
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vtabjax import installation, specs, tasks
from vtabjax.options import UsageError
from vtabjax.results import Cell
from vtabjax.runtime import processes


def _of(cells: Sequence[Cell]) -> dict[str, Cell]:
    """Task -> a cell of it, of own tasks."""
    return {cell.task: cell for cell in cells if tasks.is_own(cell.task)}


def foretell(cells: Sequence[Cell], say: Callable[[str], None]) -> None:
    """Says what own tasks hold, without a look into their pictures."""
    from vtabjax.data import describe

    for name, cell in _of(cells).items():
        task = tasks.get(name)
        say(describe.line(task, describe.notes(task), cell.protocol, cell.settings["splits"]))


def look_through(cells: Sequence[Cell], say: Callable[[str], None], **options: Any) -> None:
    """Says what own tasks hold; the first of several processes looks through their pictures.

    Args:
      cells: those to run.
      say: writes a line.
      **options: of `vtabjax.data.look_through`.

    Raises:
      ValueError: pictures cannot be read or are too large.
    """
    from vtabjax import data
    from vtabjax.data import describe

    for name, cell in _of(cells).items():
        try:
            found = processes.broadcast_from_first(functools.partial(data.look_through, name, **options))
        except data.DataError as e:
            raise ValueError(str(e)) from e
        say(describe.line(tasks.get(name), found, cell.protocol, cell.settings["splits"]))


def group_version(task: tasks.Task, splits: Sequence[str]) -> str | None:
    """A hash that changes when pictures of some splits belong to other groups; None where there are no groups."""
    numbers = tasks.group_numbers(task)
    if numbers is None:
        return None
    return hashlib.sha256(json.dumps(_of_splits(task, splits, numbers)).encode()).hexdigest()[:16]


def _of_splits(
    task: tasks.Task, splits: Sequence[str], numbers: Mapping[str, Mapping[str, int]]
) -> list[int]:
    pieces = [r for split in splits for r in tasks.ranges(task, split)]
    return [numbers[r.split][file.name] for r in pieces for file in task.files[r.split][r.start : r.stop]]


def check_size(task: tasks.Task, protocol: str, settings: Mapping[str, Any]) -> None:
    """Raises ValueError where an own task is too small for a protocol."""
    numbers = (
        tasks.group_numbers(task) if "k" in settings else None
    )  # only neighbours are asked for their groups
    about = f"{task.name} has {task.notes['pictures']:,} pictures in {task.num_classes:,} classes"
    for split in settings["splits"]:
        files = [f for r in tasks.ranges(task, split) for f in task.files[r.split][r.start : r.stop]]
        if not files:
            raise ValueError(
                f"config.tasks: {about}, so that the split {split}, which {protocol} uses, is empty; add pictures"
            )
        group_of = range(len(files)) if numbers is None else _of_splits(task, [split], numbers)
        # What predicts an example from the others of its class cannot be right with one example per class.
        if len(settings["splits"]) == 1 and len({f.label for f in files}) == len(
            {(f.label, number) for f, number in zip(files, group_of, strict=True)}
        ):
            raise ValueError(
                f"config.tasks: {about}: none of the {len(files):,} in {split}, which {protocol} uses, has another one "
                f"of its class there{' in another group' * (numbers is not None)}; add pictures, or leave classes out"
            )
        if numbers is not None:
            largest = max(collections.Counter(group_of).values())
            if len(files) - largest < settings.get("k", 1):
                raise ValueError(
                    f"config.tasks: {about}: the largest group has {largest:,} of the {len(files):,} in {split}, which "
                    f"leaves its members {len(files) - largest:,} others; name finer groups"
                )
        if settings.get("k", 1) >= len(files):
            raise ValueError(
                f"config.k={settings['k']}: {task.name} has {len(files):,} pictures in {split}, so k must be smaller"
            )


def check_prepared(pending: Sequence[Cell], data_dir: str) -> None:
    """Makes sure that the data sets that cells read are there.

    Raises:
      UsageError: one is not; the message has the command that prepares it.
    """
    from vtabjax import data

    names = list(dict.fromkeys(cell.task for cell in pending))
    missing = {}
    for task in names:
        try:
            needed = {split for cell in pending if cell.task == task for split in cell.settings["splits"]}
            data.require_prepared(task, data_dir or None, sorted(needed))
        except data.NotPreparedError as e:
            missing[task] = str(e)
        except (data.DataError, ValueError) as e:
            raise UsageError(str(e)) from e
    if len(missing) == 1:
        raise UsageError(*missing.values())
    if missing:
        option = f" --config.data_dir={data_dir}" if data_dir else ""
        there = [task for task in names if task not in missing]
        whole = set(missing) == set(tasks.VTAB)
        which = ":vtab" if whole else f" --config.tasks={','.join(missing)}"
        raise UsageError(
            f"{len(missing)} of {len(names)} tasks have no prepared data set: {specs.listed(list(missing), 4)}\n"
            f"Prepare them with: {installation.command()} --config=configs/prepare.py{which}{option} "
            "(add --config.check=true to see sizes, and what has to be downloaded by hand)"
            + (f"\nOr run the others: --config.tasks={','.join(there)}" if there else "")
        )
