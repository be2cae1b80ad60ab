"""Your own pictures as a task: ``folder:/path``, one sub-folder per class, or train/ and test/ above them.

    /path/cat/1.jpg  /path/dog/2.jpg                      split here, by a hash of the file names
    /path/train/cat/1.jpg  /path/test/cat/2.jpg           the test set is yours (and val/, if there is one)

The hash splits are deterministic: within each class, pictures are ordered by the MD5 of their relative path in
Unicode's composed form; the last 20 % are the test split, 20 % of the others validation. Across classes the same hash
orders the whole split, so that train800 is a random sample of train.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vtabjax.tasks import _layout, _names, _tree
from vtabjax.tasks._labels import stored_label
from vtabjax.tasks._layout import Layout
from vtabjax.tasks._task import Part, PictureFile, Task, TaskError, split_texts

_SPLITS = ("train", "val", "test")


def find(name: str) -> Task:
    """The task of ``folder:/path``. A folder is looked through once per process.

    Raises:
      TaskError: there is no such folder, or it is not laid out as one sub-folder per class.
    """
    path = name.removeprefix("folder:")
    if not path.strip():
        raise TaskError(
            f"task {name!r} does not name a folder (is a shell variable unset?); write folder:/path/to/pictures"
        )
    root = os.path.abspath(os.path.expanduser(path))
    if not root.strip("/"):  # POSIX lets a path begin with two slashes
        raise TaskError(f"task {name!r} is the whole file system (is a shell variable unset?)")
    return _known(root)


def forget_folders() -> None:
    """Lets the next look-up of a folder look through it again."""
    _known.cache_clear()


@functools.lru_cache(maxsize=8)
def _known(root: str) -> Task:
    if not os.path.isdir(root):
        what = (
            "it is a file; unpack it and name its folder"
            if os.path.exists(root)
            else f"there is no folder {root}"
        )
        raise TaskError(f"task 'folder:{root}': {what}")
    tree = _tree.walk(root)
    try:
        layout = _layout.find(tree)
    except TaskError as e:
        raise TaskError(f"task 'folder:{root}': {e}") from e
    found = {split: _pictures(layout, split) for split in layout.splits}
    files = _split(found)
    sizes = {split: len(files[split]) for split in _SPLITS}
    parts = {split: (Part(split),) for split in sizes}
    return Task(
        f"folder:{root}",
        "Folder",
        f"folder:{root}",
        len(layout.classes),
        split_texts(parts, sizes),
        stored_label,
        sizes=sizes,
        parts=parts,
        class_names=tuple(layout.classes),
        majority=_majority(files["test"]),
        files={split: tuple(files[split]) for split in _SPLITS},
        problems=tree.problems,
        notes=_notes(layout, tree, found, files),
    )


def _order(file: PictureFile) -> bytes:
    return hashlib.md5(file.name.encode("utf-8", "surrogateescape")).digest()


def _shown(directory: _tree.Directory) -> Iterator[_tree.Directory]:
    """Itself and what is below, without the masks and labels that lie beside a folder of images."""
    yield directory
    has_images = any(_names.is_images(child.name) for child in directory.children)
    for child in directory.children:
        if not (has_images and _names.is_target(child.name)):
            yield from _shown(child)


def _pictures(layout: Layout, split: str) -> list[PictureFile]:
    """The pictures of a split in hash order."""
    found: list[tuple[_tree.Picture, int]] = []
    for label, cls in enumerate(layout.classes):
        for directory in layout.members.get((split, cls), ()):
            found += [(picture, label) for d in _shown(directory) for picture in d.pictures]
    n = len(layout.base.where) + 1 if layout.base.where else 0
    # Two files whose names differ in their Unicode form only are two files: each keeps the name that it has.
    taken = collections.Counter(picture.where for picture, _ in found)
    raw = len(layout.base.raw) + 1 if layout.base.raw else 0
    files = [
        PictureFile(
            p.where[n:] if taken[p.where] == 1 else p.raw[raw:],
            label,
            f"{p.size} {p.changed}",
            pathlib.Path(p.path),
        )
        for p, label in found
    ]
    return sorted(files, key=_order)


def _cut(files: Sequence[PictureFile], percent: int) -> tuple[list[PictureFile], list[PictureFile]]:
    """Splits off the last `percent` of each class, in hash order; at least one where there are two."""
    first, second = [], []
    for label in {f.label for f in files}:
        members = sorted((f for f in files if f.label == label), key=_order)
        n = len(members) * percent // 100 or min(1, len(members) - 1)
        first += members[: len(members) - n]
        second += members[len(members) - n :]
    return sorted(first, key=_order), sorted(second, key=_order)


def _split(found: Mapping[str, list[PictureFile]]) -> dict[str, list[PictureFile]]:
    """Training, validation and test pictures; what the folder does not say is cut by the hash."""
    files = dict(found)
    if _layout.ALL in files:
        files["train"], files["test"] = _cut(files.pop(_layout.ALL), 20)
    if "val" not in files:
        files["train"], files["val"] = _cut(files["train"], 20)
    return files


def _majority(files: Sequence[PictureFile]) -> float | None:
    return int(np.bincount([f.label for f in files]).max()) / len(files) if files else None


def _notes(
    layout: Layout,
    tree: _tree.Tree,
    found: Mapping[str, Sequence[PictureFile]],
    files: Mapping[str, Sequence[PictureFile]],
) -> dict[str, Any]:
    """What was found, taken for what, and left out: JSON, for a line before the work and for the results."""
    labels = [f.label for own in found.values() for f in own]
    counts = np.bincount(labels, minlength=len(layout.classes))
    smallest, largest = int(counts.argmin()), int(counts.argmax())
    notes: dict[str, Any] = {
        "classes": len(layout.classes),
        "pictures": len(labels),
        "splits": {split: len(files[split]) for split in _SPLITS},
        "smallest_class": [layout.classes[smallest], int(counts[smallest])],
        "largest_class": [layout.classes[largest], int(counts[largest])],
    }
    if alike := _names.alike(layout.classes):
        notes["classes_alike"] = alike
    if layout.base.where:
        notes["read_from"] = layout.base.where
    if _layout.ALL not in layout.splits:
        notes["taken"] = {split: layout.splits[split].where for split in _SPLITS if split in layout.splits}
    left_out = _left_out(layout, tree)
    return notes | ({"left_out": left_out} if left_out else {})


def _left_out(layout: Layout, tree: _tree.Tree) -> dict[str, Any]:
    members = [d for directories in layout.members.values() for d in directories]
    unread = sum((d.unread for m in members for d in m.below()), start=collections.Counter[str]())
    shown = {id(d) for m in members for d in _shown(m)}
    inside = {id(d) for m in members for d in m.below()}
    targets = [d for m in members for d in m.below() if id(d) not in shown]
    outside = [p.where for d in tree.root.below() if id(d) not in inside for p in d.pictures]
    left_out = {
        "unread": dict(unread.most_common()),
        "outside_classes": _first(outside),
        "masks": _first(sorted(p.where for d in targets for p in d.pictures)),
        "folders_without_pictures": _first(sorted(layout.unused)),
        "links": {link: place.where or "." for link, place in tree.again},
        "hidden": tree.hidden,
        "two_forms": _first([cls for (_, cls), ds in layout.members.items() if len(ds) > 1]),
    }
    return {name: value for name, value in left_out.items() if value}


def _first(names: Iterable[str]) -> dict[str, Any]:
    names = list(names)
    return {"count": len(names), "first": names[:3]} if names else {}
