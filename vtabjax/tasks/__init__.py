"""The tasks: VTAB's nineteen, the embedded ones, and folders of your own pictures, as plain data.

A task says where its examples come from (`builder`), which of them belong to which split (`splits`) and what
the label of one is (`label`, a pure function of the data set's own fields). Splits and label rules are those
of the benchmark's released code, github.com/google-research/task_adaptation (VTAB: arXiv 1910.04867).
"""

from __future__ import annotations

import os

from vtabjax import specs
from vtabjax.tasks import _folder
from vtabjax.tasks._folder import forget_folders
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
    Task,
    TaskError,
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
    "Task",
    "TaskError",
    "check_commas",
    "clevr_count",
    "clevr_distance",
    "dsprites_location",
    "dsprites_orientation",
    "forget_folders",
    "get",
    "kitti_distance",
    "notation",
    "ranges",
    "smallnorb_azimuth",
    "smallnorb_elevation",
    "split_texts",
    "stored_label",
]


def get(name: str) -> Task:
    """The task of that name; ``folder:/path`` is a folder of pictures, one sub-folder per class.

    Raises:
      TaskError: there is no such task; the message has the nearest names and the list.
    """
    if name.startswith("folder:"):
        return _folder.find(name)
    if name not in TASKS:
        near = specs.nearest(name, TASKS)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        if os.path.isdir(os.path.expanduser(name)):
            hint = f"did you mean folder:{name}? "
        raise TaskError(
            f"unknown task {name!r}; {hint}Tasks: {', '.join(TASKS)}; your own pictures: folder:/path"
        )
    return TASKS[name]


def check_commas(text: str) -> None:
    """Raises TaskError where a comma-separated list of tasks may hold a folder whose path has a comma."""
    pieces = [piece.strip() for piece in text.split(",")]
    for i, piece in enumerate(pieces):
        for j in range(i + 2, len(pieces) + 1) if piece.startswith("folder:") else ():
            whole = ",".join(pieces[i:j]).removeprefix("folder:")
            if os.path.isdir(os.path.expanduser(whole)):
                raise TaskError(
                    f"{text!r}: a comma separates tasks, and the folder {whole} has one in its path; rename it, or "
                    f"name a link to it: ln -s '{whole}' {whole.replace(',', '-').replace(' ', '-')}"
                )
