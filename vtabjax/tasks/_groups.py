"""Groups of pictures that belong together (of one patient, video, place): never on both sides of a cut.

A picture that belongs to no group is a group of its own, so that all of this holds without groups, too.
"""

from __future__ import annotations

import collections
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from vtabjax import specs
from vtabjax.tasks._task import PictureFile, TaskError

# A name such as patient12_03.jpg: what precedes the last number may be what pictures share.
_SHARED = re.compile(r"([^/]*?[A-Za-z]+[-_]?\d+)[-_. ][^/]*$")


class _Unit(NamedTuple):
    """The pictures of a group, and what groups are ordered by."""

    hash: bytes
    files: list[PictureFile]

    def counts(self) -> Mapping[int, int]:
        """How many of its pictures are of each class."""
        if len(self.files) == 1:  # nearly all, where there are no groups
            return {self.files[0].label: 1}
        return collections.Counter(file.label for file in self.files)


def order(file: PictureFile) -> bytes:
    """What pictures are sorted by."""
    return _hash(file.name)


def _hash(text: str) -> bytes:
    return hashlib.md5(text.encode("utf-8", "surrogateescape")).digest()


def key(file: PictureFile) -> tuple[str, str]:
    """Equal for the pictures of a group."""
    return (file.group, "") if file.group else ("", file.name)


def _units(files: Sequence[PictureFile]) -> list[_Unit]:
    by_key: dict[tuple[str, str], list[PictureFile]] = {}
    for file in files:
        by_key.setdefault(key(file), []).append(file)
    return sorted(_Unit(_hash(group or name), members) for (group, name), members in by_key.items())


def cut(files: Sequence[PictureFile], percent: int) -> tuple[list[PictureFile], list[PictureFile]]:
    """Splits off `percent` of each class, the last groups in the order of the hash.

    A group is taken where that brings its classes nearer to their shares. Each class keeps a group in the first part;
    one of its groups, the smallest, is taken where it would have none in the second.
    """
    units = _units(files)
    total = collections.Counter(file.label for file in files)
    share = {label: n * percent // 100 or min(1, n - 1) for label, n in total.items()}
    taken = collections.Counter[int]()
    groups_left = collections.Counter(label for unit in units for label in unit.counts())
    stay: list[_Unit] = []
    second: list[_Unit] = []

    def can_spare(own: Mapping[int, int]) -> bool:
        return all(groups_left[label] > 1 for label in own)

    def take(unit: _Unit, own: Mapping[int, int]) -> None:
        second.append(unit)
        for label, n in own.items():
            taken[label] += n
            groups_left[label] -= 1

    for unit in reversed(units):
        own = unit.counts()
        # By how much the squared distance from the shares grows.
        growth = sum(
            (2 * (taken[label] - share[label]) * n + n * n) / max(share[label], 1) for label, n in own.items()
        )
        if growth < 0 and can_spare(own):
            take(unit, own)
        else:
            stay.append(unit)
    having: dict[int, list[_Unit]] = {label: [] for label in sorted(total) if not taken[label]}
    for unit in stay if having else ():
        for label in unit.counts().keys() & having.keys():
            having[label].append(unit)
    for label, found in having.items():
        spare = [unit for unit in found if not taken[label] and can_spare(unit.counts())]
        if spare:
            smallest = min(spare, key=lambda unit: (len(unit.files), unit.hash))
            take(smallest, smallest.counts())
    moved = {id(unit) for unit in second}
    return _sorted([unit for unit in stay if id(unit) not in moved]), _sorted(second)


def _sorted(units: Sequence[_Unit]) -> list[PictureFile]:
    return sorted((file for unit in units for file in unit.files), key=order)


def folds(files: Sequence[PictureFile], n: int) -> list[list[PictureFile]]:
    """Parts of about the same size, `n` of them, with about the same share of each class.

    Groups go, large ones first and in the order of the hash, where their classes are rarest, then to the smallest part.
    """
    total = collections.Counter(file.label for file in files)
    parts: list[list[_Unit]] = [[] for _ in range(n)]
    counts = [collections.Counter[int]() for _ in range(n)]
    sizes = [0] * n
    for unit in sorted(_units(files), key=lambda unit: (-len(unit.files), unit.hash)):
        own = unit.counts()
        crowd = [sum(k * count[label] / total[label] for label, k in own.items()) for count in counts]
        to = min(range(n), key=lambda i: (crowd[i], sizes[i], i))
        parts[to].append(unit)
        counts[to].update(own)
        sizes[to] += len(unit.files)
    return [_sorted(part) for part in parts]


def by_pattern(found: Mapping[str, Sequence[PictureFile]], pattern: str) -> dict[str, list[PictureFile]]:
    """The pictures with the groups that their names say.

    Args:
      found: pictures by split.
      pattern: a regular expression that is searched in their names; its first group, if it has one, names the group.

    Raises:
      TaskError: it is no regular expression, or no name matches.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as e:
        raise TaskError(f"group='{pattern}' is not a regular expression: {e}") from e

    def group(file: PictureFile) -> str:
        match = compiled.search(file.name)
        return (match[1 if compiled.groups else 0] or "") if match else ""

    grouped = {split: [file._replace(group=group(file)) for file in own] for split, own in found.items()}
    every = [file for own in grouped.values() for file in own]
    alone = sum(not file.group for file in every)
    if alone == len(every):
        names = specs.listed(map(repr, sorted(file.name for file in every)[:3]))
        raise TaskError(
            f"group='{pattern}' matches none of its {alone:,} pictures; they are called {names}, ..."
        )
    return grouped


def check(found: Mapping[str, Sequence[PictureFile]]) -> None:
    """Raises TaskError where the data's own splits divide a group, or where there is only one."""
    splits_of: dict[str, dict[str, None]] = {}
    for split, own in found.items():
        for file in own:
            if file.group:
                splits_of.setdefault(file.group, {})[split] = None
    divided = sorted(group for group, splits in splits_of.items() if len(splits) > 1)
    if divided:
        shown = [f"{group!r} ({' and '.join(splits_of[group])})" for group in divided]
        raise TaskError(
            f"its own splits divide {len(divided):,} of {len(splits_of):,} groups: {specs.listed(shown, 3)}; what is "
            "tested was seen in training. Repair the splits, leave them out so that they are cut here, or leave the "
            "groups out"
        )
    if len(splits_of) == 1 and all(file.group for own in found.values() for file in own):
        raise TaskError(
            f"all of its pictures are in one group, {next(iter(splits_of))!r}, which is never divided"
        )


def notes(files: Sequence[PictureFile], classes: Sequence[str]) -> dict[str, Any]:
    """How many groups there are, the largest, pictures in none, classes that cannot be tested; {} without groups."""
    sizes = collections.Counter(file.group for file in files)
    alone = sizes.pop("", 0)
    if not sizes:
        return {}
    largest = min(sizes, key=lambda group: (-sizes[group], group))
    made: dict[str, Any] = {"groups": len(sizes), "largest_group": [largest, sizes[largest]]}
    if alone:
        made["in_no_group"] = alone
    groups_of: dict[int, set[tuple[str, str]]] = {}
    for file in files:
        groups_of.setdefault(file.label, set()).add(key(file))
    if single := [classes[label] for label in sorted(groups_of) if len(groups_of[label]) == 1]:
        made["classes_of_one_group"] = single
    return made


def suspected(files: Mapping[str, Collection[PictureFile]], n_classes: int) -> dict[str, Any]:
    """What names look like where pictures seem to belong together and are divided; {} where they do not.

    Args:
      files: the pictures of each split as they were cut.
      n_classes: how many classes there are. (A name that begins with its class says nothing.)
    """
    splits_of: dict[str, set[str]] = {}
    n_matching = 0
    for split, own in files.items():
        for file in own:
            if match := _SHARED.search(file.name):
                splits_of.setdefault(match[1], set()).add(split)
                n_matching += 1
    n = sum(map(len, files.values()))
    divided = sorted(shared for shared, splits in splits_of.items() if len(splits) > 1)
    if (
        2 * n_matching <= n
        or n_matching < 2 * len(splits_of)
        or len(splits_of) < 2 * n_classes
        or not divided
    ):
        return {}
    words = {re.sub(r"\d+$", "", shared) for shared in splits_of}
    pattern = rf"({re.escape(words.pop())}\d+)[-_. ]" if len(words) == 1 else _SHARED.pattern
    return {"like": divided[0], "count": len(splits_of), "divided": len(divided), "pattern": pattern}
