"""What folders, tables and data sets of your own share: how they are cut, ordered and counted.

Cuts are deterministic: within each class, pictures are ordered by the MD5 of their names (relative paths in Unicode's
composed form, or hashes of their bytes where they have none), groups by that of theirs; the last 20 % are the test
split, 20 % of the others validation, and no group is divided. Across classes the same hash orders the whole split, so
that train800 is a random sample of train.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vtabjax.tasks import _groups, _names
from vtabjax.tasks._labels import stored_label
from vtabjax.tasks._own_names import Derived
from vtabjax.tasks._task import Part, PictureFile, Rows, Task, TaskError, split_texts

ALL = "all"  # stands for the one split of what has none of its own
_SPLITS = ("train", "val", "test")


def _split(found: Mapping[str, Sequence[PictureFile]]) -> dict[str, list[PictureFile]]:
    """Training, validation and test pictures; what the data do not say is cut by the hash."""
    files = {split: sorted(own, key=_groups.order) for split, own in found.items()}
    if ALL in files:
        files["train"], files["test"] = _groups.cut(files.pop(ALL), 20)
    if "val" not in files:
        files["train"], files["val"] = _groups.cut(files["train"], 20)
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
    return Task(
        name,
        group,
        name,
        len(classes),
        label=stored_label,
        class_names=tuple(classes),
        rows=rows,
        problems=problems or {},
        given=tuple(split for split in _SPLITS if split in found),
        **_made(found, classes, notes),
    )


@functools.lru_cache(maxsize=64)
def derive(base: Task, asked: Derived) -> Task:
    """A task with groups by a regular expression, or one fold of it.

    Raises:
      TaskError: no picture is in a group, a group is divided, or there are no such folds.
    """
    found: dict[str, Sequence[PictureFile]] = {split: base.files[split] for split in base.given}
    if not base.given:
        found = {ALL: [file for split in _SPLITS for file in base.files[split]]}
    elif "val" not in base.given:
        found["train"] = (*base.files["train"], *base.files["val"])
    notes = {k: v for k, v in base.notes.items() if k not in _COUNTED}
    if asked.pattern:
        found = {**_groups.by_pattern(found, asked.pattern)}
        notes["grouped_by"] = asked.pattern
    if asked.fold:
        found = _fold(found, *asked.fold)
        notes["fold"] = list(asked.fold)
    made = _made(found, base.class_names, notes)
    return dataclasses.replace(base, name=asked.name, builder=asked.name, **made)


def _fold(
    found: Mapping[str, Sequence[PictureFile]], number: int, count: int
) -> dict[str, Sequence[PictureFile]]:
    """A part of the pictures as the test split, the others as training pictures that are still to be cut."""
    if ALL not in found:
        raise TaskError(
            f"it has the splits {', '.join(found)} of its own; folds are for data without, so leave config.folds out"
        )
    parts = _groups.folds(found[ALL], count)
    if empty := [i for i, part in enumerate(parts, 1) if not part]:
        raise TaskError(f"{count} folds are too many: number {empty[0]} would be empty; choose fewer")
    rest = [file for i, part in enumerate(parts, 1) if i != number for file in part]
    return {"train": rest, "test": parts[number - 1]}


def _made(
    found: Mapping[str, Sequence[PictureFile]], classes: Sequence[str], notes: Mapping[str, Any]
) -> dict[str, Any]:
    """The fields of a task that follow from its pictures by split."""
    _groups.check(found)
    files = _split(found)
    sizes = {split: len(files[split]) for split in _SPLITS}
    parts = {split: (Part(split),) for split in sizes}
    return {
        "splits": split_texts(parts, sizes),
        "sizes": sizes,
        "parts": parts,
        "majority": _majority(files["test"]),
        "files": {split: tuple(files[split]) for split in _SPLITS},
        "notes": {**_counts(files, classes), **notes},
    }


def _majority(files: Sequence[PictureFile]) -> float | None:
    return int(np.bincount([f.label for f in files]).max()) / len(files) if files else None


# What `_counts` says anew of every derived task.
_COUNTED = (
    *("classes", "pictures", "splits", "smallest_class", "largest_class", "classes_alike"),
    *("groups", "largest_group", "in_no_group", "classes_of_one_group", "looks_grouped"),
)


def _counts(files: Mapping[str, Sequence[PictureFile]], classes: Sequence[str]) -> dict[str, Any]:
    """What there is how often: JSON, for a line before the work and for the results."""
    every = [file for own in files.values() for file in own]
    counts = np.bincount([file.label for file in every], minlength=len(classes))
    smallest, largest = int(counts.argmin()), int(counts.argmax())
    notes: dict[str, Any] = {
        "classes": len(classes),
        "pictures": len(every),
        "splits": {split: len(files[split]) for split in _SPLITS},
        "smallest_class": [classes[smallest], int(counts[smallest])],
        "largest_class": [classes[largest], int(counts[largest])],
    }
    if alike := _names.alike(classes):
        notes["classes_alike"] = alike
    groups = _groups.notes(every, classes)
    if not groups and (looks := _groups.suspected(files, len(classes))):
        groups = {"looks_grouped": looks}
    return notes | groups
