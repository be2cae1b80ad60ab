"""What a task is, and the arithmetic of its splits."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

SPLITS = ("train", "val", "trainval", "test", "train800", "val200", "train800val200")
GROUPS = ("Natural", "Specialized", "Structured", "Embedded", "Folder")


class TaskError(ValueError):
    """A task or split that does not exist, or cannot be used; the message says what to write instead."""


class Part(NamedTuple):
    """A piece of a task's split: from `start` to `stop` percent of a split of the data set."""

    split: str
    start: int = 0
    stop: int = 100


class Range(NamedTuple):
    """Examples `start` to `stop` (exclusive) of a split of the data set, in its own order."""

    split: str
    start: int
    stop: int


class PictureFile(NamedTuple):
    """A picture of a folder task.

    Attributes:
      name: path relative to the folder, with slashes, in Unicode's composed form (NFC).
      label: number of its class.
      stamp: size and time of the last change.
      path: where it lies.
    """

    name: str
    label: int
    stamp: str
    path: pathlib.Path


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A classification task.

    Attributes:
      name: what results are filed under.
      group: one of `GROUPS`.
      builder: tfds builder string with the version that the benchmark names; "embedded"; "folder:/path".
      num_classes: number of classes; some may be absent from the 1,000 training examples.
      splits: split name -> which examples these are, at the published sizes, in tfds's slicing notation.
      label: an example's fields (numpy) -> its label, 0 ... num_classes - 1.
      label_fields: the example's fields that `label` reads.
      sizes: examples in each split of the data set, as published.
      parts: "train", "val", "test" -> the pieces of the data set's splits that they consist of.
      scale: what stored pixel values are multiplied by (dSprites stores 0 and 1).
      compatible_versions: further versions that hold the same examples in the same order.
      majority: share of the largest class in the test split, where known.
      manual_download: what has to be downloaded by hand, and where in the manual folder it goes.
      class_names: names of the classes, where the data set itself does not carry them.
      files: split -> its pictures in order, of a folder of pictures.
      problems: path -> why it cannot be read (links to nowhere, directories without permission), of a folder.
      notes: what a folder holds, what was taken for what, what was left out; JSON.
    """

    name: str
    group: str
    builder: str
    num_classes: int
    splits: Mapping[str, str]
    label: Callable[[Mapping[str, Any]], int]
    label_fields: tuple[str, ...] = ("label",)
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    parts: Mapping[str, tuple[Part, ...]] = dataclasses.field(default_factory=dict)
    scale: int = 1
    compatible_versions: tuple[str, ...] = ()
    majority: float | None = None
    manual_download: str = ""
    class_names: tuple[str, ...] = ()
    files: Mapping[str, tuple[PictureFile, ...]] = dataclasses.field(default_factory=dict)
    problems: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def chance(self) -> float:
        """Expected accuracy of a uniform guess."""
        return 1 / self.num_classes

    @property
    def file_stem(self) -> str:
        """The name as a file name; two folders with the same last component have different ones."""
        if not self.name.startswith("folder:"):
            return self.name
        path = self.name.removeprefix("folder:").rstrip("/")
        stem = re.sub(r"[^\w.-]+", "_", path.rsplit("/", 1)[-1])
        digest = hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()
        return f"folder-{stem}-{digest[:8]}"


# Split arithmetic.


def _take(ranges: list[Range], n: int) -> list[Range]:
    """The first `n` examples of consecutive ranges."""
    taken = []
    for r in ranges:
        size = min(n, r.stop - r.start)
        if size > 0:
            taken.append(r._replace(stop=r.start + size))
            n -= size
    return taken


def _join(ranges: list[Range]) -> list[Range]:
    """Ranges with neighbours made one, so that train[:9] + train[9:] is train."""
    joined: list[Range] = []
    for r in ranges:
        if joined and joined[-1].split == r.split and joined[-1].stop == r.start:
            joined[-1] = joined[-1]._replace(stop=r.stop)
        elif r.stop > r.start:
            joined.append(r)
    return joined


def _ranges(parts: Mapping[str, tuple[Part, ...]], split: str, sizes: Mapping[str, int]) -> list[Range]:
    def source(name: str) -> list[Range]:
        return [
            Range(p.split, sizes[p.split] * p.start // 100, sizes[p.split] * p.stop // 100)
            for p in parts[name]
        ]

    if split in parts:
        return _join(source(split))
    if split == "trainval":
        return _join(source("train") + source("val"))
    train800, val200 = _take(source("train"), 800), _take(source("val"), 200)
    return _join({"train800": train800, "val200": val200, "train800val200": train800 + val200}[split])


def ranges(task: Task, split: str, sizes: Mapping[str, int] | None = None) -> list[Range]:
    """The examples of a task's split as ranges of the data set's splits, in order.

    Args:
      task: the task.
      split: one of `SPLITS`.
      sizes: examples in each split of the prepared data set; as published by default.

    Raises:
      TaskError: there is no such split.
    """
    if split not in SPLITS:
        raise TaskError(f"split {split!r} of task {task.name} does not exist; there are {', '.join(SPLITS)}")
    return _ranges(task.parts, split, task.sizes if sizes is None else sizes)


def notation(pieces: list[Range], sizes: Mapping[str, int]) -> str:
    """Ranges in tfds's slicing notation: ``train[:800]+validation[:200]``."""

    def text(r: Range) -> str:
        start = str(r.start) if r.start else ""
        stop = str(r.stop) if r.stop < sizes[r.split] else ""
        return f"{r.split}[{start}:{stop}]" if start or stop else r.split

    return "+".join(map(text, pieces))


def split_texts(parts: Mapping[str, tuple[Part, ...]], sizes: Mapping[str, int]) -> dict[str, str]:
    """Every split of a task with these parts, in tfds's slicing notation."""
    return {split: notation(_ranges(parts, split, sizes), sizes) for split in SPLITS}
