"""Your own pictures as a task: ``folder:/path``, one sub-folder per class, or train/ and test/ above them.

/path/cat/1.jpg  /path/dog/2.jpg                      split here, by a hash of the file names (see `_own`)
/path/train/cat/1.jpg  /path/test/cat/2.jpg           the test set is yours (and val/, if there is one)
"""

from __future__ import annotations

import collections
import functools
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from vtabjax.tasks import _layout, _names, _own, _tree
from vtabjax.tasks._layout import Layout
from vtabjax.tasks._task import PictureFile, Task, TaskError


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
    return known(root)


@functools.lru_cache(maxsize=8)
def known(root: str) -> Task:
    """The task of a folder by its absolute path."""
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
    return _own.task(
        f"folder:{root}",
        "Folder",
        found,
        layout.classes,
        _notes(layout, tree),
        problems=tree.problems,
    )


def _shown(directory: _tree.Directory) -> Iterator[_tree.Directory]:
    """Itself and what is below, without the masks and labels that lie beside a folder of images."""
    yield directory
    has_images = any(_names.is_images(child.name) for child in directory.children)
    for child in directory.children:
        if not (has_images and _names.is_target(child.name)):
            yield from _shown(child)


def _pictures(layout: Layout, split: str) -> list[PictureFile]:
    """The pictures of a split."""
    found: list[tuple[_tree.Picture, int]] = []
    for label, cls in enumerate(layout.classes):
        for directory in layout.members.get((split, cls), ()):
            found += [(picture, label) for d in _shown(directory) for picture in d.pictures]
    n = len(layout.base.where) + 1 if layout.base.where else 0
    # Two files whose names differ in their Unicode form only are two files: each keeps the name that it has.
    taken = collections.Counter(picture.where for picture, _ in found)
    raw = len(layout.base.raw) + 1 if layout.base.raw else 0
    return [
        PictureFile(
            p.where[n:] if taken[p.where] == 1 else p.raw[raw:],
            label,
            f"{p.size} {p.changed}",
            pathlib.Path(p.path),
        )
        for p, label in found
    ]


def _notes(layout: Layout, tree: _tree.Tree) -> dict[str, Any]:
    """What was taken for what, and left out."""
    notes: dict[str, Any] = {}
    if layout.base.where:
        notes["read_from"] = layout.base.where
    if _own.ALL not in layout.splits:
        splits = [split for split in ("train", "val", "test") if split in layout.splits]
        notes["taken"] = {split: layout.splits[split].where for split in splits}
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
