"""Your own pictures as a task: ``folder:/path``, one sub-folder per class, or train/ and test/ above them.

    /path/cat/1.jpg  /path/dog/2.jpg                      split here, by a hash of the file names
    /path/train/cat/1.jpg  /path/test/cat/2.jpg           the test set is yours (and val/, if there is one)

The hash splits are deterministic: within each class, pictures are ordered by the MD5 of their relative path;
the last 20 % are the test split, 20 % of the others validation. Across classes the same hash orders the whole
split, so that train800 is a random sample of train.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pathlib

import numpy as np

from vtabjax.tasks._labels import stored_label
from vtabjax.tasks._task import Part, PictureFile, Task, TaskError, split_texts

_SUFFIXES = frozenset(".jpg .jpeg .png .bmp .gif .webp .tif .tiff .ppm .pgm".split())
_SPLIT_NAMES = frozenset(("train", "val", "test"))


def _order(file: PictureFile) -> bytes:
    return hashlib.md5(file.name.encode("utf-8", "surrogateescape")).digest()


def _class_names(folder: pathlib.Path) -> list[str]:
    return sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))


def _pictures(root: pathlib.Path, folder: pathlib.Path, label: int) -> list[PictureFile]:
    """The pictures in a class's folder and below."""
    files = []
    for where, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in names:
            path = pathlib.Path(where, name)
            if path.suffix.lower() in _SUFFIXES and not name.startswith("."):
                stat = path.stat()
                relative = path.relative_to(root).as_posix()
                files.append(PictureFile(relative, label, f"{stat.st_size} {stat.st_mtime_ns}"))
    return files


def _cut(files: list[PictureFile], percent: int) -> tuple[list[PictureFile], list[PictureFile]]:
    """Splits off the last `percent` of each class, in hash order; at least one where there are two."""
    first, second = [], []
    for label in {f.label for f in files}:
        members = sorted((f for f in files if f.label == label), key=_order)
        n = len(members) * percent // 100 or min(1, len(members) - 1)
        first += members[: len(members) - n]
        second += members[len(members) - n :]
    return sorted(first, key=_order), sorted(second, key=_order)


def _scan(root: pathlib.Path) -> tuple[list[str], dict[str, list[PictureFile]]]:
    """Class names, and the pictures of train, val and test."""
    if not root.is_dir():
        raise TaskError(f"task 'folder:{root}': there is no folder {root}")
    top = _class_names(root)
    own = set(_SPLIT_NAMES.intersection(top))
    if {"train", "test"} <= own:
        if extra := sorted(set(top) - _SPLIT_NAMES):
            raise TaskError(
                f"task 'folder:{root}': beside train/ and test/ there is {', '.join(extra)}; a folder holds either "
                "one sub-folder per class, or train/ and test/ (and val/) with one sub-folder per class each"
            )
        classes = _class_names(root / "train")
        for split in sorted(own - {"train"}):
            if unknown := sorted(set(_class_names(root / split)) - set(classes)):
                raise TaskError(
                    f"task 'folder:{root}': {split}/ has the classes {', '.join(unknown)}, which train/ has not"
                )
    else:
        own, classes = set(), top
    if len(classes) < 2:
        raise TaskError(
            f"task 'folder:{root}': {root / 'train' if own else root} has {len(classes)} sub-folder(s); a task "
            "needs one sub-folder with pictures per class, and at least two of them"
        )

    def pictures(folder: pathlib.Path) -> list[PictureFile]:
        found = []
        for label, cls in enumerate(classes):
            if (folder / cls).is_dir():
                found += _pictures(root, folder / cls, label)
        return sorted(found, key=_order)

    if own:
        files = {split: pictures(root / split) for split in own}
        if "val" not in files:
            files["train"], files["val"] = _cut(files["train"], 20)
    else:
        rest, test = _cut(pictures(root), 20)
        train, val = _cut(rest, 20)
        files = {"train": train, "val": val, "test": test}
    empty = set(range(len(classes))) - {f.label for f in files["train"]}
    if empty:
        raise TaskError(
            f"task 'folder:{root}': no pictures in {', '.join(classes[i] + '/' for i in sorted(empty))} "
            f"(known are {' '.join(sorted(_SUFFIXES))})"
        )
    return classes, files


def _task(root: pathlib.Path) -> Task:
    classes, files = _scan(root)
    sizes = {split: len(files[split]) for split in ("train", "val", "test")}
    parts = {split: (Part(split),) for split in sizes}
    return Task(
        f"folder:{root}",
        "Folder",
        f"folder:{root}",
        len(classes),
        split_texts(parts, sizes),
        stored_label,
        sizes=sizes,
        parts=parts,
        class_names=tuple(classes),
        majority=_majority(files["test"]),
        files={split: tuple(files[split]) for split in sizes},
    )


def _majority(files: list[PictureFile]) -> float | None:
    return int(np.bincount([f.label for f in files]).max()) / len(files) if files else None


_known = functools.lru_cache(maxsize=8)(_task)


def find(name: str) -> Task:
    """The task of ``folder:/path``. A folder is looked through once per process.

    Raises:
      TaskError: there is no such folder, or it is not laid out as one sub-folder per class.
    """
    return _known(pathlib.Path(os.path.abspath(pathlib.Path(name.removeprefix("folder:")).expanduser())))


def forget_folders() -> None:
    """Lets the next look-up of a folder look through it again."""
    _known.cache_clear()
