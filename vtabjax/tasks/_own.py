"""What folders, tables and data sets of your own share: how they are cut, ordered and counted.

Cuts are deterministic: within each class, pictures are ordered by the MD5 of their names (relative paths in Unicode's
composed form, or hashes of their bytes where they have none); the last 20 % are the test split, 20 % of the others
validation. Across classes the same hash orders the whole split, so that train800 is a random sample of train.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vtabjax.tasks import _names
from vtabjax.tasks._labels import stored_label
from vtabjax.tasks._task import Part, PictureFile, Rows, Task, TaskError, split_texts

ALL = "all"  # stands for the one split of what has none of its own
_SPLITS = ("train", "val", "test")


def order(file: PictureFile) -> bytes:
    """What pictures are sorted by."""
    return hashlib.md5(file.name.encode("utf-8", "surrogateescape")).digest()


def _cut(files: Sequence[PictureFile], percent: int) -> tuple[list[PictureFile], list[PictureFile]]:
    """Splits off the last `percent` of each class, in hash order; at least one where there are two."""
    first, second = [], []
    by_class: dict[int, list[PictureFile]] = {}
    for file in files:
        by_class.setdefault(file.label, []).append(file)
    for members in by_class.values():
        members.sort(key=order)
        n = len(members) * percent // 100 or min(1, len(members) - 1)
        first += members[: len(members) - n]
        second += members[len(members) - n :]
    return sorted(first, key=order), sorted(second, key=order)


def _split(found: Mapping[str, Sequence[PictureFile]]) -> dict[str, list[PictureFile]]:
    """Training, validation and test pictures; what the data do not say is cut by the hash."""
    files = {split: sorted(own, key=order) for split, own in found.items()}
    if ALL in files:
        files["train"], files["test"] = _cut(files.pop(ALL), 20)
    if "val" not in files:
        files["train"], files["val"] = _cut(files["train"], 20)
    return files


def roles(
    names: Iterable[str], what: str, *, others: bool = False
) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Which split each of the data's own split names stands for.

    Args:
      names: as the data spell them.
      what: begins messages.
      others: names that stand for no split are left out where there is a training split, instead of refused.

    Returns:
      (name -> "train", "val", "test" or `ALL`; split -> the name that was taken for it, for the record; left out)

    Raises:
      TaskError: a name stands for no split, two for the same one, or there is no training split.
    """
    names = sorted(set(names))
    by_role: dict[str, list[str]] = {}
    unknown = [name for name in names if _names.role(name) is None]
    for name in names:
        if role := _names.role(name):
            by_role.setdefault(role, []).append(name)
    if not by_role and len(names) == 1:
        return {names[0]: ALL}, {}, []
    if unknown and not (others and "train" in by_role):
        raise TaskError(f"{what}{unknown[0]!r} is not the name of a split; call them train, val and test")
    for role, alike in by_role.items():
        if not _names.one_name(alike):
            shown = " and ".join(map(repr, alike))
            raise TaskError(
                f"{what}{shown} may both be the {role} split; keep one of them, or name them alike"
            )
    if "train" not in by_role:
        shown = " and ".join(repr(alike[0]) for alike in by_role.values())
        raise TaskError(f"{what}there is {shown} and no training split; call it train")
    if set(by_role) == {"train"}:
        return dict.fromkeys(by_role["train"], ALL), {}, unknown
    if "test" not in by_role:
        by_role["test"] = by_role.pop("val")
    taken = {role: by_role[role][0] for role in _SPLITS if role in by_role}
    return {name: role for role, alike in by_role.items() for name in alike}, taken, unknown


def task(
    name: str,
    group: str,
    found: Mapping[str, Sequence[PictureFile]],
    classes: Sequence[str],
    notes: Mapping[str, Any],
    *,
    rows: Rows | None = None,
    problems: Mapping[str, str] | None = None,
) -> Task:
    """The task of pictures.

    Args:
      name: its name, one of the own kinds.
      group: its group.
      found: the pictures of the data's own splits, "train", "val", "test" or `ALL`.
      classes: their names; a picture's label is a place in there.
      notes: what was taken for what and left out; counts are added.
      rows, problems: see `Task`.
    """
    files = _split(found)
    sizes = {split: len(files[split]) for split in _SPLITS}
    parts = {split: (Part(split),) for split in sizes}
    return Task(
        name,
        group,
        name,
        len(classes),
        split_texts(parts, sizes),
        stored_label,
        sizes=sizes,
        parts=parts,
        class_names=tuple(classes),
        majority=_majority(files["test"]),
        files={split: tuple(files[split]) for split in _SPLITS},
        rows=rows,
        problems=problems or {},
        notes={**_counts(found, classes, sizes), **notes},
    )


def _majority(files: Sequence[PictureFile]) -> float | None:
    return int(np.bincount([f.label for f in files]).max()) / len(files) if files else None


def _counts(
    found: Mapping[str, Sequence[PictureFile]], classes: Sequence[str], sizes: Mapping[str, int]
) -> dict[str, Any]:
    """What there is how often: JSON, for a line before the work and for the results."""
    labels = [f.label for own in found.values() for f in own]
    counts = np.bincount(labels, minlength=len(classes))
    smallest, largest = int(counts.argmin()), int(counts.argmax())
    notes: dict[str, Any] = {
        "classes": len(classes),
        "pictures": len(labels),
        "splits": dict(sizes),
        "smallest_class": [classes[smallest], int(counts[smallest])],
        "largest_class": [classes[largest], int(counts[largest])],
    }
    if alike := _names.alike(classes):
        notes["classes_alike"] = alike
    return notes
