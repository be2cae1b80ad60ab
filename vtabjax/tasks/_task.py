"""What a task is, and the arithmetic of its splits."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

SPLITS = ("train", "val", "trainval", "test", "train800", "val200", "train800val200")
OWN = ("folder", "table", "hf", "tfds")  # what names of tasks on your own pictures begin with
GROUPS = ("Natural", "Specialized", "Structured", "Embedded", "Folder", "Table", "Hub", "TFDS")


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
    """A picture of a task on your own pictures.

    Attributes:
      name: path relative to the folder, with slashes, in Unicode's composed form (NFC); in data sets that name no
        files, a hash of its bytes. Cuts and orders go by it.
      label: number of its class.
      stamp: size and time of the last change, of its file or of what it lies in.
      path: where it lies; None where it is one of the task's `rows`.
      row: its number among the task's `rows`; -1 where it is a file of its own.
      group: what it shares with others (patient, video, place); "" where that is not known.
    """

    name: str
    label: int
    stamp: str
    path: pathlib.Path | None
    row: int = -1
    group: str = ""


class Rows(NamedTuple):
    """Pictures that are not files: the rows of a table or data set.

    Attributes:
      read: numbers of rows, in ascending order, -> the encoded pictures there. Raises OSError, ValueError.
      random_access: `read` takes them in any order, and one costs as much as another.
    """

    read: Callable[[Sequence[int]], Iterator[bytes]]
    random_access: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A classification task.

    Attributes:
      name: what results are filed under.
      group: one of `GROUPS`.
      builder: tfds builder string with the version that the benchmark names; "embedded"; the name of an own task.
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
      files: split -> its pictures in order, of an own task.
      rows: reads those that are not files.
      problems: path -> why it cannot be read (links to nowhere, directories without permission), of a folder.
      notes: what a folder holds, what was taken for what, what was left out; JSON.
      given: the splits that the data of an own task have themselves; the others were cut.
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
    rows: Rows | None = None
    problems: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    given: tuple[str, ...] = ()

    @property
    def chance(self) -> float:
        """Expected accuracy of a uniform guess."""
        return 1 / self.num_classes

    @property
    def own(self) -> bool:
        """Whether it is made of your own pictures: a folder, a table, a data set by name."""
        return is_own(self.name)

    @property
    def file_stem(self) -> str:
        """The name as a file name; two folders with the same last component have different ones."""
        return file_stem(self.name)


def is_own(name: str) -> bool:
    """Whether a task's name says that it is made of your own pictures: ``folder:/path``, ``table:/path/list.csv``."""
    source, colon, _ = name.partition(":")
    return bool(colon) and source in OWN


def file_stem(name: str) -> str:
    """A task's name as a file name: ``digits``; ``folder:/data/birds`` -> ``folder-birds-1f3a5c7e``."""
    if not is_own(name):
        return name
    source, _, rest = name.partition(":")
    rest = rest.rstrip("/")
    stem = re.sub(r"[^\w.-]+", "_", rest.rsplit("/", 1)[-1])[:100]
    digest = hashlib.sha256(rest.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{source}-{stem}-{digest[:8]}"


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
