"""The tasks: VTAB's nineteen, the embedded ones, and your own pictures (folders, tables, data sets), as plain data.

A task says where its examples come from (`builder`), which of them belong to which split (`splits`) and what
the label of one is (`label`, a pure function of the data set's own fields). Splits and label rules are those
of the benchmark's released code, github.com/google-research/task_adaptation (VTAB: arXiv 1910.04867).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping

from vtabjax import specs
from vtabjax.tasks import _folder, _groups, _hub, _own, _own_names, _table, _tfds
from vtabjax.tasks._labels import (
    clevr_count,
    clevr_distance,
    dsprites_location,
    dsprites_orientation,
    kitti_distance,
    smallnorb_azimuth,
    smallnorb_elevation,
    stored_label,
)
from vtabjax.tasks._task import (
    GROUPS,
    SPLITS,
    Part,
    PictureFile,
    Range,
    Rows,
    Task,
    TaskError,
    is_own,
    notation,
    ranges,
    split_texts,
)
from vtabjax.tasks._vtab import EMBEDDED, TASKS, VTAB, VTAB_GROUPS

__all__ = [
    "EMBEDDED",
    "GROUPS",
    "SPLITS",
    "TASKS",
    "VTAB",
    "VTAB_GROUPS",
    "Part",
    "PictureFile",
    "Range",
    "Rows",
    "Task",
    "TaskError",
    "check_commas",
    "clevr_count",
    "clevr_distance",
    "dsprites_location",
    "dsprites_orientation",
    "forget_folders",
    "get",
    "group_numbers",
    "is_own",
    "kitti_distance",
    "known",
    "notation",
    "ranges",
    "smallnorb_azimuth",
    "smallnorb_elevation",
    "split_texts",
    "stored_label",
    "with_options",
    "without_fold",
]


def get(name: str, data_dir: str | os.PathLike | None = None) -> Task:
    """The task of that name.

    Your own pictures: ``folder:/path`` (one sub-folder per class), ``table:/path/list.csv`` (a list of pictures),
    ``hf:OWNER/NAME`` and ``hf:/path`` (a data set of the datasets library), ``tfds:name`` (one that
    tensorflow-datasets has prepared). Each is looked through once per process.

    Args:
      name: the name.
      data_dir: where tensorflow-datasets has prepared data sets. If None, what was found under that name before, or
        its own default.

    Raises:
      TaskError: there is no such task; the message has the nearest names and the list.
    """
    if is_own(name):
        return _own_task(name, data_dir)
    if name not in TASKS:
        near = specs.nearest(name, TASKS)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        if os.path.isdir(os.path.expanduser(name)):
            hint = f"did you mean folder:{name}? "
        elif os.path.isfile(os.path.expanduser(name)):
            hint = f"did you mean table:{name}? "
        raise TaskError(
            f"unknown task {name!r}; {hint}Tasks: {', '.join(TASKS)}; your own pictures: folder:/path, "
            "table:/path/list.csv, hf:OWNER/NAME, tfds:name"
        )
    return TASKS[name]


def _own_task(name: str, data_dir: str | os.PathLike | None) -> Task:
    plain, asked = _own_names.derived(name)
    source = plain.partition(":")[0]
    if source == "tfds":
        task = _tfds.find(plain, data_dir)
    else:
        task = {"folder": _folder.find, "table": _table.find, "hf": _hub.find}[source](plain)
    _found[task.name] = task
    if asked.pattern or asked.fold:
        asked = asked._replace(name=_own_names.with_options(task.name, asked.pattern, asked.fold))
        try:
            task = _own.derive(task, asked)
        except TaskError as e:
            raise TaskError(f"task {task.name!r}: {e}") from e
        _found[task.name] = task
    return task


_found: dict[str, Task] = {}


def known(name: str) -> Task | None:
    """The task of that name, if saying so takes no download and no pass over a data set; None otherwise."""
    try:
        if name.startswith(("hf:", "tfds:")) and _own_names.derived(name)[0] not in _found:
            return None
        return get(name)
    except (ValueError, OSError, RuntimeError):  # a folder that is gone, a package that is not installed
        return None


def forget_folders() -> None:
    """Lets the next look-up of own pictures look through them again."""
    _found.clear()
    _folder.known.cache_clear()
    _table.known.cache_clear()
    _hub.known.cache_clear()
    _tfds.forget()
    _own.derive.cache_clear()
    group_numbers.cache_clear()


def with_options(name: str, pattern: str = "", fold: tuple[int, int] | None = None) -> str:
    """An own task's name with groups by a regular expression (unless it names some), or as fold i of n."""
    return _own_names.with_options(name, pattern, fold)


def without_fold(name: str) -> tuple[str, tuple[int, int] | None]:
    """A task's name without a fold, and the fold (number from 1, how many); None where it is none."""
    if not is_own(name):
        return name, None
    plain, asked = _own_names.derived(name)
    return (name if asked.fold is None else _own_names.with_options(plain, asked.pattern)), asked.fold


@functools.lru_cache(maxsize=8)
def group_numbers(task: Task) -> Mapping[str, Mapping[str, int]] | None:
    """Split -> name of a picture -> number of its group; None where there are no groups.

    Pictures of a group have one number, in all splits; those that are in none have one each.
    """
    if "groups" not in task.notes:
        return None
    keys = sorted({_groups.key(file) for own in task.files.values() for file in own})
    number = {key: i for i, key in enumerate(keys)}
    return {
        split: {file.name: number[_groups.key(file)] for file in own} for split, own in task.files.items()
    }


def check_commas(text: str) -> None:
    """Raises TaskError where a comma-separated list of tasks may hold a folder or file whose path has a comma."""
    pieces = [piece.strip() for piece in text.split(",")]
    for i, piece in enumerate(pieces):
        for j in range(i + 2, len(pieces) + 1) if is_own(piece) else ():
            whole = ",".join(pieces[i:j]).partition(":")[2]
            path = os.path.expanduser(whole)
            if os.path.isdir(path) or os.path.isfile(path):
                what = "folder" if os.path.isdir(path) else "file"
                raise TaskError(
                    f"{text!r}: a comma separates tasks, and the {what} {whole} has one in its path; rename it, or "
                    f"name a link to it: ln -s '{whole}' {whole.replace(',', '-').replace(' ', '-')}"
                )
