"""The tasks: VTAB's nineteen, the embedded ones, and your own pictures (folders, tables, data sets), as plain data.

A task says where its examples come from (`builder`), which of them belong to which split (`splits`) and what
the label of one is (`label`, a pure function of the data set's own fields). Splits and label rules are those
of the benchmark's released code, github.com/google-research/task_adaptation (VTAB: arXiv 1910.04867).
"""

from __future__ import annotations

import os

from vtabjax import specs
from vtabjax.tasks import _folder, _hub, _table, _tfds
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
    "is_own",
    "kitti_distance",
    "known",
    "notation",
    "ranges",
    "smallnorb_azimuth",
    "smallnorb_elevation",
    "split_texts",
    "stored_label",
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
    source = name.partition(":")[0] if is_own(name) else ""
    if source:
        if source == "tfds":
            task = _tfds.find(name, data_dir)
        else:
            task = {"folder": _folder.find, "table": _table.find, "hf": _hub.find}[source](name)
        _found[task.name] = task
        return task
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


_found: dict[str, Task] = {}


def known(name: str) -> Task | None:
    """The task of that name, if saying so takes no download and no pass over a data set; None otherwise."""
    if name.startswith(("hf:", "tfds:")):
        return _found.get(name)
    try:
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
